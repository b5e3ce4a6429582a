/** A batch of which each process of a group has some rows, in one piece. */

import { bytesOf } from './bytes.js';
import type { Plan } from './evaluation.js';
import type { ProcessGroup } from './group.js';
import { addon, type NativeProblem } from './native.js';
import { settled, type Twin } from './twin.js';

/** Which rows of the whole batch are this process's. */
export interface Share {
  readonly group: ProcessGroup;
  /** Rows of all processes. */
  readonly rows: number;
  /** This process's are start .. start + count - 1. */
  readonly start: number;
  readonly count: number;
}

/** `counts`: the rows of each process. */
export function shareOf(group: ProcessGroup, counts: readonly number[]): Share {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const { rank } = group;
  return { group, rows: sum(counts), start: sum(counts.slice(0, rank)), count: counts[rank] as number };
}

/** The features of all processes, of a host's memory. */
export function* gatherFeatures(
  { group, rows }: Share,
  features: Float32Array | Uint16Array,
  dim: number,
): Twin<Float32Array | Uint16Array> {
  if (features instanceof Uint16Array) {
    const whole = new Uint16Array(rows * dim);
    yield* settled(group.allGather(bytesOf(features), bytesOf(whole)));
    return whole;
  }
  const whole = addon().allocate(rows * dim);
  yield* settled(group.allGather(features, whole));
  return whole;
}

/** The plan for the rows of all processes, from each one's plan for its own. */
export function* gatherPlan(share: Share, plan: Plan): Twin<Plan> {
  const { group, rows } = share;
  const { problem, margin } = plan;
  const features = problem.features as Float32Array | Uint16Array;
  const whole = yield* gatherFeatures(share, features, problem.dim);

  // What else there is of each row goes together: labels, weights, and parameters of the margin.
  const columns: (Int32Array | Float32Array)[] = [problem.labels];
  if (problem.rowWeights) columns.push(problem.rowWeights);
  columns.push(...perRow(margin));
  const own = new Float64Array(share.count * columns.length);
  for (const [c, column] of columns.entries())
    for (let i = 0; i < column.length; i++) own[i * columns.length + c] = column[i] as number;
  const all = new Float64Array(rows * columns.length);
  yield* settled(group.allGather(own, all));
  let next = 0;
  const column = <A extends Int32Array | Float32Array>(to: A): A => {
    for (let i = 0; i < rows; i++) to[i] = all[i * columns.length + next] as number;
    next++;
    return to;
  };
  const labels = column(new Int32Array(rows));
  const weighted: Partial<NativeProblem> = problem.rowWeights
    ? { rowWeights: column(new Float32Array(rows)) }
    : {};
  return {
    ...plan,
    rows,
    margin: withPerRow(margin, () => column(new Float32Array(rows))),
    problem: { ...problem, ...weighted, features: whole, labels },
  };
}

function perRow(margin: Plan['margin']): Float32Array[] {
  if (!('parameters' in margin)) return [];
  return margin.parameters.flatMap((value) =>
    typeof value === 'object' && 'perRow' in value ? [value.perRow] : [],
  );
}

function withPerRow(margin: Plan['margin'], column: () => Float32Array): Plan['margin'] {
  if (!('parameters' in margin)) return margin;
  const parameters = margin.parameters.map((value) =>
    typeof value === 'object' && 'perRow' in value ? { perRow: column() } : value,
  );
  return { ...margin, parameters };
}

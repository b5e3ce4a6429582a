/** Few rows in which every two values of any two factors meet. */
import { seeded } from './random.js';

type Factors = Readonly<Record<string, readonly unknown[]>>;
export type Choice<F extends Factors> = { readonly [Name in keyof F]: F[Name][number] };

/**
 * Greedy: each row starts from a pair not seen yet and gives every other factor the value that meets the
 * most unseen pairs; the best of some tries is kept. The same seed gives the same rows.
 */
export function pairwise<F extends Factors>(factors: F, seed: number): Choice<F>[] {
  const names = Object.keys(factors);
  const counts = names.map((name) => factors[name]!.length);
  const random = seeded(seed);
  // Indices, not values: value v of factor f is the point 'f:v'.
  const pair = (f: number, v: number, g: number, u: number) =>
    f < g ? `${f}:${v} ${g}:${u}` : `${g}:${u} ${f}:${v}`;
  const unseen = new Set<string>();
  for (let f = 0; f < names.length; f++)
    for (let g = f + 1; g < names.length; g++)
      for (let v = 0; v < counts[f]!; v++) for (let u = 0; u < counts[g]!; u++) unseen.add(pair(f, v, g, u));

  const gain = (row: Map<number, number>, f: number, v: number) =>
    [...row].filter(([g, u]) => unseen.has(pair(f, v, g, u))).length;

  const attempt = (start: string): Map<number, number> => {
    const row = new Map(start.split(' ').map((point) => point.split(':').map(Number) as [number, number]));
    const rest = names.map((_, f) => f).filter((f) => !row.has(f));
    while (rest.length > 0) {
      const f = rest.splice(random.below(rest.length), 1)[0]!;
      let best = random.below(counts[f]!);
      for (let v = 0; v < counts[f]!; v++) if (gain(row, f, v) > gain(row, f, best)) best = v;
      row.set(f, best);
    }
    return row;
  };
  const pairsOf = (row: Map<number, number>) =>
    [...row].flatMap(([f, v]) => [...row].filter(([g]) => g > f).map(([g, u]) => pair(f, v, g, u)));
  const freshPairs = (row: Map<number, number>) => pairsOf(row).filter((key) => unseen.has(key)).length;

  const rows: Choice<F>[] = [];
  while (unseen.size > 0) {
    const start = [...unseen][random.below(unseen.size)]!;
    const tries = Array.from({ length: 10 }, () => attempt(start));
    const best = tries.reduce((a, b) => (freshPairs(b) > freshPairs(a) ? b : a));
    for (const key of pairsOf(best)) unseen.delete(key);
    rows.push(Object.fromEntries(names.map((name, f) => [name, factors[name]![best.get(f)!]])) as Choice<F>);
  }
  return rows;
}

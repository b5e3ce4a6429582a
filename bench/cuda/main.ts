/**
 * `npm run cuda:report`: what can be said of the CUDA kernels without a GPU, and whether it is within its limits. Options:
 * --help. The machine code's registers, spills and shared memory come from the compiler, its instructions from a disassembler
 * where one is found, everything else from running the PTX on the software GPU; times are predicted.
 */

import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Counters, count, ptxOf } from './counters.js';
import { architectures } from './gpus.js';
import { type Launch, launches, launchName } from './launches.js';
import { disassemble } from './machine_code.js';
import { printPredictions, printRows } from './print.js';
import { countsHold, gatesOf, type Row, rowOf, type Statics, violations } from './rows.js';
import { calls, type Prediction, predict, architectures as predicted, sizes } from './steps.js';

const usage = `npm run cuda:report -- [options]

  --json FILE     also write it to FILE
  --arch LIST     architectures (default: ${architectures.join(',')})
  --only TEXT     only kernels whose name contains TEXT; may be repeated
  --help

Fails when a kernel is beyond a limit of bench/cuda/launches.ts. Counts machine instructions too where it finds cuobjdump, or
MARGINFC_CUOBJDUMP names it.`;

export interface Report {
  readonly rows: readonly Row[];
  readonly predictions: readonly Prediction[];
  readonly violations: readonly string[];
}

/** Counts and compares; `root` is the checkout. */
export function makeReport(
  root: string,
  wanted: { readonly architectures: readonly string[]; readonly launches: readonly Launch[] },
): Report {
  const node = (script: string, ...args: string[]) =>
    execFileSync(process.execPath, [join(root, 'scripts', script), ...args], {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  node('build.mjs', 'gpusim', 'launches');
  const compiled: { image: string; statics: Record<string, Statics> } = JSON.parse(
    node('fatbin.mjs', '--statics', wanted.architectures.join(',')),
  );
  const counters = new Map<string, Counters>();
  const keyOf = (launch: Launch, ptx: string) => `${ptx} ${launch.kernel}`;
  for (const ptx of new Set(wanted.architectures.map(ptxOf))) {
    const there =
      compiled.statics[ptx] ?? compiled.statics[wanted.architectures.find((a) => ptxOf(a) === ptx) ?? ''];
    const run = wanted.launches.filter((launch) => there?.kernels[launchName(launch)] !== undefined);
    count({ root, image: compiled.image }, ptx, run).forEach((counted, i) => {
      counters.set(keyOf(run[i] as Launch, ptx), counted);
    });
  }

  const machineCode = new Map(wanted.architectures.map((arch) => [arch, disassemble(compiled.image, arch)]));
  const rows: Row[] = [];
  const wrong: string[] = [];
  for (const launch of wanted.launches)
    for (const arch of wanted.architectures) {
      const counted = countsHold(launch, arch) ? counters.get(keyOf(launch, ptxOf(arch))) : undefined;
      const row = rowOf(launch, arch, compiled.statics[arch] as Statics, counted, machineCode.get(arch));
      if (row === undefined) continue;
      rows.push(row);
      wrong.push(
        ...violations(row, gatesOf(launch, arch), counted !== undefined && launch.tile !== undefined),
      );
    }
  const predictions = predicted
    .filter((arch) => wanted.architectures.includes(arch))
    .flatMap((arch) =>
      calls.flatMap((call) =>
        sizes.map((size) => predict(call, arch, size, (launch) => counters.get(keyOf(launch, arch)))),
      ),
    );
  return {
    rows,
    predictions: predictions.filter((prediction) => prediction !== undefined),
    violations: wrong,
  };
}

function main(root: string): number {
  const { values } = parseArgs({
    options: {
      json: { type: 'string' },
      arch: { type: 'string', default: architectures.join(',') },
      only: { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const chosen = values.arch.split(',');
  const unknown = chosen.find((arch) => !architectures.includes(arch));
  const named = launches.filter(({ kernel }) => values.only.every((text) => kernel.includes(text)));
  if (unknown !== undefined || named.length === 0) {
    console.error(
      `${unknown === undefined ? 'no kernel has this name' : `--arch: ${unknown} is unknown`}\n\n${usage}`,
    );
    return 2;
  }
  const report = makeReport(root, { architectures: chosen, launches: named });
  printRows(report.rows);
  printPredictions(report.predictions);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
  console.log();
  for (const line of report.violations) console.error(`beyond its limit: ${line}`);
  console.log(
    report.violations.length === 0
      ? 'all within their limits'
      : `${report.violations.length} beyond their limits`,
  );
  return report.violations.length === 0 ? 0 : 1;
}

const program = fileURLToPath(import.meta.url);
// build/bench/cuda/main.js, or bench/cuda/main.ts where a test imports it.
if (process.argv[1] === program) process.exitCode = main(join(program, '..', '..', '..', '..'));

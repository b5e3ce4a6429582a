/** The report for people. */

import { styleText } from 'node:util';
import { table } from '../cpu/table.js';
import { sizeName } from '../size.js';
import { gpuOf } from './gpus.js';
import type { Row } from './rows.js';
import type { Prediction } from './steps.js';

const colours = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;
const bold = (text: string) => (colours ? styleText('bold', text) : text);
const fixed = (value: number | null, digits: number) => (value === null ? '-' : value.toFixed(digits));

/** A table for each architecture. */
export function printRows(rows: readonly Row[]): void {
  for (const arch of new Set(rows.map((row) => row.arch))) {
    const gpu = gpuOf(arch);
    console.log(`\n${bold(`sm_${arch}`)}${gpu ? `   predicted for ${gpu.name}` : ''}\n`);
    const heading = [
      ...['kernel', 'regs', 'spills', 'shared', 'blocks', 'PTX/mma loop', 'whole', 'machine/mma loop'],
      ...['wavefronts', 'loads', 'stores', 'L2 B/mma', 'L2', 'DRAM', 'predicted', 'bound'],
    ];
    const cells = rows
      .filter((row) => row.arch === arch)
      .map((row) => [
        row.kernel,
        String(row.registers),
        String(row.spillBytes),
        row.sharedBytes === 0 ? '0' : `${(row.sharedBytes / 1024).toFixed(0)} K`,
        String(row.blocksPerSm),
        fixed(row.ptxPerMmaLoop, 2),
        fixed(row.ptxPerMma, 2),
        fixed(row.machinePerMmaLoop, 2),
        fixed(row.wavefrontRatio, 3),
        fixed(row.sectorRatioLoad, 3),
        fixed(row.sectorRatioStore, 3),
        fixed(row.l2BytesPerMma, 1),
        fixed(row.l2Ratio, 2),
        fixed(row.dramRatio, 2),
        row.predicted === null ? '-' : `${row.predicted.toFixed(0)} %`,
        row.bound ?? '-',
      ]);
    for (const line of table(heading, cells, new Set(['kernel', 'bound']))) console.log(line);
  }
  console.log(
    [
      '',
      '  wavefronts, loads, stores: over ideal; L2, DRAM: bytes over the fewest; predicted: percent of the rate of 16-bit',
      '  products (row kernels: of DRAM) that the busiest unit allows. No GPU was timed. -: not counted.',
    ].join('\n'),
  );
}

export function printPredictions(predictions: readonly Prediction[]): void {
  if (predictions.length === 0) return;
  console.log(`\n${bold('predicted times, float16 operands, ms')}\n`);
  const heading = ['call', 'B,D,C', 'GPU', 'predicted', 'floor', 'of', 'phases'];
  const rows = predictions.map(({ call, size, gpu, milliseconds, floorMilliseconds, floorBound, phases }) => [
    ...[call, sizeName(size), gpu, milliseconds.toFixed(2), floorMilliseconds.toFixed(2), floorBound],
    phases
      .filter((phase) => phase.milliseconds > 0.02 * milliseconds)
      .map(
        (phase) =>
          `${phase.kernel.replace('_float16', '')} ${phase.milliseconds.toFixed(2)} (${phase.bound})`,
      )
      .join(', '),
  ]);
  for (const line of table(heading, rows, new Set(['call', 'B,D,C', 'GPU', 'of', 'phases'])))
    console.log(line);
}

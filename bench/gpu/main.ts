/**
 * `npm run gpu:check`: validates the cuda engine on this machine's GPU, measures its kernels, and writes a report that a user
 * can send. Options: --help. On the software device (MARGINFC_LIBCUDA) it validates alone.
 */

import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { listEngines } from 'marginfc';
import { addon } from '../cpu/addon.js';
import { describeMachine } from '../cpu/machine.js';
import { parseSize, sizeName } from '../size.js';
import { validate } from './checks.js';
import { agreement, type Measured, measure, precisions } from './measure.js';

const usage = `npm run gpu:check -- [options]

  --device NAME   cuda:N (default: the first GPU that can be used)
  --sizes LIST    B,D,C;B,D,C;... to measure (default 512,512,131072;512,512,1048576;128,256,131072)
  --report FILE   where the report goes (default marginfc-gpu-report.json)
  --no-tests      only measure
  --help`;

process.exitCode = await main();

interface Options {
  readonly device: string | undefined;
  readonly sizes: string;
  readonly report: string;
  readonly 'no-tests': boolean;
  readonly help: boolean;
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      device: { type: 'string' },
      sizes: { type: 'string', default: '512,512,131072;512,512,1048576;128,256,131072' },
      report: { type: 'string', default: 'marginfc-gpu-report.json' },
      'no-tests': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  return { device: undefined, ...values };
}

async function main(): Promise<number> {
  const options = readOptions();
  if (options.help) {
    console.log(usage);
    return 0;
  }
  const rows = listEngines().filter(({ name }) => name.startsWith('cuda'));
  const asked = rows.filter(({ name }) => options.device === undefined || name === options.device);
  const gpu = asked.find((row) => row.available);
  if (gpu === undefined || !gpu.available) {
    const reasons = asked.map((row) => `${row.name}: ${row.available ? '' : row.reason}`);
    console.error(
      `no GPU can be checked:\n  ${reasons.join('\n  ') || `there is no ${options.device} here`}`,
    );
    return 1;
  }
  const software = gpu.detail.startsWith('gpusim ');
  const { kernels, driver } = addon().describeCuda();
  console.log(`${gpu.name}: ${gpu.detail}\ndriver for CUDA ${driver}; kernels: ${kernels}\n`);

  const tests = options['no-tests'] ? undefined : validate();
  const results: Measured[] = [];
  // The software device has no clock, and is slow: a size that crosses the edges of tiles will do.
  for (const size of (software ? '130,72,700' : options.sizes).split(';').map(parseSize))
    for (const precision of precisions(gpu.name)) {
      const agrees = await agreement(gpu.name, size, precision);
      console.log(
        `\nB,D,C = ${sizeName(size)}, ${precision}: ${agrees.failure ?? 'agrees with the cpu engine'}`,
      );
      const measured = software || agrees.failure ? {} : await measure(gpu.name, size, precision);
      results.push({ size, precision, ...agrees, ...measured });
      print(results[results.length - 1] as Measured);
    }
  if (software) console.log('\nNo times are given: this is the software device.');

  const report = { machine: describeMachine(), engines: rows, kernels, driver, tests, results };
  writeFileSync(options.report, `${JSON.stringify(report, null, 2)}\n`);
  const failures = [tests?.native, tests?.engine].some((part) => part !== undefined && part.failed > 0);
  const failed = failures || results.some(({ failure }) => failure !== undefined);
  console.log(`\n${failed ? 'FAILED' : 'All is well'}; the report is in ${options.report}`);
  return failed ? 1 : 0;
}

function print({ calls, kernels }: Measured): void {
  for (const { call, milliseconds, spread, teraflops } of calls ?? [])
    console.log(
      `  ${call.padEnd(28)} ${milliseconds.toFixed(3).padStart(10)} ms ± ${(100 * spread).toFixed(0)} %` +
        `  ${teraflops.toFixed(1).padStart(7)} TFLOP/s`,
    );
  for (const { kernel, launches, milliseconds, teraflops } of kernels ?? [])
    console.log(
      `  ${kernel.padEnd(28)} ${milliseconds.toFixed(3).padStart(10)} ms in ${launches} launches` +
        (teraflops === undefined ? '' : `  ${teraflops.toFixed(1).padStart(7)} TFLOP/s`),
    );
}

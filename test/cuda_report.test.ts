/** `npm run cuda:report`: what it counts on a small launch, what it makes of the counts, and what it refuses. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { type Counters, count } from '../bench/cuda/counters.js';
import { blocksPerMultiprocessor, gpuOf } from '../bench/cuda/gpus.js';
import { type Launch, launches } from '../bench/cuda/launches.js';
import { loopInstructions } from '../bench/cuda/machine_code.js';
import { bindingOf, clocksOf } from '../bench/cuda/predict.js';
import { gatesOf, type Row, rowOf, type Statics, tileBytesPerMma, violations } from '../bench/cuda/rows.js';
import { calls, predict } from '../bench/cuda/steps.js';
import { readStatics } from '../scripts/lib/statics.cjs';

const root = join(import.meta.dirname, '..');

const launchOf = (name: string): Launch => {
  const found = launches.find(({ kernel }) => kernel === name);
  if (found === undefined) throw new Error(`there is no launch of ${name}`);
  return found;
};
const negatives = launchOf('negatives_float16');

/** As the compiler might have it. */
const statics: Statics = {
  kernels: { negatives_float16: { registers: 230, spillBytes: 0, sharedBytes: 0, threads: 128 } },
  variables: { tile_bytes_float16: 65536 },
};

test('what ptxas says is read for each kernel and architecture', () => {
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-statics-'));
  try {
    const ptx = [
      '.global .align 4 .u32 tile_bytes_float16 = 49152;',
      '.visible .entry plain(',
      '.param .align 8 .b8 plain_param_0[64]',
      ')',
      '.maxntid 256, 1, 1',
      '{ }',
      '.visible .entry waiting(',
      ')',
      '.maxntid 384, 1, 1',
      '{ }',
    ];
    writeFileSync(join(folder, 'kernels.compute_90a.ptx'), ptx.join('\n'));
    const said = (name: string, spills: number, shared: string) => [
      `ptxas info    : Compiling entry function '${name}' for 'sm_90a'`,
      `ptxas info    : Function properties for ${name}`,
      `    0 bytes stack frame, ${spills} bytes spill stores, ${spills + 4} bytes spill loads`,
      `ptxas info    : Used 64 registers, used 1 barriers, ${shared}552 bytes cmem[0]`,
    ];
    const output = [
      ...said('plain', 4, '9216 bytes smem, '),
      "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'waiting'",
      ...said('waiting', 0, ''),
    ].join('\n');
    expect(readStatics(output, folder, 'kernels', ['90a'])).toEqual({
      '90a': {
        kernels: {
          plain: { registers: 64, spillBytes: 12, sharedBytes: 9216, threads: 256 },
          waiting: { registers: 64, spillBytes: 4, sharedBytes: 0, threads: 384, serialized: true },
        },
        variables: { tile_bytes_float16: 49152 },
      },
    });
    expect(() => readStatics('', folder, 'kernels', ['90a'])).toThrow(
      'ptxas said nothing of plain for sm_90a',
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

describe('machine instructions', () => {
  const listing = (kernels: Readonly<Record<string, readonly string[]>>) =>
    Object.entries(kernels)
      .flatMap(([name, code]) => [
        `\t\tFunction : ${name}`,
        `\t.headerflags\t@"EF_CUDA_SM80"`,
        ...code.flatMap((text, k) => [
          `        /*${(16 * k).toString(16).padStart(4, '0')}*/                   ${text} ;      /* 0x00000a00ff017624 */`,
          `                                                                        /* 0x000fe400078e00ff */`,
        ]),
      ])
      .join('\n');

  test('of the innermost loop that multiplies, with a part of it that lies before it', () => {
    // Tiles from 0x10 to 0xb0; in each, steps from 0x50 to 0xa0, which at times go through the copies of 0x20 and 0x30.
    const tiled = [
      ...['MOV R1, c[0x0][0x28]', 'BRA 0x50', 'LDGSTS.E.128 [R8], [R2.64]', 'IADD3 R2, R2, 0x40, RZ'],
      ...['BRA 0x80', 'LDSM.16.M88.4 R4, [R9]', 'HMMA.16816.F32 R16, R4, R6, R16', '@P1 BRA 0x20'],
      ...['HMMA.16816.F32.BF16 R20, R4, R7, R20', 'IADD3 R9, R9, 0x80, RZ', '@P0 BRA 0x50'],
      ...['@!P2 BRA 0x10', 'EXIT', 'BRA 0xd0'],
    ];
    const turing = ['HMMA.1688.F32 R0, R4, R5, R0', 'HMMA.1688.F32 R0, R6, R7, R0', '@P0 BRA 0x0', 'EXIT'];
    const grouped = ['HGMMA.64x128x16.F32 R24, gdesc[UR8], R24', '@P0 BRA 0x0', 'EXIT'];
    const found = loopInstructions(
      listing({ tiled, turing, grouped, rows: ['FADD R0, R0, R1', '@P0 BRA 0x0', 'EXIT'] }),
    );
    expect(Object.fromEntries(found)).toEqual({ tiled: 9 / 2, turing: 3, grouped: 2 / 16 });
  });

  test('are not counted where nothing repeats', () => {
    expect(loopInstructions(listing({ once: ['HMMA.16816.F32 R0, R4, R6, R0', 'EXIT'] })).size).toBe(0);
  });
});

describe('blocks of a multiprocessor', () => {
  test.each([
    ['registers bind', '80', { registers: 255, threads: 128, sharedBytes: 1024 }, 2],
    ['shared memory binds', '80', { registers: 128, threads: 128, sharedBytes: 65536 }, 2],
    ['shared memory binds, of 100 KiB', '86', { registers: 128, threads: 128, sharedBytes: 49152 }, 2],
    [
      'shared memory binds, none of it reserved',
      '75',
      { registers: 64, threads: 128, sharedBytes: 32768 },
      2,
    ],
    ['warps bind', '89', { registers: 32, threads: 256, sharedBytes: 0 }, 6],
    ['blocks bind', '75', { registers: 32, threads: 32, sharedBytes: 0 }, 16],
    ['nothing fits', '75', { registers: 32, threads: 32, sharedBytes: 65664 }, 0],
  ] as const)('%s', (_, arch, kernel, blocks) => {
    expect(blocksPerMultiprocessor(arch, kernel)).toBe(blocks);
  });
});

describe('the fewest bytes of an mma', () => {
  test.each([
    ['a tile of 128 x 128', { rows: 128, columns: 128, halves: 1 }, 64],
    ['two halves, three products', { rows: 128, columns: 128, halves: 2 }, 128 / 3],
    ['whole rows of 512', { rows: 64, columns: 512, halves: 1 }, 72],
  ] as const)('%s', (_, tile, bytes) => {
    expect(tileBytesPerMma(tile)).toBeCloseTo(bytes, 10);
  });
});

describe('a launch on the software GPU', () => {
  let counters: Counters;
  let row: Row;
  beforeAll(() => {
    const script = (name: string, ...args: string[]) =>
      execFileSync(process.execPath, [join(root, 'scripts', name), ...args], { encoding: 'utf8' });
    script('build.mjs', 'gpusim', 'launches');
    const { image }: { image: string } = JSON.parse(script('fatbin.mjs', '--statics', ''));
    counters = count({ root, image }, '80', [
      { ...negatives, size: { B: 128, D: 128, C: 256 } },
    ])[0] as Counters;
    row = rowOf(negatives, '80', statics, counters) as Row;
  });

  test('multiplies as often as the size says', () => {
    expect(counters.tensorFlops).toBe(2 * 128 * 128 * 256);
  });

  test('loads operands in whole sectors and without bank conflicts', () => {
    expect(row.sectorRatioLoad).toBe(1);
    expect(row.wavefrontRatio).toBe(1);
    expect(row.l2BytesPerMma).toBe(64);
  });

  test('spends fewer instructions in the loop than in all', () => {
    expect(row.ptxPerMmaLoop).toBeGreaterThan(1.4);
    expect(row.ptxPerMmaLoop).toBeLessThan(row.ptxPerMma ?? 0);
  });

  test('is predicted by the same formula and constants as in test/gpusim', () => {
    const gpu = gpuOf('80');
    if (gpu === undefined) throw new Error('no GPU');
    const { mma, issue, shared, exp2, l2, dram } = clocksOf(counters, gpu, counters.bytesTouched);
    const { tensor, special, ...others } = counters.predictedClocks;
    const close = (value: number, to: number) => expect(value / to).toBeCloseTo(1, 3);
    close(mma, tensor);
    close(exp2, special);
    close(issue, others.issue);
    close(shared, others.shared);
    close(l2, others.l2);
    close(dram, others.dram);
  });

  test('would read both operands of each wgmma from shared memory', () => {
    const gpu = gpuOf('90a');
    if (gpu === undefined) throw new Error('no GPU');
    // One 64 x 128 x 16 product of four warps.
    const one = { ...counters, instructions: { wgmma: 4 }, tensorFlops: 2 * 64 * 128 * 16, bulkBytes: 0 };
    const none = { ...one, instructions: {} };
    const shared = (of: Counters) => clocksOf(of, gpu, 0).shared * gpu.multiprocessors;
    expect(shared(one) - shared(none)).toBeCloseTo((2 * 16 * (64 + 128)) / 128, 6);
  });

  test('is predicted with the kernels that an H100 runs, where these were counted', () => {
    const call = calls[0];
    if (call === undefined) throw new Error('no calls');
    const kernels = (B: number, counted: (launch: Launch) => boolean) =>
      predict(call, '90a', { B, D: 512, C: 1000 }, (launch) => (counted(launch) ? counters : undefined))
        ?.phases.map(({ kernel }) => kernel)
        .filter((kernel) => kernel.includes('weights_product'));
    expect(kernels(512, () => true)).toEqual(['hopper_weights_product_float16']);
    expect(kernels(1024, () => true)).toEqual(['hopper_weights_product_wide_float16']);
    expect(kernels(1024, ({ kernel }) => !kernel.startsWith('hopper_'))).toEqual(['weights_product_float16']);
  });

  test('gives a call that needs more launches no prediction', () => {
    const call = calls[0];
    if (call === undefined) throw new Error('no calls');
    const of = (launch: Launch) => (launch === negatives ? counters : undefined);
    expect(predict(call, '80', negatives.size, of)).toBe(undefined);
    // With the same counters for everything there is one, and never below its parts.
    const whole = predict(call, '80', negatives.size, () => counters);
    expect(whole?.phases.length).toBe(call.phases.length);
    expect(whole?.milliseconds).toBeGreaterThan(whole?.floorMilliseconds ?? 0);
  });
});

describe('limits', () => {
  const row: Row = {
    ...{ kernel: 'negatives_float16', arch: '80', registers: 230, spillBytes: 0, sharedBytes: 65536 },
    ...{
      blocksPerSm: 2,
      serialized: 0,
      ptxPerMmaLoop: 2,
      ptxPerMma: 2.6,
      machinePerMmaLoop: null,
      wavefrontRatio: 1,
      sectorRatioLoad: 1,
    },
    ...{ sectorRatioStore: 1, l2BytesPerMma: 64, l2Ratio: 1, dramRatio: 1, predicted: 99, bound: 'mma' },
  };
  const limits = gatesOf(negatives, '80');
  const wrong = (changes: Partial<Row>) => violations({ ...row, ...changes }, limits, true);

  test('hold for a kernel within them', () => {
    expect(wrong({})).toEqual([]);
  });

  test.each([
    [{ registers: 256 }, 'registers is 256, must be at most 255'],
    [{ spillBytes: 8 }, 'spillBytes is 8, must be at most 0'],
    [{ sharedBytes: 98304 }, 'sharedBytes is 98304, must be at most 81920'],
    [{ blocksPerSm: 1 }, 'blocksPerSm is 1, must be at least 2'],
    [{ ptxPerMmaLoop: 2.16 }, 'ptxPerMmaLoop is 2.160, must be at most 2.15'],
    [{ ptxPerMma: 2.71 }, 'ptxPerMma is 2.710, must be at most 2.7'],
    [{ wavefrontRatio: 1.5 }, 'wavefrontRatio is 1.500, must be at most 1.02'],
    [{ sectorRatioLoad: 2 }, 'sectorRatioLoad is 2, must be at most 1.02'],
    [{ sectorRatioStore: 1.06 }, 'sectorRatioStore is 1.060, must be at most 1.05'],
    [{ l2BytesPerMma: 128 }, 'l2BytesPerMma is 128, must be at most 68'],
    [{ ptxPerMma: null }, 'ptxPerMma was not counted'],
  ] as const)('name what is beyond them: %o', (changes, message) => {
    expect(wrong(changes)).toEqual([`negatives_float16, sm_80: ${message}`]);
  });

  test('ask nothing of counts that an architecture has none of', () => {
    const uncounted = { ...row, ptxPerMmaLoop: null, ptxPerMma: null, wavefrontRatio: null };
    expect(violations(uncounted, limits, false)).toEqual([]);
  });

  test('leave multiprocessors with 100 KiB room for two blocks', () => {
    expect(violations(row, gatesOf(negatives, '86'), true)).toHaveLength(1);
  });
});

test('the unit with most to do binds', () => {
  const clocks = { mma: 3, issue: 1, shared: 4, exp2: 1, float64: 0, l2: 2, dram: 3.9 };
  expect(bindingOf(clocks)).toBe('shared');
});

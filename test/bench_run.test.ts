/** `npm run bench`: what becomes of contestants that are right, wrong, slow, missing or too large. */

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Contestant } from '../bench/contestants/contestant.js';
import type { Plan } from '../bench/plan.js';
import type { ResultRow } from '../bench/results.js';
import { run } from '../bench/run.js';

const size = { B: 8, D: 16, C: 100 };

function contestant(behaviour: string, changes: Partial<Contestant> = {}): Contestant {
  return {
    contestant: behaviour,
    operation: 'loss + dX + dW',
    precision: 'float32',
    workspace: 'logits',
    outputs: 'fresh',
    threads: 1,
    allocator: 'default',
    gradient: 'exact',
    command: {
      file: process.execPath,
      args: [join(import.meta.dirname, 'bench_contestant.mjs'), behaviour],
      env: {},
    },
    job: null,
    limits: { loss: 4e-6, gradient: 6.1e-5 },
    bytes: () => 1e6,
    startSeconds: 20,
    ...changes,
  };
}

async function rowOf(one: Contestant, plan: Partial<Plan> = {}): Promise<ResultRow> {
  const deadline = performance.now() + 60e3;
  const all = {
    sizes: [size],
    loss: 'arcface',
    contestants: [one],
    samples: 3,
    sampleSeconds: 0.01,
    seconds: 20,
    deadline,
  };
  const { rows } = await run({ ...all, ...plan });
  return rows.at(-1) as ResultRow;
}

describe('a contestant', () => {
  test('that is right is measured, with what it says it is', async () => {
    const deadline = performance.now() + 60e3;
    const { rows, versions } = await run({
      ...{
        sizes: [size],
        loss: 'arcface',
        contestants: [contestant('right')],
        samples: 3,
        sampleSeconds: 0.01,
        seconds: 20,
        deadline,
      },
    });
    expect(rows).toMatchObject([
      { contestant: 'right', size, status: 'measured', checked: true, peakBytes: 1e6 },
    ]);
    const [row] = rows;
    expect(row?.medianMs).toBe(1);
    expect(row?.samplesMs.length).toBeGreaterThanOrEqual(3);
    expect(row?.error).toBeGreaterThan(0);
    expect(row?.error).toBeLessThan(6.1e-5);
    expect(row?.extraBytes).toBe(1e6 - 4 * 16 * 108);
    expect(versions).toEqual({ right: 'of the test' });
  });

  test.each(['wrong', 'nan'])('that is %s is reported and not timed', async (behaviour) => {
    const row = await rowOf(contestant(behaviour));
    expect(row).toMatchObject({ status: 'wrong', checked: false, samplesMs: [], medianMs: null });
    expect(row.reason).toMatch(/^loss is off by .+, gradients by /);
  });

  test('is held to the derivative of the margin that it says it has', async () => {
    const row = await rowOf(contestant('right', { gradient: 'straightThrough' }));
    expect(row.status).toBe('wrong');
  });

  test.each([
    ['silent', 'would take longer', 'no answer within'],
    ['crashes', 'failed', 'its process ended with 3'],
    ['out of memory', 'does not fit', 'cannot allocate memory'],
    ['missing', 'not installed', 'it is not here'],
  ])('that is %s: %s', async (behaviour, status, reason) => {
    const row = await rowOf(contestant(behaviour, { startSeconds: 2 }), { seconds: 2 });
    expect(row).toMatchObject({ status, checked: false, samplesMs: [] });
    expect(row.reason).toContain(reason);
  });

  test('whose program does not exist is not installed', async () => {
    const command = { file: '/nonexistent/python', args: [], env: {} };
    const row = await rowOf(contestant('right', { command }));
    expect(row).toMatchObject({ status: 'not installed', reason: 'there is no /nonexistent/python' });
  });

  test('that would not fit in memory is not started', async () => {
    const row = await rowOf(contestant('crashes', { bytes: () => 1e15 }));
    expect(row).toMatchObject({ status: 'does not fit' });
    expect(row.reason).toMatch(/^needs about .* GiB, .* GiB are free$/);
  });

  test('that gave no answer at a size is not waited for at a larger one', async () => {
    const sizes = [size, { ...size, C: 200 }];
    const row = await rowOf(contestant('silent', { startSeconds: 1 }), { sizes, seconds: 1 });
    expect(row).toMatchObject({ status: 'would take longer', reason: 'as it would at 8,16,100' });
  });

  test('is not started after the end of the whole run', async () => {
    const row = await rowOf(contestant('crashes'), { deadline: performance.now() - 1 });
    expect(row).toMatchObject({ status: 'not reached' });
  });
});

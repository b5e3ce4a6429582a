/** Pooled memory: used again from call to call, bounded, and given back. */
import { afterEach, expect, test, vi } from 'vitest';
import { releaseMemory, valueAndGradSync } from '../src/index.js';
import { idleTime } from '../src/memory.js';
import { makeProblem } from './problems.js';

const problem = makeProblem({ rows: 64, dim: 32, classes: 40_000 }, 'spread', 'random', 1);
const kept = 4 * 64 * 40_000;
const call = () => valueAndGradSync(problem, { workspace: 'keep' });

afterEach(() => {
  vi.useRealTimers();
});

test('a workspace waits for the next call until it is asked back', () => {
  releaseMemory();
  call();
  const held = releaseMemory();
  expect(held).toBeGreaterThanOrEqual(kept);
  expect(releaseMemory()).toBe(0);
});

test('calls of one size share one workspace', () => {
  releaseMemory();
  call();
  const once = releaseMemory();
  for (let i = 0; i < 5; i++) call();
  expect(releaseMemory()).toBe(once);
});

test('time without calls gives it back', async () => {
  vi.useFakeTimers();
  vi.resetModules(); // a module whose timer is a fake one
  const fresh = await import('../src/index.js');
  const work = () => fresh.valueAndGradSync(problem, { workspace: 'keep' });
  fresh.releaseMemory();
  work();
  vi.advanceTimersByTime(idleTime / 2);
  work(); // the time starts again
  vi.advanceTimersByTime(idleTime / 2 + 1);
  expect(fresh.releaseMemory()).toBeGreaterThanOrEqual(kept);
  work();
  vi.advanceTimersByTime(idleTime + 1);
  expect(fresh.releaseMemory()).toBe(0);
});

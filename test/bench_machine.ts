/** What results of the benchmark say of a machine that does not exist. */
import type { Results } from '../bench/results.js';

export const madeUpMachine: Results['machine'] = {
  processor: 'a made-up processor',
  cores: 2,
  caches: 'unknown',
  memoryBytes: 2 ** 34,
  hugePages: 'madvise',
  system: 'Linux',
  node: 'v20.0.0',
  compiler: 'gcc 12',
  version: '0.0.0',
  commit: 'none: invented figures, for a test',
  date: '2026-11-27T00:00:00.000Z',
  loadAverage: 0,
  instructionSet: 'avx2',
  threads: 2,
};

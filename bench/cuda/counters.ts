/** Launching the kernels on the software GPU, and what it counts. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Launch, launchName } from './launches.js';

/** What test/gpusim counts of a launch; instructions are PTX and of warps. */
export interface Counters {
  readonly kernel: string;
  readonly sm: number;
  readonly warpInstructions: number;
  readonly instructions: {
    readonly mma?: number;
    readonly wgmma?: number;
    readonly specialFunction?: number;
  };
  readonly float64Instructions: number;
  readonly matrixLoop: { readonly instructions: number; readonly matrix: number };
  readonly tensorFlops: number;
  readonly globalLoadSectors: number;
  readonly idealLoadSectors: number;
  readonly asyncLoadSectors: number;
  readonly globalStoreSectors: number;
  readonly idealStoreSectors: number;
  readonly sharedWavefronts: number;
  readonly idealWavefronts: number;
  readonly bulkBytes: number;
  readonly bytesTouched: number;
  readonly predictedClocks: Readonly<
    Record<'tensor' | 'issue' | 'shared' | 'l2' | 'dram' | 'special', number>
  >;
}

/** PTX that the image carries, and the compute capability that the software GPU then says it has. */
export const ptx: Readonly<Record<string, string>> = { '75': '75', '80': '80', '90a': '90' };

/** Whose PTX counts stand for an architecture; only machine code exists for the others. */
export function ptxOf(architecture: string): string {
  if (ptx[architecture] !== undefined) return architecture;
  return '80';
}

export interface Tools {
  readonly root: string;
  /** The fatbin. */
  readonly image: string;
}

/** Runs the launches on a GPU of this architecture, one after the other, with all of the software GPU's checks. */
export function count(tools: Tools, architecture: string, launches: readonly Launch[]): Counters[] {
  if (launches.length === 0) return [];
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-report-'));
  const stats = join(folder, 'stats.json');
  try {
    execFileSync(
      join(tools.root, 'build', 'cuda_report', 'cuda_launches'),
      [tools.image, ...launches.map(({ kernel, size }) => `${kernel},${size.B},${size.D},${size.C}`)],
      {
        stdio: ['ignore', 'inherit', 'inherit'],
        env: {
          ...process.env,
          MARGINFC_LIBCUDA: join(tools.root, 'build', 'gpusim', 'libcuda.so.1'),
          GPUSIM_SM: ptx[architecture],
          GPUSIM_STATS: stats,
        },
      },
    );
    const counters: Counters[] = JSON.parse(readFileSync(stats, 'utf8'));
    launches.forEach((launch, i) => {
      if (counters[i]?.kernel !== launchName(launch))
        throw new Error(`launch ${i} was to be of ${launch.kernel}, was of ${counters[i]?.kernel}`);
    });
    return counters;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

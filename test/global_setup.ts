/**
 * Before the unit tests, once for all files: the software CUDA device (test/gpusim/) and the checks of kernels are built, and a folder is
 * made in which files leave for each other what they found out about this machine.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The variable of the environment that names the folder. */
export const findingsFolder = 'MARGINFC_TEST_FINDINGS';

export function setup(): () => void {
  const script = join(import.meta.dirname, '..', 'scripts', 'build.mjs');
  execFileSync(process.execPath, [script, 'gpusim', 'kernels_check'], { stdio: 'inherit' });
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-findings-'));
  process.env[findingsFolder] = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}

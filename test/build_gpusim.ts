/** Before the unit tests: the software CUDA device (test/gpusim/) and the checks of kernels, once for all files that use them. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

export function setup(): void {
  const script = join(import.meta.dirname, '..', 'scripts', 'build.mjs');
  execFileSync(process.execPath, [script, 'gpusim', 'kernels_check'], { stdio: 'inherit' });
}

/** The tests of the cuda engine on the GPU that there is: each kernel, the table of cases, golden cases, heads. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Tests {
  readonly passed: number;
  readonly failed: number;
  /** Names of those that failed, with the first line of the reason. */
  readonly failures: readonly string[];
}

interface VitestReport {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly testResults: readonly {
    readonly message: string;
    readonly assertionResults: readonly {
      readonly status: string;
      readonly fullName: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

const root = fileURLToPath(new URL('..', import.meta.resolve('marginfc')));

/** Runs them in processes of their own, which print their progress. */
export function validate(): { readonly native: Tests; readonly engine: Tests } {
  return { native: runNative(), engine: runVitest() };
}

/** Each kernel by itself, and the engine without Node: test/native/. */
function runNative(): Tests {
  const script = join(root, 'scripts', 'cuda_check.sh');
  const { stdout } = spawnSync('bash', [script, 'gpu'], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
  });
  console.log(stdout);
  const [, passed = '0', failed = '1'] = /^(\d+) passed, (\d+) failed$/m.exec(stdout) ?? [];
  const failures = stdout.split('\n').filter((line) => /FAILED/.test(line));
  return { passed: Number(passed), failed: Number(failed), failures };
}

function runVitest(): Tests {
  const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-gpu-'));
  const file = join(folder, 'report.json');
  try {
    const files = ['cases', 'golden', 'precision', 'head_gpu'].map((name) => `test/${name}.test.ts`);
    const reporters = ['--reporter=dot', '--reporter=json', `--outputFile.json=${file}`];
    const args = [vitest, 'run', '--project', 'unit', ...reporters, '-t', 'engine cuda', ...files];
    const { status } = spawnSync(process.execPath, args, {
      cwd: root,
      stdio: 'inherit',
      env: { ...process.env, MARGINFC_TEST_ENGINES: 'gpu' },
    });
    if (!existsSync(file)) return { passed: 0, failed: 1, failures: [`the tests ended with ${status}`] };
    const report: VitestReport = JSON.parse(readFileSync(file, 'utf8'));
    const failures = report.testResults.flatMap(({ assertionResults }) =>
      assertionResults
        .filter(({ status }) => status === 'failed')
        .map(
          ({ fullName, failureMessages }) => `${fullName}: ${(failureMessages[0] ?? '').split('\n', 1)[0]}`,
        ),
    );
    const { numPassedTests: passed, numFailedTests } = report;
    const failed = Math.max(numFailedTests, status === 0 && passed > 0 ? 0 : 1);
    console.log(`${passed} tests passed, ${failed} failed`);
    return { passed, failed, failures };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

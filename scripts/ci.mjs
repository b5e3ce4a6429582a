// Everything that must hold before a change lands, on a clean checkout: what README.md tells a user to type, the
// packaging tests and the sanitizers. Called by .ci/run; needs nothing but Node, npm and a compiler.
//
// Ends by printing `N passed, N failed`: each test that vitest ran, and each other step, counts as one.

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readmeBlocks, runBlock } from './readme_commands.mjs';

const root = path.join(import.meta.dirname, '..');
const reports = fs.mkdtempSync(path.join(os.tmpdir(), 'marginfc-ci-'));

/** @type {{ name: string, passed: number, failed: number, seconds: number }[]} */
const results = [];

/**
 * Runs a step. vitest.config.ts writes a report to MARGINFC_TEST_REPORT: where a step left one, its tests are
 * counted beside the step itself.
 * @param {string} name
 * @param {(env: NodeJS.ProcessEnv) => boolean} run
 */
function step(name, run) {
  console.log(`\n=== ${name}`);
  const report = path.join(reports, `${results.length}.json`);
  const start = Date.now();
  const ok = run({ ...process.env, MARGINFC_TEST_REPORT: report });
  const tests = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, 'utf8')) : undefined;
  results.push({
    name,
    passed: (tests?.numPassedTests ?? 0) + (ok ? 1 : 0),
    failed: (tests?.numFailedTests ?? 0) + (ok ? 0 : 1),
    seconds: Math.round((Date.now() - start) / 1000),
  });
}

/** @param {string[]} args */
function npm(...args) {
  return (/** @type {NodeJS.ProcessEnv} */ env) =>
    spawnSync('npm', args, { cwd: root, env, stdio: ['ignore', 'inherit', 'inherit'] }).status === 0;
}

for (const block of readmeBlocks()) {
  const title = `README.md:${block.line} ${block.language === 'sh' ? block.source.split('\n').join('; ') : 'example'}`;
  if (block.skip === undefined) step(title, (env) => runBlock(block, env));
  else console.log(`\n=== ${title}\nnot run: ${block.skip}`);
}
step('packaging', npm('run', 'test:pack'));
step('address and undefined-behaviour sanitizers', npm('run', 'test:asan'));
step('thread sanitizer', npm('run', 'test:tsan'));

fs.rmSync(reports, { recursive: true, force: true });

console.log('\n');
for (const { name, passed, failed, seconds } of results) {
  console.log(
    `${failed > 0 ? 'FAILED' : 'ok    '} ${String(seconds).padStart(5)} s  ${passed} passed  ${name}`,
  );
}
const passed = results.reduce((sum, result) => sum + result.passed, 0);
const failed = results.reduce((sum, result) => sum + result.failed, 0);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;

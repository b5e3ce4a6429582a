// The commands and programs that README.md shows, so that CI can run them as written: every fenced block
// marked `sh` (run by bash) or `js` (run by node). A comment in the line above a block keeps it out of CI:
//
//   <!-- not in CI: needs a GPU -->
//
//   node scripts/readme_commands.mjs          runs all
//   node scripts/readme_commands.mjs --list   only shows them

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const root = path.join(import.meta.dirname, '..');

/**
 * @typedef {object} Block
 * @property {number} line of the fence, from 1
 * @property {'sh' | 'js'} language
 * @property {string} source
 * @property {string | undefined} skip why CI does not run it
 */

/**
 * @param {string} markdown
 * @returns {Block[]}
 */
export function codeBlocks(markdown) {
  const lines = markdown.split('\n');
  /** @type {Block[]} */
  const blocks = [];
  for (let i = 0; i < lines.length; i++) {
    const fence = /^```(\w*)/.exec(lines[i] ?? '');
    if (fence === null) continue;
    const end = lines.indexOf('```', i + 1);
    if (end < 0) throw new Error(`README.md:${i + 1}: the block has no end`);
    const language = fence[1];
    if (language === 'sh' || language === 'js') {
      blocks.push({
        line: i + 1,
        language,
        source: lines.slice(i + 1, end).join('\n'),
        skip: /^<!-- not in CI: (.+) -->$/.exec(lines[i - 1] ?? '')?.[1],
      });
    }
    i = end;
  }
  return blocks;
}

/** README.md's blocks. */
export function readmeBlocks() {
  return codeBlocks(fs.readFileSync(path.join(root, 'README.md'), 'utf8'));
}

/**
 * Runs one block in the checkout; true if it succeeded.
 * @param {Block} block
 * @param {NodeJS.ProcessEnv} env
 */
export function runBlock(block, env) {
  /** @type {import('node:child_process').SpawnSyncOptions} */
  const options = { cwd: root, env, stdio: ['ignore', 'inherit', 'inherit'] };
  if (block.language === 'sh') {
    return spawnSync('bash', ['-e', '-o', 'pipefail', '-c', block.source], options).status === 0;
  }
  // Inside the checkout, where the package's own name resolves.
  const file = path.join(root, 'build', `readme_line_${block.line}.mjs`);
  fs.writeFileSync(file, `${block.source}\n`);
  return spawnSync(process.execPath, [file], options).status === 0;
}

function main() {
  for (const block of readmeBlocks()) {
    const title = `README.md:${block.line}`;
    console.log(
      `\n${title} (${block.language})${block.skip ? `, not in CI: ${block.skip}` : ''}\n${block.source}\n`,
    );
    if (block.skip !== undefined || process.argv.includes('--list')) continue;
    if (!runBlock(block, process.env)) {
      console.error(`${title} failed`);
      process.exitCode = 1;
    }
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main();

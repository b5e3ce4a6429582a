// Formats the C++ (and CUDA) sources in place; with --check only says which ones differ, and fails if any does.

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const root = path.join(import.meta.dirname, '..');
const files = ['engine', 'group', 'cpu', 'binding', 'cuda', 'bench', 'test']
  .filter((folder) => fs.existsSync(path.join(root, folder)))
  .flatMap((folder) =>
    fs
      .readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((file) => path.join(folder, file)),
  )
  .filter((file) => /\.(h|c|cc|cu|cuh)$/.test(file))
  .sort();
if (files.length === 0) throw new Error('no C++ source was found');

const mode = process.argv.includes('--check') ? ['--dry-run', '--Werror'] : ['-i'];
const clangFormat = path.join(root, 'node_modules', '.bin', 'clang-format');
const child = spawnSync(clangFormat, ['--style=file', ...mode, ...files], { cwd: root, stdio: 'inherit' });
if (child.error) throw child.error;
if (child.status === 0) console.log(`clang-format: ${files.length} files`);
process.exitCode = child.status ?? 1;

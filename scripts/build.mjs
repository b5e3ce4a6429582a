// Brings a checkout up to date: the addon in build/Release, TypeScript in dist/. Does nothing where nothing
// has changed since the last run, so that npm can call it as `prepare` and every test run can call it first.
//
//   node scripts/build.mjs [native] [ts]      both when none is named
//   node scripts/build.mjs gpusim             the software CUDA device, its NCCL and its checks, which only tests need
//   node scripts/build.mjs launches           the program that launches kernels for npm run cuda:report
//   node scripts/build.mjs kernels_check      the program that compares each CUDA kernel with float64

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);
const { compile, configuredElsewhere } = require('./lib/native_build.cjs');
const { buildMpiShim, SHIM, SHIM_SOURCES } = require('./lib/mpi_shim.cjs');

const root = path.join(import.meta.dirname, '..');
const inRoot = (/** @type {string[]} */ ...parts) => path.join(root, ...parts);

/** Every file below the named files and folders. @param {string[]} names @returns {string[]} */
function filesIn(...names) {
  return names.flatMap((name) => {
    const full = inRoot(name);
    if (!fs.existsSync(full)) return [];
    if (!fs.statSync(full).isDirectory()) return [name];
    return fs
      .readdirSync(full, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)));
  });
}

/**
 * Runs `make` unless every product exists and no source has changed since it last began. The stamp holds the
 * time of the start, so an edit made while it ran counts as newer.
 * @param {string} name
 * @param {{ sources: string[], products: string[], make: () => boolean | Promise<boolean> }} step
 */
async function bringUpToDate(name, { sources, products, make }) {
  const stamp = inRoot('build', `${name}.stamp`);
  const made = fs.existsSync(stamp) ? fs.statSync(stamp).mtimeMs : 0;
  const current =
    products.every((file) => fs.existsSync(inRoot(file))) &&
    sources.every((file) => fs.statSync(inRoot(file)).mtimeMs <= made);
  if (current) return;
  const start = new Date();
  if (!(await make())) process.exit(1);
  fs.mkdirSync(path.dirname(stamp), { recursive: true });
  fs.writeFileSync(stamp, '');
  fs.utimesSync(stamp, start, start);
}

function buildNative() {
  return bringUpToDate('native', {
    sources: filesIn(
      'CMakeLists.txt',
      'engine',
      'group',
      'cpu',
      'cuda',
      'binding',
      'scripts/lib',
      'test/native/gpu_memory.cc',
    ),
    products: ['build/Release/marginfc.node', 'build/test/gpu_memory.node'],
    make: () => compile(root).ok,
  });
}

/** What mpi() opens; a machine without mpicc does without. */
function buildMpi() {
  return bringUpToDate('mpi', {
    sources: [...SHIM_SOURCES, 'scripts/lib/mpi_shim.cjs'],
    products: [SHIM],
    make: () => {
      const note = buildMpiShim(root);
      if (note !== undefined) console.log(`marginfc: ${note}`);
      return true;
    },
  });
}

/** @param {string[]} args */
function cmake(...args) {
  return spawnSync('cmake', args, { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0;
}

function buildGpusim() {
  const [source, folder] = [inRoot('test', 'gpusim'), inRoot('build', 'gpusim')];
  const build = path.join(folder, 'cmake');
  return bringUpToDate('gpusim', {
    sources: filesIn('test/gpusim').filter((file) => /\.(cc|h|txt)$/.test(file)),
    products: ['libcuda.so.1', 'libnccl.so.2', 'gpusim_check', 'nccl_check'].map(
      (name) => `build/gpusim/${name}`,
    ),
    make: () => {
      if (configuredElsewhere(build, source)) fs.rmSync(build, { recursive: true, force: true });
      return (
        cmake(
          ...['-S', source, '-B', build],
          ...[`-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${folder}`, `-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=${folder}`],
        ) && cmake('--build', build, '--parallel', '2')
      );
    },
  });
}

/**
 * A program over the CUDA kernels that needs no Node, in build/${folder}/${target}.
 * @param {{ folder: string, target: string, sources: string }} program
 */
function buildProgram({ folder: name, target, sources }) {
  const folder = inRoot('build', name);
  return bringUpToDate(target, {
    sources: filesIn('CMakeLists.txt', sources, 'cuda', 'engine').filter((file) =>
      /\.(cc|h|txt)$/.test(file),
    ),
    products: [`build/${name}/${target}`],
    make: () => {
      if (configuredElsewhere(folder, root)) fs.rmSync(folder, { recursive: true, force: true });
      return (
        cmake('-S', root, '-B', folder, '-DMARGINFC_ADDON=OFF') &&
        cmake('--build', folder, '--target', target, '--parallel', '2')
      );
    },
  });
}

/**
 * bench/ in one file with the libraries it needs, so that `npx marginfc bench` works where only the package is
 * installed; and what Python runs.
 */
async function buildBench() {
  const peers = fs.readdirSync(inRoot('bench/peers')).filter((file) => file.endsWith('.py'));
  await bringUpToDate('bench', {
    sources: [...filesIn('bench'), 'package.json'].filter((file) => /\.(ts|py|json)$/.test(file)),
    products: ['dist/bench/main.js', ...peers.map((file) => `dist/bench/peers/${file}`)],
    make: async () => {
      const { rolldown } = await import('rolldown');
      const bundle = await rolldown({
        input: inRoot('bench', 'main.ts'),
        platform: 'node',
        external: [/^marginfc/, /^@tensorflow\//, 'canvas'],
        onLog: (level, log) => {
          if (level === 'warn') console.warn(log.message);
        },
      });
      const folder = inRoot('dist', 'bench');
      fs.rmSync(folder, { recursive: true, force: true });
      const { output } = await bundle.write({
        dir: folder,
        format: 'esm',
        entryFileNames: 'main.js',
        codeSplitting: false,
        minify: true,
      });
      const modules = output.flatMap((chunk) => (chunk.type === 'chunk' ? chunk.moduleIds : []));
      fs.writeFileSync(path.join(folder, 'LICENSES.txt'), licences(modules));
      fs.mkdirSync(path.join(folder, 'peers'));
      for (const file of peers)
        fs.copyFileSync(inRoot('bench/peers', file), path.join(folder, 'peers', file));
      return true;
    },
  });
}

/** The licences of the packages that modules come from, to be shipped with them. @param {string[]} modules */
function licences(modules) {
  const folders = new Set(
    modules.flatMap((file) => /^.*\/node_modules\/(@[^/]+\/)?[^/]+(?=\/)/.exec(file)?.[0] ?? []),
  );
  const texts = [...folders].sort().map((folder) => {
    const { name, version, license } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
    const file = fs.readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file === undefined ? license : fs.readFileSync(path.join(folder, file), 'utf8').trim();
    return `${name} ${version}\n\n${text}\n`;
  });
  return texts.join(`\n${'-'.repeat(80)}\n\n`);
}

function buildTypeScript() {
  const modules = filesIn('src').map((file) => path.relative('src', file).replace(/\.ts$/, ''));
  return bringUpToDate('typescript', {
    sources: [...filesIn('src'), 'package.json', 'tsconfig.json', 'tsconfig.base.json'],
    products: [
      ...modules.map((module) => `dist/${module}.js`),
      ...commonJsEntries().flatMap((entry) => [`${entry}.cjs`, `${entry}.d.cts`]),
    ],
    make: () => {
      const tsc = require.resolve('typescript/bin/tsc');
      const child = spawnSync(process.execPath, [tsc, '--project', inRoot('tsconfig.json')], {
        stdio: 'inherit',
      });
      if (child.status !== 0) return false;
      writeCommonJsEntries();
      removeOrphans(modules);
      return true;
    },
  });
}

/** The entry points that package.json offers to `require`, for example `dist/index`. */
function commonJsEntries() {
  const { exports } = JSON.parse(fs.readFileSync(inRoot('package.json'), 'utf8'));
  return Object.values(exports)
    .filter((entry) => typeof entry === 'object')
    .map((entry) => entry.require.default.replace(/^\.\/(.*)\.cjs$/, '$1'));
}

/** `require` gets the very module that `import` gets: one copy of the classes, one addon. */
function writeCommonJsEntries() {
  for (const entry of commonJsEntries()) {
    const module = `./${path.basename(entry)}.js`;
    fs.writeFileSync(inRoot(`${entry}.cjs`), `'use strict';\nmodule.exports = require('${module}');\n`);
    fs.writeFileSync(inRoot(`${entry}.d.cts`), `export * from '${module}';\n`);
  }
}

/** Output of sources that are gone would still be published. @param {string[]} modules */
function removeOrphans(modules) {
  for (const file of filesIn('dist').filter((file) => !file.startsWith('dist/bench/'))) {
    const module = path.relative('dist', file).replace(/\.(js|cjs|d\.ts|d\.cts)(\.map)?$/, '');
    if (!modules.includes(module)) fs.rmSync(inRoot(file));
  }
}

const steps = process.argv.slice(2);
if (steps.length === 0 || steps.includes('native')) {
  await buildNative();
  await buildMpi();
}
if (steps.length === 0 || steps.includes('ts')) {
  await buildTypeScript();
  await buildBench();
}
if (steps.includes('gpusim')) await buildGpusim();
if (steps.includes('launches'))
  await buildProgram({ folder: 'cuda_report', target: 'cuda_launches', sources: 'bench/cuda' });
if (steps.includes('kernels_check'))
  await buildProgram({ folder: 'cuda_kernels', target: 'cuda_kernels_check', sources: 'test/native' });

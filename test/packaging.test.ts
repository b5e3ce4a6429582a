/**
 * What a user gets: the tarball, installed in empty folders with a prebuilt addon, without one, and where
 * nothing can be compiled. Run by `npm run test:pack`; takes minutes, because the addon is compiled twice.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');
const workspace = mkdtempSync(join(tmpdir(), 'marginfc-packaging-'));
afterAll(() => rmSync(workspace, { recursive: true, force: true }));

interface Outcome {
  readonly status: number | null;
  readonly output: string;
}

function run(
  cwd: string,
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Outcome {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...userEnvironment(), ...env },
    maxBuffer: 1 << 28,
  });
  return { status, output: stdout + stderr };
}

/** The environment of a user's shell: without what npm and vitest add for the scripts that they run. */
function userEnvironment(): NodeJS.ProcessEnv {
  const own = /^(npm_|VITEST|VITE_|TEST$|NODE_ENV$|NODE_OPTIONS$|MARGINFC_|INIT_CWD$)/;
  const kept = Object.entries(process.env).filter(([name]) => !own.test(name));
  const path = (process.env.PATH ?? '').split(delimiter).filter((folder) => !folder.includes('node_modules'));
  return { ...Object.fromEntries(kept), PATH: path.join(delimiter) };
}

/** npm's cache is used first, the registry where it lacks something. */
const npmFlags = ['--no-audit', '--no-fund', '--prefer-offline'];

function pack(folder: string): string {
  const destination = mkdtempSync(join(workspace, 'tarball-'));
  const { status, output } = run(folder, 'npm', [
    'pack',
    '--ignore-scripts',
    '--pack-destination',
    destination,
    '--loglevel=error',
  ]);
  expect(status, output).toBe(0);
  const [tarball] = readdirSync(destination);
  return join(destination, tarball ?? '');
}

/** An empty project that installs the tarball. */
function install(
  name: string,
  tarball: string,
  options: { flags?: readonly string[]; env?: Record<string, string> } = {},
): Outcome & { folder: string; installed: string } {
  const folder = join(workspace, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, private: true }));
  const flags = [...npmFlags, ...(options.flags ?? [])];
  const outcome = run(folder, 'npm', ['install', ...flags, tarball], options.env);
  return { ...outcome, folder, installed: join(folder, 'node_modules', 'marginfc') };
}

const program = `
  const features = new Float32Array([1, 0, 0, 1]);
  const weights = new Float32Array([1, 0, 0, 1, -1, 0]);
  const out = valueAndGradSync({ features, weights, labels: new Int32Array([0, 1]), dim: 2 }, { margin: arcface() });
  if (!(out.loss > 0) || out.dFeatures.length !== 4 || out.dWeights.length !== 6) throw new Error('wrong result');
  console.log('works as', kind);
`;

/** Runs the same small program with `import` and with `require`. */
function expectWorks(folder: string): void {
  const names = '{ arcface, valueAndGradSync }';
  writeFileSync(
    join(folder, 'as_module.mjs'),
    `import ${names} from 'marginfc'; const kind = 'ESM';${program}`,
  );
  writeFileSync(
    join(folder, 'as_commonjs.cjs'),
    `const ${names} = require('marginfc'); const kind = 'CJS';${program}`,
  );
  for (const [file, kind] of [
    ['as_module.mjs', 'ESM'],
    ['as_commonjs.cjs', 'CJS'],
  ] as const) {
    const { status, output } = run(folder, process.execPath, [file]);
    expect(output).toContain(`works as ${kind}`);
    expect(status).toBe(0);
  }
}

/** Where nothing but the package is installed: what it compares itself with and does not carry is named as missing. */
function expectBenchWorks(folder: string): void {
  const size = ['--quick', '--no-phases', '--samples', '2', '--sizes', '8,16,100'];
  const { status, output } = run(folder, 'npx', ['--no-install', 'marginfc', 'bench', ...size]);
  expect(output).toMatch(/^ +marginfc cpu, float32, keep +\d/m);
  expect(output).toMatch(/^ +unfused C\+\+ +\d/m);
  expect(output).toMatch(/^ +tfjs wasm +- .*not installed: @tensorflow\/tfjs-core is not installed$/m);
  expect(status).toBe(0);
  for (const file of ['marginfc-bench.json', 'marginfc-bench.html'])
    expect(existsSync(join(folder, file)), file).toBe(true);
}

let plainTarball: string;
let prebuiltTarball: string;

beforeAll(() => {
  // A copy of what the package ships, so that packing a prebuilt addon leaves the checkout alone.
  const [staging, prebuilt] = [join(workspace, 'plain'), join(workspace, 'prebuilt')];
  for (const folder of [staging, prebuilt]) {
    mkdirSync(folder);
    execFileSync('tar', ['xzf', pack(root), '-C', folder, '--strip-components=1']);
    rmSync(join(folder, 'prebuilds'), { recursive: true, force: true });
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  }
  plainTarball = pack(staging);

  const native = join(root, 'scripts', 'native.cjs');
  const prebuildify = join(root, 'node_modules', '.bin', 'prebuildify');
  const flags = ['--napi', '--strip', '--tag-libc', '--node-gyp', native];
  const { status, output } = run(prebuilt, prebuildify, flags);
  expect(status, output).toBe(0);
  prebuiltTarball = pack(prebuilt);
});

describe('the tarball', () => {
  it('holds the compiled TypeScript and the C++ sources, and nothing of the checkout besides', () => {
    const list = execFileSync('tar', ['tzf', plainTarball], { encoding: 'utf8' }).trim().split('\n');
    const files = list.map((file) => file.replace(/^package\//, ''));
    const expected = ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CMakeLists.txt'];
    const entries = [
      'dist/index.js',
      'dist/index.cjs',
      'dist/index.d.ts',
      'dist/index.d.cts',
      'dist/tfjs.js',
      'dist/tfjs.cjs',
    ];
    const kernels = ['cuda/kernels.fatbin', 'cuda/kernels.json', 'scripts/lib/kernels.cjs'];
    const bench = ['dist/bench/main.js', 'dist/bench/LICENSES.txt', 'dist/bench/peers/serve.py'];
    const required = [
      ...expected,
      ...entries,
      ...kernels,
      ...bench,
      'group/mpi_shim.c',
      'scripts/lib/mpi_shim.cjs',
      'scripts/install.cjs',
      'engine/engine.h',
    ];
    expect(required.filter((file) => !files.includes(file))).toEqual([]);
    const folders = new Set(files.filter((file) => file.includes('/')).map((file) => file.split('/')[0]));
    expect([...folders].sort()).toEqual([
      'binding',
      'cpu',
      'cuda',
      'dist',
      'engine',
      'group',
      'scripts',
      'src',
    ]);
  });

  it('carries the prebuilt addon under its platform', () => {
    const list = execFileSync('tar', ['tzf', prebuiltTarball], { encoding: 'utf8' }).trim().split('\n');
    const addons = list.filter((file) => file.endsWith('.node'));
    expect(addons).toEqual([`package/prebuilds/linux-${process.arch}/marginfc.glibc.node`]);
  });

  it('passes publint', async () => {
    const { publint } = await import('publint');
    const { messages } = await publint({ pkgDir: join(workspace, 'plain'), strict: true });
    expect(messages).toEqual([]);
  });

  it('has types that resolve for import and for require', () => {
    const attw = join(root, 'node_modules', '.bin', 'attw');
    const { status, output } = run(root, attw, [plainTarball, '--profile', 'node16', '--format', 'ascii']);
    expect(status, output).toBe(0);
  });
});

describe('installing', () => {
  it('with a prebuilt addon compiles nothing, and import and require work', () => {
    const { status, output, folder, installed } = install('with-prebuilt', prebuiltTarball, {
      env: { PATH: pathWithoutCompiler() },
    });
    expect(status, output).toBe(0);
    expect(existsSync(join(installed, 'build'))).toBe(false);
    expectWorks(folder);
  });

  const mpicc = spawnSync('mpicc', ['--version'], { stdio: 'ignore' }).error === undefined;
  it.skipIf(!mpicc)('with a prebuilt addon and mpicc compiles what mpi() needs, and nothing else', () => {
    const { status, output, folder, installed } = install('with-mpicc', prebuiltTarball);
    expect(status, output).toBe(0);
    expect(readdirSync(join(installed, 'build', 'Release'))).toEqual(['marginfc_mpi.so']);
    expectWorks(folder);
    const doctor = run(folder, 'npx', ['--no-install', 'marginfc', 'doctor']);
    expect(doctor.output).toMatch(/^mpi +(?!not available)/m);
  });

  it('with a prebuilt addon works when install scripts are not run', () => {
    const { status, output, folder } = install('ignore-scripts', prebuiltTarball, {
      flags: ['--ignore-scripts'],
    });
    expect(status, output).toBe(0);
    expectWorks(folder);
  });

  it('without a prebuilt addon compiles it, and import and require work', () => {
    const { status, output, folder, installed } = install('compiling', plainTarball);
    expect(status, output).toBe(0);
    expect(existsSync(join(installed, 'build', 'Release', 'marginfc.node'))).toBe(true);
    expectWorks(folder);
    expectTypes(folder);
    const doctor = run(folder, 'npx', ['--no-install', 'marginfc', 'doctor']);
    expect(doctor.output).toContain('cpu');
    expect(doctor.output).toMatch(/^cuda kernels +sm_75, .*sm_120; PTX 7\.5, 8\.0, 9\.0a; nvcc /m);
    expect(doctor.status).toBe(0);
    expectBenchWorks(folder);
  });

  it('with neither prebuilt addon nor compiler fails with three lines that say why and what to do', () => {
    const { status, output } = install('no-compiler', plainTarball, { env: { PATH: pathWithoutCompiler() } });
    expect(status).not.toBe(0);
    const lines = output.split('\n').flatMap((line) => line.match(/marginfc: .*/)?.[0] ?? []);
    expect(lines, output).toHaveLength(3);
    expect(lines[0]).toContain('none can be compiled: g++, cmake');
    expect(lines[1]).toContain('No native build was found');
    expect(lines[2]).toContain('sudo apt-get install -y g++ make cmake');
  });

  it('without install scripts and without a prebuilt addon, the first call says what to do', () => {
    const { status, folder } = install('nothing-built', plainTarball, { flags: ['--ignore-scripts'] });
    expect(status).toBe(0);
    const { status: loaded, output } = run(folder, process.execPath, [
      '-e',
      "require('marginfc').listEngines()",
    ]);
    expect(loaded).not.toBe(0);
    expect(output).toContain('ERR_NATIVE_LOAD');
    expect(output).toContain('npm rebuild marginfc');
  });
});

/** A PATH with what npm needs and no compiler. */
function pathWithoutCompiler(): string {
  const folder = mkdtempSync(join(workspace, 'path-'));
  const programs = ['node', 'npm', 'npx', 'sh', 'env'];
  for (const name of programs) {
    const path = execFileSync('which', [name], { encoding: 'utf8', env: userEnvironment() }).trim();
    symlinkSync(path, join(folder, name));
  }
  return folder;
}

/** A user's strict TypeScript project accepts the package's types from both module kinds. */
function expectTypes(folder: string): void {
  const use = `
    const parameters = { dim: 2, features: new Float32Array(4), weights: new Float32Array(6), labels: new Int32Array(2) };
    export const loss: number = valueAndGradSync(parameters, { margin: arcface({ m: 0.5 }) }).loss;
  `;
  const source = `import { arcface, valueAndGradSync } from 'marginfc';${use}`;
  writeFileSync(join(folder, 'use.mts'), source);
  writeFileSync(join(folder, 'use.cts'), source);
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const flags = [
    '--noEmit',
    '--strict',
    '--target',
    'es2023',
    '--module',
    'nodenext',
    '--skipLibCheck',
    'false',
  ];
  const types = ['--types', 'node', '--typeRoots', join(root, 'node_modules', '@types')];
  const { status, output } = run(folder, process.execPath, [tsc, ...flags, ...types, 'use.mts', 'use.cts']);
  expect(status, output).toBe(0);
}

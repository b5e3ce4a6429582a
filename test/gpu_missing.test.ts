/**
 * What a machine says that cannot use a GPU: which of the reasons it is, and that the cpu engine works all the same. Drivers
 * that nobody has at hand are stubs, made from the table of entry points in cuda/driver.h.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { EngineStatus } from '../src/index.js';
import { closeEngines } from './engines.js';
import { findSoftwareGpus } from './gpus.js';

const root = join(import.meta.dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'marginfc-drivers-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const program = `
  import { listEngines, MarginHead, valueAndGradSync } from 'marginfc';
  const { dim, classes, rows, options, engine } = JSON.parse(process.argv[1]);
  const values = (count) => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
  const batch = { features: values(rows * dim), weights: values(classes * dim), labels: new Int32Array(rows), dim };
  const failure = ({ code, message }) => ({ code, message });
  const outcome = (run) => { try { return { engine: run().engine }; } catch (error) { return failure(error); } };
  const call = (more) => outcome(() => valueAndGradSync(batch, { ...options, ...more }));
  const head = await MarginHead.create({ dim, classes, devices: ['cuda'] }).then(
    (made) => { made.dispose(); return { engine: 'made' }; }, failure);
  console.log(JSON.stringify({ engines: listEngines(), cuda: call({ engine }), head, cpu: call({ engine: 'cpu' }) }));
`;

interface Outcome {
  readonly code?: string;
  readonly message?: string;
  readonly engine?: string;
}

interface Said {
  readonly engines: EngineStatus[];
  readonly cuda: Outcome;
  readonly head: Outcome;
  readonly cpu: Outcome;
}

function ask(environment: Record<string, string>, problem: object = {}): Said {
  const given = JSON.stringify({ dim: 8, classes: 5, rows: 3, options: {}, engine: 'cuda', ...problem });
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', program, given],
    { cwd: root, encoding: 'utf8', env: { ...process.env, ...environment } },
  );
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
}

/** A library with the driver's entry points, all of which succeed and do nothing but those given. */
function stub(name: string, bodies: Record<string, string>, without: readonly string[] = []): string {
  const table = readFileSync(join(root, 'cuda', 'driver.h'), 'utf8');
  const symbols = [...table.matchAll(/\{"(cu\w+)",\s*offsetof/g)].map((match) => match[1] ?? '');
  expect(symbols.length).toBeGreaterThan(20);
  const source = symbols
    .filter((symbol) => !without.includes(symbol))
    .map((symbol) => `int ${symbol}${bodies[symbol] ?? '() { return 0; }'}`);
  writeFileSync(join(folder, `${name}.c`), `${source.join('\n')}\n`);
  const library = join(folder, `${name}.so`);
  execFileSync('c++', ['-shared', '-fPIC', '-x', 'c++', '-', '-o', library], {
    input: `extern "C" {\n${source.join('\n')}\n}`,
  });
  return library;
}

const version = (number: number) => `(int* version) { *version = ${number}; return 0; }`;
const text = '(int, const char** text) { *text = "CUDA_ERROR_OF_A_STUB"; return 0; }';
/** CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR is 75. */
const attribute = (major: number) =>
  `(int* value, int which, int) { *value = which == 75 ? ${major} : 0; return 0; }`;
const working = {
  cuDriverGetVersion: version(13000),
  cuGetErrorName: text,
  cuGetErrorString: text,
  cuDeviceGetCount: '(int* count) { *count = 1; return 0; }',
  cuDeviceGetName: '(char* name, int, int) { name[0] = 80; name[1] = 0; return 0; }',
  cuDeviceGetAttribute: attribute(7),
};

describe('the reason is', () => {
  test.each<[string, () => string, RegExp]>([
    ['no driver', () => '/nonexistent/libcuda.so.1', /NVIDIA driver could not be loaded.*\/nonexistent/],
    [
      'a driver without an entry point',
      () => stub('partial', working, ['cuStreamCreate']),
      /has no cuStreamCreate/,
    ],
    [
      'a driver too old',
      () => stub('old', { ...working, cuDriverGetVersion: version(10020) }),
      /driver is too old: it serves CUDA 10\.2/,
    ],
    [
      'a driver that does not start',
      () => stub('broken', { ...working, cuInit: '(unsigned) { return 999; }' }),
      /did not start: cuInit said CUDA_ERROR_OF_A_STUB \(999\)/,
    ],
    [
      'no GPU',
      () => stub('empty', { ...working, cuInit: '(unsigned) { return 100; }' }),
      /no NVIDIA GPU was found/,
    ],
    [
      'a GPU below compute capability 7.5',
      () => stub('pascal', working),
      /P has compute capability 7\.0, needed is 7\.5/,
    ],
  ])('%s', (_, library, reason) => {
    const said = ask({ MARGINFC_LIBCUDA: library() });
    expect(said.engines.filter(({ name }) => name !== 'cpu')).toEqual([
      { name: 'cuda:0', available: false, reason: expect.stringMatching(reason) },
    ]);
    for (const [argument, outcome] of [
      ['engine', said.cuda],
      ['devices[0]', said.head],
    ] as const) {
      expect(outcome.code).toBe('ERR_ENGINE_UNAVAILABLE');
      expect(outcome.message).toMatch(reason);
      expect(
        outcome.message?.startsWith(`${argument} must be an engine that can run here, received 'cuda': `),
      ).toBe(true);
    }
    expect(said.cpu).toEqual({ engine: 'cpu' });
  });
});

/** Where the build carries kernels, see test/fatbin.test.ts. */
const [software] = (await findSoftwareGpus()).filter(({ missing }) => missing === undefined);
const environment = { ...software?.environment, GPUSIM_DEVICES: '2' };

describe.skipIf(software === undefined)('with GPUs', () => {
  afterAll(closeEngines);

  test('a number that is not there is an error that says how many there are', () => {
    const said = ask(environment, { engine: 'cuda:2' });
    expect(said.engines.map(({ name, available }) => [name, available])).toEqual([
      ['cpu', true],
      ['cuda:0', true],
      ['cuda:1', true],
    ]);
    expect(said.cuda).toEqual({
      code: 'ERR_ENGINE_UNAVAILABLE',
      message: expect.stringMatching(/^engine must be .*, received 'cuda:2': the driver has 2 GPUs/),
    });
  });

  test('too little of their memory is an error, and the cpu engine works', () => {
    const said = ask({ ...environment, GPUSIM_MEMORY_MB: '64' }, { dim: 512, classes: 100_000 });
    for (const outcome of [said.cuda, said.head])
      expect(outcome).toEqual({
        code: 'ERR_OUT_OF_MEMORY',
        message: expect.stringMatching(/memory/),
      });
    expect(said.cpu).toEqual({ engine: 'cpu' });
  });

  test('bfloat16 below compute capability 8.0 is an error that names the device', () => {
    const said = ask({ ...environment, GPUSIM_SM: '75' }, { options: { precision: 'bfloat16' } });
    expect(said.cuda).toEqual({
      code: 'ERR_PRECISION_UNSUPPORTED',
      message: expect.stringMatching(
        /^precision must be 'float16' or 'float32' on cuda:0 \(.*compute capability 7\.5.*\), received 'bfloat16'$/,
      ),
    });
  });
});

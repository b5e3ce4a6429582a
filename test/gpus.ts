/**
 * GPUs as engines (test/engines.ts): the software device with one compute capability, number of devices and schedule, in a
 * pairwise choice or, with MARGINFC_TEST_CASES=all, in every combination, or with MARGINFC_TEST_CASES=turns of these one of each
 * capability for each entry, in turns; and the machine's own, where it has one.
 */
import { join } from 'node:path';
import { type DeviceName, listEngines, type Precision } from '../src/index.js';
import { type Engine, findEngines, halfInstructionSets, listEnginesIn, withoutMissing } from './engines.js';
import { pairwise } from './pairwise.js';

/** The driver that implements the software device; test/global_setup.ts makes it. */
export const softwareDriver = join(import.meta.dirname, '..', 'build', 'gpusim', 'libcuda.so.1');

const factors = {
  sm: [75, 80, 90],
  devices: [1, 2, 3, 4],
  seed: [0, 1, 2, 3, 4],
} as const;

interface Setting {
  readonly sm: number;
  readonly devices: number;
  readonly seed: number;
}

const everySetting: readonly Setting[] = factors.sm.flatMap((sm) =>
  factors.devices.flatMap((devices) => factors.seed.map((seed) => ({ sm, devices, seed }))),
);

/** Only GPUs are tested, as the environment has them: `npm run gpu:check`. */
export const onlyGpus = process.env.MARGINFC_TEST_ENGINES === 'gpu';

const onEverySoftwareGpu = process.env.MARGINFC_TEST_CASES === 'all';

/** Whether everything is to be tried in every way, but for that software GPUs may take turns. */
export const everything = onEverySoftwareGpu || process.env.MARGINFC_TEST_CASES === 'turns';

export function softwareGpu({ sm, devices, seed }: Setting): Engine {
  return {
    name: `cuda sm_${sm} in software, ${devices} device${devices === 1 ? '' : 's'}, seed ${seed}`,
    choice: 'cuda',
    environment: {
      MARGINFC_LIBCUDA: softwareDriver,
      MARGINFC_THREADS: '1',
      GPUSIM_SM: String(sm),
      GPUSIM_DEVICES: String(devices),
      GPUSIM_SEED: String(seed),
      // Other test files use the other cores.
      GPUSIM_THREADS: '1',
    },
    precisions: sm < 80 ? ['float32', 'float16'] : ['float32', 'float16', 'bfloat16'],
  };
}

/** The software GPUs to test; the reason where this build cannot use them. */
export async function findSoftwareGpus(): Promise<Engine[]> {
  if (onlyGpus) return (await ofEnvironment()).filter(isSoftware);
  const settings = everything ? everySetting : pairwise(factors, 3);
  const reason = new Map<number, string | undefined>();
  for (const sm of factors.sm)
    reason.set(sm, await whyMissing(softwareGpu({ sm, devices: 1, seed: 0 }).environment));
  const engines = settings.map((setting) => {
    const missing = reason.get(setting.sm);
    return { ...softwareGpu(setting), ...(missing !== undefined && { missing }) };
  });
  withoutMissing(engines.filter(({ name }) => name.endsWith('1 device, seed 0')));
  return engines;
}

/**
 * For one feature, where test/cases.test.ts has the ways of running: of each compute capability the fewest and the most devices. Each
 * opens in a process of its own, which takes longer than a case.
 */
export async function findSomeSoftwareGpus(): Promise<Engine[]> {
  const all = await findSoftwareGpus();
  const devices = ({ environment }: Engine) => Number(environment.GPUSIM_DEVICES);
  return everything
    ? all
    : familiesOf(all).flatMap((family) => {
        const sorted = family.toSorted((a, b) => devices(a) - devices(b));
        return [...sorted.slice(0, 1), ...sorted.slice(-1)];
      });
}

async function whyMissing(environment: Readonly<Record<string, string>>): Promise<string | undefined> {
  const rows = (await listEnginesIn(environment)).filter(({ name }) => name.startsWith('cuda'));
  if (rows.some(({ available }) => available)) return undefined;
  return rows[0]?.reason ?? 'listEngines() names no GPU';
}

/**
 * The cpu with each instruction set that has products of its own, a software GPU of each compute capability, and the GPUs of this
 * machine; those that can be used.
 */
export async function findEveryKindOfEngine(): Promise<Engine[]> {
  const processors = await findEngines(halfInstructionSets);
  const software = familiesOf(await findSoftwareGpus()).flatMap((family) => family.slice(-1));
  return [...processors, ...software, ...(await findGpus())].filter(({ missing }) => missing === undefined);
}

/** The GPUs of this machine as one engine; none where it has none, or where MARGINFC_LIBCUDA names another driver. */
export async function findGpus(): Promise<Engine[]> {
  if (process.env.MARGINFC_LIBCUDA !== undefined && !onlyGpus) return [];
  return (await ofEnvironment()).filter((engine) => !isSoftware(engine));
}

/** GPUs for calls in the test's own process: two in software, or this machine's. None where this build has no kernels. */
export function gpusOfThisProcess(): DeviceName[] {
  // Before the driver is loaded, which happens on the first use of a GPU.
  if (!onlyGpus) Object.assign(process.env, softwareGpu({ sm: 80, devices: 2, seed: 1 }).environment);
  return listEngines()
    .filter(({ name, available }) => name.startsWith('cuda:') && available)
    .map(({ name }) => name as DeviceName);
}

const isSoftware = ({ name }: Engine) => name.includes('gpusim');

/** All GPUs that this process's environment has, named after the first. */
async function ofEnvironment(): Promise<Engine[]> {
  const rows = (await listEnginesIn({})).filter(
    ({ name, available }) => name.startsWith('cuda') && available,
  );
  const [first] = rows;
  if (first === undefined) return [];
  for (const { name, detail } of rows) console.log(`${name} is tested: ${detail}`);
  const capability = Number(/compute capability (\d+)\./.exec(first.detail ?? '')?.[1]);
  const precisions = ['float32', 'float16', ...(capability >= 8 ? ['bfloat16'] : [])] as Precision[];
  const name = `cuda on ${rows.length} x ${first.detail?.split(',', 1)[0]}`;
  return [{ name, choice: 'cuda', environment: {}, precisions }];
}

/** Something to run on a GPU, and how. */
export interface Assignment<T, P> {
  readonly entry: T;
  readonly engine: Engine;
  readonly precision: P;
}

/**
 * Which entry runs on which GPU with which precision. On the machine's own all on all; on software devices each entry once,
 * on the next GPU with its next precision, or with MARGINFC_TEST_CASES=turns with each precision on each compute capability, there
 * on the next GPU, or with MARGINFC_TEST_CASES=all also all on all. Ordered by GPU, as each needs a process.
 */
export function assign<T, P extends Precision>(
  entries: readonly T[],
  software: readonly Engine[],
  gpus: readonly Engine[],
  precisionsOf: (entry: T) => readonly P[],
): Assignment<T, P>[] {
  const usable = software.filter(({ missing }) => missing === undefined);
  if (onEverySoftwareGpu) return onAll(entries, [...usable, ...gpus], precisionsOf);
  const chosen = everything
    ? familiesOf(usable).flatMap((family) => onNextWithEach(entries, family, precisionsOf))
    : onNext(entries, usable, precisionsOf);
  return [
    ...usable.flatMap((engine) => chosen.filter((one) => one.engine === engine)),
    ...onAll(entries, gpus, precisionsOf),
  ];
}

function onAll<T, P extends Precision>(
  entries: readonly T[],
  engines: readonly Engine[],
  precisionsOf: (entry: T) => readonly P[],
): Assignment<T, P>[] {
  return engines.flatMap((engine) =>
    entries.flatMap((entry) =>
      both(engine, precisionsOf(entry)).map((precision) => ({ entry, engine, precision })),
    ),
  );
}

function onNext<T, P extends Precision>(
  entries: readonly T[],
  engines: readonly Engine[],
  precisionsOf: (entry: T) => readonly P[],
): Assignment<T, P>[] {
  return entries.flatMap((entry, k) => {
    const engine = engines[k % engines.length];
    if (engine === undefined) return [];
    const precisions = both(engine, precisionsOf(entry));
    // Each time the GPU's turn comes, another one; not the same on all GPUs the first time.
    const turn = Math.floor(k / engines.length) + (k % engines.length);
    const precision = precisions[turn % precisions.length];
    return precision === undefined ? [] : [{ entry, engine, precision }];
  });
}

function onNextWithEach<T, P extends Precision>(
  entries: readonly T[],
  family: readonly Engine[],
  precisionsOf: (entry: T) => readonly P[],
): Assignment<T, P>[] {
  return entries.flatMap((entry, k) =>
    precisionsOf(entry).flatMap((precision, turn) => {
      const engine = family[(k + turn) % family.length];
      return engine?.precisions.includes(precision) ? [{ entry, engine, precision }] : [];
    }),
  );
}

/** Software GPUs of the same compute capability. */
function familiesOf(software: readonly Engine[]): Engine[][] {
  const capabilities = [...new Set(software.map(({ environment }) => environment.GPUSIM_SM))];
  return capabilities.map((sm) => software.filter(({ environment }) => environment.GPUSIM_SM === sm));
}

/** As {@link assign}, but each entry with each precision on each compute capability, on few GPUs. */
export function assignToEach<T, P extends Precision>(
  entries: readonly T[],
  software: readonly Engine[],
  gpus: readonly Engine[],
  precisions: readonly P[],
): Assignment<T, P>[] {
  if (everything) return assign(entries, software, gpus, () => precisions);
  return [
    ...familiesOf(software).flatMap((family) =>
      precisions.flatMap((precision) => assign(entries, family.slice(0, 2), [], () => [precision])),
    ),
    ...assign(entries, [], gpus, () => precisions),
  ];
}

function both<P extends Precision>(engine: Engine, precisions: readonly P[]): P[] {
  return precisions.filter((precision) => engine.precisions.includes(precision));
}

/** What can compute here, and which of it a call uses. */

import { addon } from './native.js';
import type { DeviceName, EngineName, Precision } from './options.js';
import { mustBe, show } from './validate.js';

/** One engine or device. */
export type EngineStatus =
  | {
      /** `cpu` or `cuda:N`. */
      readonly name: string;
      readonly available: true;
      /** Instruction set and threads, or the GPU, its compute capability and memory. */
      readonly detail: string;
    }
  | {
      readonly name: string;
      readonly available: false;
      /** Why it cannot be used. */
      readonly reason: string;
    };

/**
 * The engines this build knows, with what they run on or why they cannot. Loads the NVIDIA driver where there is one, and
 * opens each GPU for a moment to see whether it can be used.
 *
 * @throws MarginFcError ERR_NATIVE_LOAD if the addon cannot be loaded.
 */
export function listEngines(): EngineStatus[] {
  return addon()
    .listEngines()
    .map(({ name, available, detail = '', reason = 'no reason known' }) =>
      available ? { name, available, detail } : { name, available, reason },
    );
}

/** What there is of CUDA, for `marginfc doctor`. */
export function describeCuda(): { readonly kernels: string; readonly driver: string } {
  const { kernels, kernelsMissing, driver, driverMissing } = addon().describeCuda();
  return {
    kernels: kernels ?? `none in this build: ${kernelsMissing}`,
    driver: [
      driver === undefined ? 'none' : `for CUDA ${driver}`,
      ...(driverMissing === undefined ? [] : [driverMissing]),
    ].join(': '),
  };
}

/**
 * The devices that will compute, or the reason why those asked for cannot. Never another one in silence. Of `cuda`, no more
 * GPUs are opened than there are shards.
 */
export function checkEngine(
  choice: unknown,
  argument: string,
  shards = Number.POSITIVE_INFINITY,
): readonly DeviceName[] {
  if (choice === 'auto' || choice === 'cpu') return ['cpu'];
  if (typeof choice !== 'string' || !/^cuda(:\d+)?$/.test(choice)) {
    const code = typeof choice === 'string' ? 'ERR_OPTION' : 'ERR_TYPE';
    throw mustBe(code, argument, `'auto', 'cpu', 'cuda' or 'cuda:N'`, show(choice));
  }
  const usable: DeviceName[] = [];
  const reasons = new Set<string>();
  for (const name of choice === 'cuda' ? gpuNames() : [choice]) {
    const { available, reason = 'no reason known' } = addon().openGpu(name);
    if (available) usable.push(name as DeviceName);
    else reasons.add(reason);
    if (usable.length >= shards) break;
  }
  if (usable.length > 0) return usable;
  throw mustBe(
    'ERR_ENGINE_UNAVAILABLE',
    argument,
    'an engine that can run here',
    `${show(choice)}: ${[...reasons].join('; ')} (the cpu engine is not affected)`,
  );
}

/** Every GPU that the driver counts; without any, the name whose failure says why. */
function gpuNames(): string[] {
  const { devices } = addon().describeCuda();
  return Array.from({ length: Math.max(devices, 1) }, (_, index) => `cuda:${index}`);
}

/** The devices that a head's classes live on. */
export function checkDevices(devices: unknown, argument: string): readonly DeviceName[] {
  if (!Array.isArray(devices) || devices.length === 0)
    throw mustBe('ERR_TYPE', argument, `an array such as ['cpu'] or ['cuda:0', 'cuda:1']`, show(devices));
  const found = devices.flatMap((device, i) => checkEngine(device, `${argument}[${i}]`));
  const twice = found.find((name, i) => found.indexOf(name) < i);
  if (twice !== undefined) throw mustBe('ERR_OPTION', argument, 'different devices', `${twice} twice`);
  return found;
}

/** Refuses what a device cannot multiply: bfloat16 before compute capability 8.0. */
export function checkPrecision(precision: Precision, devices: readonly DeviceName[]): void {
  if (precision !== 'bfloat16' || devices.every((name) => name === 'cpu')) return;
  const gpus = devices.filter((name) => name !== 'cpu').map((name) => addon().openGpu(name));
  const without = gpus.find(({ bfloat16 }) => bfloat16 === false);
  if (without === undefined) return;
  throw mustBe(
    'ERR_PRECISION_UNSUPPORTED',
    'precision',
    `'float16' or 'float32' on ${without.name} (${without.detail})`,
    show(precision),
  );
}

/** What computed: shards go round the devices. */
export function engineName(devices: readonly DeviceName[], shards: number): EngineName {
  return devices.slice(0, shards).join('+') as EngineName;
}

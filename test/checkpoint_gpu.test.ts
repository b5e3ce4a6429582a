/**
 * Checkpoints of heads on GPUs, and classes that come and go there: the same bits as on the cpu engine, from any engine to any.
 * On the software device; with MARGINFC_TEST_ENGINES=gpu on this machine's GPUs.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type DeviceName, listEngines, MarginHead } from '../src/index.js';
import { batchOf, futureOf, kept, newFolder, optimizers, size, trainedHead } from './checkpoint_heads.js';
import { onlyGpus, softwareGpu } from './gpus.js';

// Before the driver is loaded, which happens on the first use of a GPU.
if (!onlyGpus) Object.assign(process.env, softwareGpu({ sm: 80, devices: 2, seed: 2 }).environment);

const gpus = listEngines()
  .filter(({ name, available }) => name.startsWith('cuda:') && available)
  .map(({ name }) => name as DeviceName);
const places: Record<string, DeviceName[]> = {
  cpu: ['cpu'],
  'all GPUs': gpus,
  'the cpu and a GPU': ['cpu', ...gpus.slice(0, 1)],
};
const shards = 3;

/** Of each file of a checkpoint: equal for equal bits of all arrays. */
async function digests(head: MarginHead): Promise<string[]> {
  const folder = newFolder();
  await head.save(folder);
  const { checkpoint } = JSON.parse(readFileSync(join(folder, 'head.json'), 'utf8'));
  return checkpoint.files.map(({ sha256 }: { sha256: string }) => sha256);
}

describe.skipIf(gpus.length === 0)('a head with GPUs', () => {
  const ways = Object.keys(places).flatMap((from) => Object.keys(places).map((to) => [from, to] as const));

  test.each(ways)('goes from %s to %s with the same bits', async (from, to) => {
    for (const optimizer of Object.values(optimizers)) {
      const head = await trainedHead({ devices: places[from], shards, optimizer }, { accumulated: true });
      const folder = newFolder();
      await head.save(folder);
      const loaded = kept(await MarginHead.load(folder, { devices: places[to], shards }));
      expect(await digests(loaded)).toEqual(await digests(head));
      const restored = await trainedHead({ devices: places[to], shards: 2, optimizer }, { steps: 5 });
      await restored.restore(await head.snapshot());
      expect(await restored.snapshot()).toEqual(await head.snapshot());
      if (from === to) expect(await futureOf(loaded)).toEqual(await futureOf(head));
    }
  });

  test.each(Object.keys(places))('adds and removes classes as the cpu engine does: %s', async (place) => {
    for (const optimizer of Object.values(optimizers)) {
      const start = newFolder();
      await (await trainedHead({ optimizer }, { accumulated: true })).save(start);
      const [head, twin] = [
        kept(await MarginHead.load(start, { devices: places[place], shards })),
        kept(await MarginHead.load(start, { shards })),
      ];
      const added = Float32Array.from({ length: 20 * size.dim }, (_, i) => Math.sin(i));
      for (const each of [head, twin]) {
        await each.removeClasses([0, 1, 17, 18, 19, 52]);
        await each.addClasses(added);
        await each.removeClasses([30, 66]);
      }
      expect(await digests(head)).toEqual(await digests(twin));
    }
  });

  test('has more shards than classes after removing most, and more again', async () => {
    const head = await trainedHead({ devices: gpus, shards });
    await head.removeClasses(Array.from({ length: size.classes - 1 }, (_, id) => id));
    const batch = batchOf(1, { ...size, classes: 1 });
    expect((await head.step(batch)).engine).toBe(gpus.join('+'));
    const folder = newFolder();
    await head.save(folder);
    const loaded = kept(await MarginHead.load(folder, { devices: gpus, shards }));
    for (const each of [head, loaded]) await each.addClasses(new Float32Array(4 * size.dim).fill(0.5));
    expect(await futureOf(loaded)).toEqual(await futureOf(head));
  });

  test('draws the cpu engine’s weights for new classes', async () => {
    const heads = [
      kept(await MarginHead.create({ dim: 33, classes: 20, shards, devices: gpus, precision: 'float32' })),
      kept(await MarginHead.create({ dim: 33, classes: 20, shards })),
    ];
    for (const head of heads) await head.addClasses(31);
    const [got, expected] = heads.map((head) => head.weights(20));
    const apart = got!.reduce((most, value, i) => Math.max(most, Math.abs(value - expected![i]!)), 0);
    expect(apart).toBeLessThan(1e-8);
    expect(Math.max(...expected!)).toBeGreaterThan(0.01);
  });
});

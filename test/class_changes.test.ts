/** Classes that come and go: the others stay as they are, bit for bit, and so does what steps make of them. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { arcface, cosface, MarginHead, type MarginHeadOptions, weightsFrom } from '../src/index.js';
import {
  batchOf,
  futureOf,
  kept,
  newFolder,
  optimizers,
  size,
  stateOf,
  trainedHead,
} from './checkpoint_heads.js';
import { expectFailure, failureOf } from './failures.js';
import { seeded } from './random.js';
import { runs } from './random_problems.js';

const { dim, classes } = size;
const rowsOf = (count: number, seed: number) => {
  const random = seeded(seed);
  return Float32Array.from({ length: count * dim }, () => random.normal());
};
const rows = (head: MarginHead, ids: Iterable<number>) =>
  Float32Array.from(Array.from(ids, (id) => [...head.weights(id, id + 1)]).flat());

describe('addClasses', () => {
  test('appends the weights given, and keeps all else', async () => {
    const head = await trainedHead({ shards: 3 });
    const before = head.weights();
    const added = rowsOf(5, 1);
    expect(await head.addClasses(added)).toEqual(Int32Array.of(53, 54, 55, 56, 57));
    expect(head.classes).toBe(58);
    expect(head.stepCount).toBe(2);
    expect(head.weights(0, classes)).toEqual(before);
    expect(head.weights(classes)).toEqual(added);
  });

  test('draws weights of the head’s deviation, never the same twice', async () => {
    const head = kept(await MarginHead.create({ dim: 64, classes: 500, init: { std: 0.5 } }));
    await head.addClasses(500);
    await head.removeClasses(Array.from({ length: 500 }, (_, i) => i + 500));
    const first = head.weights();
    await head.addClasses(500);
    const values = head.weights(500);
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / values.length);
    // Five standard errors.
    expect(Math.abs(deviation - 0.5)).toBeLessThan((5 * 0.5) / Math.sqrt(2 * values.length));
    await head.addClasses(500, { init: { seed: 0 } });
    const rest = [values, head.weights(1000), first].map((part) => part.slice(0, 64).join());
    expect(new Set(rest).size).toBe(3);
  });

  test('draws the same weights after a checkpoint', async () => {
    const head = await trainedHead();
    await head.addClasses(3);
    const folder = newFolder();
    await head.save(folder);
    const loaded = kept(await MarginHead.load(folder));
    await loaded.addClasses(4);
    await head.addClasses(4);
    expect(await futureOf(loaded)).toEqual(await futureOf(head));
  });

  test('asks a function or a file for the new ones, from 0 on', async () => {
    const head = await trainedHead();
    const asked: number[][] = [];
    await head.addClasses(2, {
      init: (start, end) => {
        asked.push([start, end]);
        return rowsOf(2, 7);
      },
    });
    expect(asked).toEqual([[0, 2]]);
    expect(head.weights(classes)).toEqual(rowsOf(2, 7));
    const eight = kept(await MarginHead.create({ dim: 8, classes: 3 }));
    const init = await weightsFrom(`${import.meta.dirname}/safetensors/f32_two_tensors.safetensors`);
    await eight.addClasses(11, { init });
    expect(eight.weights(3)).toEqual(await init(0, 11));
    await expectFailure(
      () => eight.addClasses(4, { init }),
      'ERR_SHAPE',
      /^init\.classes must be 4, received 11$/,
    );
  });

  test('leaves the head as it was when something fails', async () => {
    const [head, twin] = [await trainedHead(), await trainedHead()];
    const broken = new Error('disk gone');
    const init = () => {
      throw broken;
    };
    await expect(head.addClasses(2, { init })).rejects.toBe(broken);
    const wrong = () => new Float32Array(3);
    await expectFailure(
      () => head.addClasses(2, { init: wrong }),
      'ERR_SHAPE',
      /^init\(0, 2\)\.length must be 34/,
    );
    const late = async () => rowsOf(2, 1);
    await expectFailure(
      () => head.addClassesSync(2, { init: late }),
      'ERR_TYPE',
      /^init\(0, 2\) must be a Float32Array/,
    );
    const controller = new AbortController();
    const aborted = head.addClasses(2, { signal: controller.signal });
    controller.abort();
    expect((await failureOf(() => aborted)).code).toBe('ERR_ABORTED');
    expect(await futureOf(head)).toEqual(await futureOf(twin));
  });

  test.each<[unknown, object | undefined, string, RegExp]>([
    [0, undefined, 'ERR_SHAPE', /^added must be an integer in \[1, /],
    [2 ** 31, undefined, 'ERR_SHAPE', /^added must be an integer in \[1, /],
    ['5', undefined, 'ERR_TYPE', /^added must be/],
    [[1, 2], undefined, 'ERR_TYPE', /^added must be/],
    [new Float32Array(dim + 1), undefined, 'ERR_SHAPE', /^added\.length must be a multiple of dim 17/],
    [new Float32Array(0), undefined, 'ERR_SHAPE', /^added\.length must be/],
    [new Float32Array(dim), { init: { std: 1 } }, 'ERR_OPTION', /^init must be undefined/],
    [1, { init: { std: -1 } }, 'ERR_OPTION', /^init\.std must be/],
    [1, { weights: rowsOf(1, 1) }, 'ERR_OPTION', /^a name in options/],
  ])('refuses %s with %s', async (added, options, code, message) => {
    const head = await trainedHead({}, { steps: 0 });
    await expectFailure(() => head.addClasses(added as number, options), code, message);
  });

  test('asks for the margin of the new classes where there is one for each', async () => {
    const perClass = (count: number) => arcface({ m: { perClass: new Float32Array(count).fill(0.3) } });
    const head = await trainedHead({ margin: perClass(classes) });
    await expectFailure(() => head.addClasses(1), 'ERR_OPTION', /^margin must be given for the new classes/);
    await head.addClasses(1, { margin: perClass(classes + 1) });
    expect((await head.step(batchOf(3))).loss).toBeGreaterThan(0);
  });
});

describe('removeClasses', () => {
  test('closes the gaps and says where each class went', async () => {
    const head = await trainedHead({ shards: 3 });
    const before = head.weights();
    const gone = new Set([0, 7, 8, 30, 52]);
    const map = await head.removeClasses(gone);
    const stayed = Array.from({ length: classes }, (_, id) => id).filter((id) => !gone.has(id));
    expect(Array.from(map)).toEqual(
      Array.from({ length: classes }, (_, id) => (gone.has(id) ? -1 : stayed.indexOf(id))),
    );
    expect(head.classes).toBe(48);
    expect(head.weights()).toEqual(
      Float32Array.from(stayed.flatMap((id) => [...before.subarray(id * dim, (id + 1) * dim)])),
    );
  });

  test('takes parameters for each class along', async () => {
    const m = Float32Array.from({ length: classes }, (_, id) => id / 100);
    const head = await trainedHead({ margin: arcface({ m: { perClass: m } }) });
    await head.removeClasses([1, 50]);
    const left = Float32Array.from([...m].filter((_, id) => id !== 1 && id !== 50));
    expect(head.margin).toEqual(arcface({ m: { perClass: left } }));
  });

  test('refuses what are not different ids of some classes', async () => {
    const head = await trainedHead({}, { steps: 0 });
    const all = Int32Array.from({ length: classes }, (_, id) => id);
    const cases: [unknown, string, RegExp][] = [
      [[3, 53], 'ERR_LABEL_RANGE', /^ids\[1\] must be an integer in \[0, 52\], received 53$/],
      [[-1], 'ERR_LABEL_RANGE', /^ids\[0\] must be/],
      [['1'], 'ERR_TYPE', /^ids\[0\] must be/],
      [[4, 5, 4], 'ERR_OPTION', /^ids\[2\] must be another class than those before, received 4$/],
      [all, 'ERR_SHAPE', /^ids must be fewer than all classes, received all 53$/],
      [3, 'ERR_TYPE', /^ids must be an array or a Set/],
    ];
    for (const [ids, code, message] of cases)
      await expectFailure(() => head.removeClasses(ids as number[]), code, message);
    expect(await head.removeClasses([])).toEqual(all);
  });
});

describe('calls made while classes come and go', () => {
  test('see those that there are in their turn', async () => {
    const [head, twin] = [await trainedHead(), await trainedHead()];
    const added = rowsOf(3, 2);
    const wide = batchOf(5, { ...size, classes: classes + 3 });
    const narrow = batchOf(6, { ...size, classes: 40 });
    const gone = Int32Array.from({ length: 16 }, (_, i) => i + 40);
    const calls = [
      head.step(batchOf(4)),
      head.addClasses(added),
      head.step(wide),
      head.removeClasses(gone),
      head.nearest(wide.features, 40),
      head.step(narrow),
    ];
    const late = head.step(wide);
    const bad = head.nearest(wide.features, 41);
    const busy = await failureOf(() => head.stepSync(narrow));
    expect(busy.code).toBe('ERR_BUSY');
    const results = await Promise.all(calls);
    await expectFailure(() => bad, 'ERR_OPTION', /^k must be an integer in \[1, 40\]/);
    expect(Math.max(...wide.labels)).toBeGreaterThan(39);
    expect((await failureOf(() => late)).code).toBe('ERR_LABEL_RANGE');
    const expected = [
      await twin.step(batchOf(4)),
      twin.addClassesSync(added),
      await twin.step(wide),
      twin.removeClassesSync(gone),
      await twin.nearest(wide.features, 40),
      await twin.step(narrow),
    ];
    expect(results).toEqual(expected);
    expect(await futureOf(head)).toEqual(await futureOf(twin));
  });

  test('leave the queue when their signal fires, and are made though the head is disposed of', async () => {
    const head = await trainedHead();
    const controller = new AbortController();
    const adding = head.addClasses(2);
    const aborted = head.step(batchOf(4), { signal: controller.signal });
    const last = head.step(batchOf(4));
    controller.abort();
    head.dispose();
    expect((await failureOf(() => aborted)).code).toBe('ERR_ABORTED');
    await adding;
    expect((await last).loss).toBeGreaterThan(0);
    expect((await failureOf(() => head.addClasses(1))).code).toBe('ERR_DISPOSED');
    expect((await failureOf(() => head.removeClasses([1]))).code).toBe('ERR_DISPOSED');
  });

  test('are not forward passes of the classes before', async () => {
    const head = await trainedHead();
    const pass = head.forwardSync(batchOf(4));
    head.addClassesSync(1);
    await expectFailure(
      () => pass.backwardSync(),
      'ERR_DISPOSED',
      /^forward pass must be of the head's present classes/,
    );
    pass.dispose();
  });
});

/** Against a plain model: a list of classes, each with its rows of weights, momentum, variance and accumulated gradient. */
describe('any changes', () => {
  const change = fc.oneof(
    fc.record({ kind: fc.constant('add' as const), count: fc.integer({ min: 1, max: 40 }), seed: fc.nat() }),
    fc.record({
      kind: fc.constant('remove' as const),
      seed: fc.nat(),
      share: fc.double({ min: 0, max: 0.9, noNaN: true }),
    }),
    fc.record({ kind: fc.constant('step' as const), seed: fc.nat({ max: 1000 }) }),
    fc.record({ kind: fc.constant('accumulate' as const), seed: fc.nat({ max: 1000 }) }),
  );
  const shards = fc.constantFrom(1, 2, 3, 7);

  test('keep every other class, and split the classes as a new head does', async () => {
    const property = fc.asyncProperty(fc.array(change, { maxLength: 6 }), shards, async (changes, count) => {
      const head = await trainedHead({ optimizer: optimizers.adamw, shards: count });
      /** Of each class its rows of all arrays. */
      const read = async () => {
        const state = Object.entries(await stateOf(head));
        return Array.from({ length: head.classes }, (_, id) =>
          Object.fromEntries(state.map(([name, rows]) => [name, rows.slice(id * dim, (id + 1) * dim)])),
        );
      };
      let model = await read();
      for (const each of changes) {
        if (each.kind === 'add') {
          const added = rowsOf(each.count, each.seed);
          const ids = await head.addClasses(added);
          expect(Array.from(ids)).toEqual(Array.from(ids, (_, i) => model.length + i));
          const none = Object.keys(model[0]!).map((name) => [name, new Float32Array(dim)]);
          for (let i = 0; i < each.count; i++)
            model.push({ ...Object.fromEntries(none), weight: added.slice(i * dim, (i + 1) * dim) });
        } else if (each.kind === 'remove') {
          const random = seeded(each.seed);
          const ids = model.map((_, id) => id).filter((id) => id > 0 && random.uniform() < each.share);
          const map = await head.removeClasses(ids);
          const next: typeof model = [];
          for (const [id, row] of model.entries()) if (map[id]! >= 0) next[map[id]!] = row;
          expect(next).toHaveLength(model.length - ids.length);
          model = next;
        } else {
          await head[each.kind](batchOf(each.seed, { ...size, classes: head.classes }));
          model = await read();
        }
        expect(await read()).toEqual(model);
      }
      // A new head from the checkpoint has the same shards and the same future.
      const folder = newFolder();
      await head.save(folder);
      const fresh = kept(await MarginHead.load(folder, { shards: count }));
      expect(await futureOf(fresh)).toEqual(await futureOf(head));
    });
    await fc.assert(property, runs);
  });

  /** Steps that see only some of the classes leave the others' gradients at 0 but not their optimiser's state. */
  test.each(Object.entries(optimizers))('keep the optimiser’s state with %s', async (_, optimizer) => {
    const property = fc.asyncProperty(fc.nat(), shards, fc.boolean(), async (seed, count, accumulated) => {
      const options: Partial<MarginHeadOptions> = { optimizer, shards: count, margin: cosface() };
      const random = seeded(seed);
      const gone = Array.from({ length: classes }, (_, id) => id).filter(() => random.uniform() < 0.4);
      const [head, whole] = [
        await trainedHead(options, { accumulated }),
        await trainedHead(options, { accumulated }),
      ];
      const map = await head.removeClasses(gone);
      // An update without gradient moves each class by its own state alone.
      const still = { features: new Float32Array(dim), labels: Int32Array.of(-1) };
      for (const each of [head, whole]) {
        expect(await each.apply()).toBe(accumulated);
        for (let i = 0; i < 3; i++) await each.step(still);
      }
      const stayed = Array.from(map.keys()).filter((id) => map[id]! >= 0);
      expect(head.weights()).toEqual(rows(whole, stayed));
    });
    await fc.assert(property, { ...runs, numRuns: Math.ceil((runs.numRuns ?? 0) / 4) });
  });
});

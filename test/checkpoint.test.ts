/** Checkpoints: what is saved is what is loaded, whatever the shards. */
import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { parseSafetensorsMetadata } from '@huggingface/hub';
import { describe, expect, test } from 'vitest';
import { arcface, combined, cosface, customMargin, MarginHead, sgd, weightsFrom } from '../src/index.js';
import { halves } from './bfloat16.js';
import {
  batchOf,
  futureOf,
  kept,
  newFolder,
  optimizers,
  shardsOf,
  size,
  trainedHead,
} from './checkpoint_heads.js';
import { expectFailure, failureOf } from './failures.js';

const load = async (...args: Parameters<typeof MarginHead.load>) => kept(await MarginHead.load(...args));
const filesOf = (folder: string) => readdirSync(folder).sort();

describe('a head that was saved and loaded', () => {
  test.each(
    Object.entries(optimizers).flatMap(([name, optimizer]) =>
      [false, true].map((accumulated) => ({ name, optimizer, accumulated })),
    ),
  )('makes the same steps: $name, accumulated $accumulated', async ({ optimizer, accumulated }) => {
    const head = await trainedHead({ optimizer, shards: 3 }, { accumulated });
    const folder = newFolder();
    await head.save(folder);
    const loaded = await load(folder, { shards: 3 });
    expect(await futureOf(loaded)).toEqual(await futureOf(head));
  });

  test.each([1, 2, 7, 60])(
    'has the same bits with %i shards, and after going through them',
    async (shards) => {
      const head = await trainedHead({ optimizer: optimizers.adamw, shards: 3 }, { accumulated: true });
      const [folder, second] = [newFolder(), newFolder()];
      await head.save(folder);
      const other = await load(folder, { shards });
      expect({ shards: other.shards, weights: other.weights() }).toEqual({ shards, weights: head.weights() });
      await other.save(second);
      expect(shardsOf(second)).toHaveLength(Math.min(shards, size.classes));
      const back = await load(second, { shards: 3 });
      expect(await futureOf(back)).toEqual(await futureOf(head));
    },
  );

  test('has the options it had, unless given others', async () => {
    const options = {
      margin: combined({ m1: 0.9, m2: 0.4, m3: 0.15 }),
      scale: 30,
      gradient: 'straightThrough',
      onOverflow: 'fallback',
      optimizer: optimizers.adamw,
      precision: 'float16',
      workspace: 'recompute',
    } as const;
    const head = await trainedHead(options);
    const folder = newFolder();
    await head.save(pathToFileURL(folder));
    const describeHead = ({
      dim,
      classes,
      margin,
      scale,
      gradient,
      onOverflow,
      optimizer,
      shards,
    }: MarginHead) => ({
      ...{ dim, classes, margin, scale, gradient, onOverflow, optimizer, shards },
    });
    const loaded = await load(pathToFileURL(folder));
    expect(describeHead(loaded)).toEqual(describeHead(head));
    const { precision, workspace } = await loaded.evaluate(batchOf(1));
    expect({ precision, workspace }).toEqual({ precision: 'float16', workspace: 'recompute' });
    const other = await load(folder, {
      margin: cosface(),
      onOverflow: 'none',
      scale: 64,
      precision: 'float32',
    });
    expect(describeHead(other)).toMatchObject({
      margin: cosface(),
      onOverflow: 'none',
      scale: 64,
      gradient: 'straightThrough',
    });
    expect((await other.evaluate(batchOf(1))).precision).toBe('float32');
  });

  test('takes another optimiser only with the state that there is', async () => {
    const folder = newFolder();
    await (await trainedHead({ optimizer: optimizers['sgd with momentum'] })).save(folder);
    const faster = sgd({ learningRate: 1, momentum: 0.8 });
    expect((await load(folder, { optimizer: faster })).optimizer).toEqual(faster);
    for (const optimizer of [optimizers.sgd, optimizers.adamw])
      await expectFailure(
        () => load(folder, { optimizer }),
        'ERR_OPTION',
        /^optimizer must be sgd with momentum, /,
      );
  });

  test('asks for a margin that has arrays or a callback', async () => {
    const margins = [
      arcface({ m: { perClass: new Float32Array(size.classes).fill(0.3) } }),
      customMargin(({ cosine }) => ({ target: cosine, dTarget: 1 })),
    ];
    for (const margin of margins) {
      const folder = newFolder();
      await (await trainedHead({ margin })).save(folder);
      await expectFailure(() => load(folder), 'ERR_OPTION', /^margin must be given/);
      expect((await load(folder, { margin })).margin).toEqual(margin);
    }
  });
});

describe('save', () => {
  test('replaces a checkpoint, and leaves nothing of it', async () => {
    const folder = join(newFolder(), 'made', 'on the way');
    const head = await trainedHead({ shards: 2 });
    await head.save(folder);
    const before = filesOf(folder);
    writeFileSync(join(folder, 'notes.txt'), 'mine');
    writeFileSync(join(folder, '.head.json.tmp'), 'of a save that was killed');
    await head.step(batchOf(5));
    await head.save(folder);
    expect(filesOf(folder)).toHaveLength(4);
    expect(filesOf(folder).filter((name) => before.includes(name))).toEqual(['head.json']);
    expect(filesOf(folder)).toContain('notes.txt');
    expect((await load(folder)).weights()).toEqual(head.weights());
  });

  test('has its turn among the calls on the head', async () => {
    const [head, twin] = [await trainedHead(), await trainedHead()];
    const folder = newFolder();
    const calls = [head.step(batchOf(6)), head.save(folder), head.step(batchOf(7))];
    await twin.step(batchOf(6));
    await Promise.all(calls);
    expect(await futureOf(await load(folder))).toEqual(await futureOf(twin));
  });

  test('ends when its signal fires, and leaves the checkpoint of before', async () => {
    const head = await trainedHead();
    const folder = newFolder();
    await head.save(folder);
    const before = filesOf(folder);
    await head.step(batchOf(5));
    const controller = new AbortController();
    const saving = head.save(folder, { signal: controller.signal });
    controller.abort();
    expect((await failureOf(() => saving)).code).toBe('ERR_ABORTED');
    expect(filesOf(folder)).toEqual(before);
    expect((await failureOf(() => load(folder, { signal: controller.signal }))).code).toBe('ERR_ABORTED');
    expect((await load(folder)).stepCount).toBe(2);
  });

  test('may happen while another reads the checkpoint, which gets the old or the new one', async () => {
    const head = await trainedHead({ shards: 5 });
    const folder = newFolder();
    await head.save(folder);
    for (let i = 0; i < 20; i++) {
      const { stepCount } = head;
      await head.step(batchOf(i));
      const [, loaded] = await Promise.all([head.save(folder), load(folder)]);
      expect([stepCount, stepCount + 1]).toContain(loaded.stepCount);
    }
  });

  // The peak of resident memory, which Linux lets a process reset.
  test('and load need no second copy of the arrays', async () => {
    const program = fileURLToPath(new URL('./lifecycle/checkpoint_memory.mjs', import.meta.url));
    const { stdout } = await promisify(execFile)(process.execPath, [program, newFolder()]);
    const { save, load, size } = JSON.parse(stdout) as Record<'save' | 'load' | 'size', number>;
    // Blocks, buffers of the file system and garbage; the arrays have 128 MiB.
    expect(size).toBe(2 ** 27);
    expect(save).toBeLessThan(size / 4);
    expect(load).toBeLessThan(size / 4);
  });

  test('names what cannot be written, and what another head is being saved to', async () => {
    const [head, other] = [await trainedHead(), await trainedHead()];
    const folder = newFolder();
    writeFileSync(join(folder, 'file'), '');
    await expectFailure(
      () => head.save(join(folder, 'file')),
      'ERR_CHECKPOINT',
      /file cannot be written: EEXIST/,
    );
    mkdirSync(join(folder, 'taken', 'head.json'), { recursive: true });
    await expectFailure(
      () => head.save(join(folder, 'taken')),
      'ERR_CHECKPOINT',
      /head\.json cannot be written: /,
    );
    const both = await Promise.allSettled([head.save(folder), other.save(folder)]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await expectFailure(() => head.save(''), 'ERR_OPTION', /^folder must be a path/);
    await expectFailure(() => head.save(7 as never), 'ERR_TYPE', /^folder must be a path/);
    await expectFailure(() => head.save(folder, { sync: true } as never), 'ERR_OPTION', /^a name in options/);
    head.dispose();
    await expectFailure(() => head.save(folder), 'ERR_DISPOSED', /^head must be open/);
  });
});

describe('the files', () => {
  /** As the Hub serves files. */
  function serve(folder: string): typeof fetch {
    return async (input, init) => {
      const name = new URL(input instanceof Request ? input.url : input).pathname.split('/').at(-1) ?? '';
      const contents = readFileSync(join(folder, name));
      const range = /bytes=(\d+)-(\d+)/.exec(new Headers(init?.headers).get('range') ?? '');
      const [start, end] = range ? [Number(range[1]), Number(range[2]) + 1] : [0, contents.length];
      const part = contents.subarray(start, Math.min(end, contents.length));
      const headers = {
        etag: '"1"',
        'content-range': `bytes ${start}-${start + part.length - 1}/${contents.length}`,
        'content-length': String(part.length),
      };
      return new Response(part, { status: range ? 206 : 200, headers });
    };
  }

  test.each(['float32', 'bfloat16'] as const)(
    'are what another reader of safetensors expects: %s',
    async (storage) => {
      const head = await trainedHead(
        { optimizer: optimizers.adamw, shards: 2, storage },
        { accumulated: true },
      );
      const folder = newFolder();
      await head.save(folder);
      const ranges = [
        [0, 27],
        [27, 53],
      ];
      for (const [i, name] of shardsOf(folder).entries()) {
        const { header } = (await parseSafetensorsMetadata({
          repo: 'any/model',
          path: name,
          fetch: serve(folder),
        })) as { header: Record<string, unknown> };
        const { __metadata__: metadata, ...tensors } = header as Record<
          string,
          { shape: number[]; data_offsets: [number, number] }
        >;
        const [start = 0, end = 0] = ranges[i] ?? [];
        const shape = [end - start, size.dim];
        const count = (end - start) * size.dim;
        const bytes = { float32: 4, bfloat16: 2 }[storage];
        const stateEntry = (tensor: string, at: number) => [
          tensor,
          { dtype: 'F32', shape, data_offsets: [at, at + 1].map((k) => count * (bytes + 4 * k)) },
        ];
        expect(Object.entries(tensors)).toEqual([
          [
            'weight',
            { dtype: storage === 'float32' ? 'F32' : 'BF16', shape, data_offsets: [0, count * bytes] },
          ],
          ...['momentum', 'variance', 'accumulated'].map(stateEntry),
        ]);
        expect(metadata).toMatchObject({
          class_start: String(start),
          class_end: String(end),
          step: '2',
          margin: JSON.stringify(arcface()),
          optimizer: JSON.stringify(optimizers.adamw),
        });
        const contents = readFileSync(join(folder, name));
        const from = contents.length - count * (bytes + 12);
        const stored = new Uint8Array(contents.subarray(from, from + count * bytes)).buffer;
        const weights = head.weights(start, end);
        if (storage === 'float32') expect(new Float32Array(stored)).toEqual(weights);
        else expect(new Uint16Array(stored)).toEqual(halves(weights));
      }
    },
  );

  test('are first weights for another head', async () => {
    const head = await trainedHead({ shards: 3 });
    const folder = newFolder();
    await head.save(folder);
    const init = await weightsFrom(shardsOf(folder).map((name) => join(folder, name)));
    const other = kept(await MarginHead.create({ dim: init.dim, classes: init.classes, init }));
    expect(other.weights()).toEqual(head.weights());
  });
});

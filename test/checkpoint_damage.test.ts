/** What is not a whole checkpoint is refused: half written, damaged, of something else, or made to look right. */
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MarginFcError, MarginHead } from '../src/index.js';
import { newFolder, optimizers, shardsOf, trainedHead } from './checkpoint_heads.js';
import { expectFailure } from './failures.js';
import { runs } from './random_problems.js';

describe('load refuses', () => {
  async function saved(): Promise<{ folder: string; shard: string; index: string }> {
    const folder = newFolder();
    await (await trainedHead({ shards: 2, optimizer: optimizers['sgd with momentum'] })).save(folder);
    return { folder, shard: join(folder, shardsOf(folder)[1] as string), index: join(folder, 'head.json') };
  }
  type Saved = Awaited<ReturnType<typeof saved>>;

  const edit = (path: string, change: (bytes: Buffer) => Uint8Array) =>
    writeFileSync(path, change(readFileSync(path)));
  const damages: [string, (files: Saved) => void, RegExp][] = [
    [
      'a folder that is not there',
      ({ folder }) => rmSync(folder, { recursive: true }),
      /head\.json cannot be read: ENOENT/,
    ],
    ['a set without index', ({ index }) => rmSync(index), /head\.json cannot be read: ENOENT/],
    [
      'a set without a shard',
      ({ shard }) => rmSync(shard),
      /00002-of-00002\.safetensors cannot be read: ENOENT/,
    ],
    [
      'a truncated shard',
      ({ shard }) => edit(shard, (bytes) => bytes.subarray(0, -100)),
      /00002-of-00002\.safetensors must be \d+ bytes long, received \d+ bytes$/,
    ],
    [
      'a changed value',
      ({ shard }) => edit(shard, (bytes) => bytes.fill(bytes[900]! ^ 1, 900, 901)),
      /00002-of-00002\.safetensors must be as it was written, with the checksum of head\.json/,
    ],
    [
      'a changed header',
      ({ shard }) =>
        edit(shard, (bytes) =>
          Buffer.from(bytes.toString('latin1').replace('"step":"2"', '"step":"3"'), 'latin1'),
        ),
      /00002-of-00002\.safetensors must be as it was written/,
    ],
    [
      'shards in each other’s place',
      ({ folder, shard }) => {
        copyFileSync(join(folder, shardsOf(folder)[0] as string), shard);
      },
      /00002-of-00002\.safetensors must be \d+ bytes long/,
    ],
    [
      'an empty index',
      ({ index }) => writeFileSync(index, ''),
      /head\.json must be the index of a checkpoint/,
    ],
    [
      'a truncated index',
      ({ index }) => edit(index, (bytes) => bytes.subarray(0, -9)),
      /head\.json must be the index of a checkpoint, received something that is not JSON/,
    ],
    [
      'another index',
      ({ index }) => writeFileSync(index, '{"weight_map":{}}'),
      /head\.json must be the index of a checkpoint of format/,
    ],
    [
      'an index with a changed number',
      ({ index }) =>
        edit(index, (bytes) => Buffer.from(bytes.toString().replace('"scale": 64', '"scale": 65'))),
      /head\.json must be as it was written/,
    ],
    [
      'a later version',
      ({ index }) =>
        edit(index, (bytes) => Buffer.from(bytes.toString().replace('"version": 1', '"version": 2'))),
      /head\.json must be of version 1/,
    ],
    [
      'a folder in the place of a shard',
      ({ shard }) => {
        rmSync(shard);
        mkdirSync(shard);
      },
      /00002-of-00002\.safetensors must be a file/,
    ],
  ];

  test.each(damages)('%s', async (_, damage, message) => {
    const files = await saved();
    damage(files);
    await expectFailure(() => MarginHead.load(files.folder), 'ERR_CHECKPOINT', message);
  });

  test('a checkpoint in the middle of its first save', async () => {
    const { folder, index } = await saved();
    renameSync(index, join(folder, '.head.json.tmp'));
    await expectFailure(() => MarginHead.load(folder), 'ERR_CHECKPOINT', /head\.json cannot be read: ENOENT/);
  });

  type Json = Record<string, unknown>;
  const sha256 = (value: string | Uint8Array) => createHash('sha256').update(value).digest('hex');

  /** A load of anything that carries the right checksums loads a head, or says what is wrong with which file. */
  async function loadOrRefuse(folder: string): Promise<void> {
    try {
      const head = await MarginHead.load(folder);
      expect(head.weights()).toHaveLength(head.classes * head.dim);
      head.dispose();
    } catch (error) {
      expect(error).toBeInstanceOf(MarginFcError);
      const { code, message } = error as MarginFcError;
      if (code === 'ERR_OPTION') expect(message).toMatch(/^margin must be given/);
      else
        expect({ code, message }).toEqual({
          code: 'ERR_CHECKPOINT',
          message: expect.stringContaining(folder),
        });
    }
  }

  test('or takes any index with the right checksum', async () => {
    const { folder, index } = await saved();
    const whole = readFileSync(index, 'utf8');
    const places: string[][] = [];
    const walk = (value: unknown, path: string[]) => {
      if (path.length > 0) places.push(path);
      if (typeof value === 'object' && value !== null)
        for (const [name, inner] of Object.entries(value)) walk(inner, [...path, name]);
    };
    walk(JSON.parse(whole).checkpoint, []);
    const other = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(0, 1, -1, 2, 54, 2 ** 31 - 1, 2 ** 53, 'sgd', 'adamw', '../head.json', 'float16'),
    );
    const property = fc.asyncProperty(
      fc.constantFrom(...places),
      other,
      fc.boolean(),
      async (path, value, remove) => {
        const { checkpoint } = JSON.parse(whole) as { checkpoint: Json };
        const last = path.at(-1) as string;
        const holder = path.slice(0, -1).reduce((object, name) => object[name] as Json, checkpoint);
        if (remove) delete holder[last];
        else holder[last] = value;
        writeFileSync(index, JSON.stringify({ sha256: sha256(JSON.stringify(checkpoint)), checkpoint }));
        await loadOrRefuse(folder);
      },
    );
    await fc.assert(property, { ...runs, numRuns: 10 * (runs.numRuns ?? 0) });
  });

  test('or takes any shard with the right checksum', async () => {
    const { folder, shard, index } = await saved();
    const whole = readFileSync(shard);
    const { checkpoint } = JSON.parse(readFileSync(index, 'utf8'));
    const change = fc.record({
      at: fc.nat({ max: 700 }),
      removed: fc.constantFrom(0, 0, 0, 1, 8, 10_000),
      added: fc.uint8Array({ maxLength: 8 }),
    });
    const property = fc.asyncProperty(change, async ({ at, removed, added }) => {
      const kept = removed === 0 ? at + added.length : at + removed;
      const contents = Buffer.concat([whole.subarray(0, at), added, whole.subarray(kept)]);
      writeFileSync(shard, contents);
      Object.assign(checkpoint.files[1], { bytes: contents.length, sha256: sha256(contents) });
      writeFileSync(index, JSON.stringify({ sha256: sha256(JSON.stringify(checkpoint)), checkpoint }));
      await loadOrRefuse(folder);
    });
    await fc.assert(property, { ...runs, numRuns: 5 * (runs.numRuns ?? 0) });
  });
});

/** Weights in files of other programs: those of the Python packages safetensors and numpy, and damaged ones. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { MarginFcError, MarginHead, weightsFrom } from '../src/index.js';
import { parseSafetensorsHeader, safetensorsStart } from '../src/safetensors.js';
import { expectFailure } from './failures.js';
import { runs } from './random_problems.js';

const folder = mkdtempSync(join(tmpdir(), 'marginfc-weights-'));
afterAll(() => rmSync(folder, { recursive: true }));

const fixture = (name: string) => join(import.meta.dirname, 'safetensors', name);
const first = JSON.parse(readFileSync(fixture('expected.json'), 'utf8')) as Record<
  string,
  { weight: number[] }
>;
const names = ['f32_two_tensors.safetensors', 'bf16.safetensors', 'f16_i64_empty.safetensors'] as const;

let written = 0;
function write(contents: Uint8Array): string {
  const path = join(folder, `${written++}`);
  writeFileSync(path, contents);
  return path;
}

function tensorFile(
  tensors: Record<string, { dtype: 'F32' | 'F64' | 'I64'; shape: number[] }>,
  data: Uint8Array,
) {
  const list = Object.entries(tensors).map(([name, tensor]) => ({ name, ...tensor }));
  return write(Buffer.concat([safetensorsStart({}, list), data]));
}

describe('weightsFrom', () => {
  test.each(names)('reads %s of the Python package', async (name) => {
    const source = await weightsFrom(fixture(name));
    expect({ classes: source.classes, dim: source.dim }).toEqual({ classes: 11, dim: 8 });
    const values = await source(0, 11);
    expect(Array.from(values.subarray(0, 5))).toEqual(first[name]?.weight);
    expect(await source(3, 7)).toEqual(values.subarray(3 * 8, 7 * 8));
    const head = await MarginHead.create({ dim: 8, classes: 11, shards: 2, init: source });
    expect(head.weights()).toEqual(values);
    head.dispose();
  });

  test('reads the .npy file of numpy, and other tensors by name', async () => {
    const [weights, npy, momentum] = await Promise.all([
      weightsFrom(fixture(names[0])),
      weightsFrom(fixture('pfc_weight.npy')),
      weightsFrom(fixture(names[0]), { tensor: 'momentum' }),
    ]);
    expect(await npy(0, 11)).toEqual(await weights(0, 11));
    expect((await momentum(0, 1))[0]).toBeCloseTo(-0.74195886, 7);
  });

  test('joins the files of several ranks, whatever their types', async () => {
    const [a, b] = [await weightsFrom(fixture(names[1])), await weightsFrom(fixture('pfc_weight.npy'))];
    const both = await weightsFrom([fixture(names[1]), fixture('pfc_weight.npy')]);
    expect(both.classes).toBe(22);
    const expected = new Float32Array([...(await a(4, 11)), ...(await b(0, 3))]);
    expect(await both(4, 14)).toEqual(expected);
  });

  test('widens every float16 and bfloat16 and float64 as the formats say', async () => {
    const halves = Uint16Array.of(
      0x0000,
      0x8000,
      0x0001,
      0x03ff,
      0x0400,
      0x3c00,
      0x7bff,
      0x7c00,
      0xfc00,
      0x7e00,
    );
    const read = async (dtype: 'F16' | 'BF16' | 'F64', data: Uint16Array | Float64Array) => {
      const start = safetensorsStart({}, [{ name: 'w', dtype, shape: [data.length, 1] }]);
      const path = write(Buffer.concat([start, new Uint8Array(data.buffer)]));
      return Array.from(await (await weightsFrom(path))(0, data.length));
    };
    expect(await read('F16', halves)).toEqual([
      ...[0, -0, 2 ** -24, 1023 * 2 ** -24, 2 ** -14, 1, 65504, Infinity, -Infinity, NaN],
    ]);
    expect(await read('BF16', Uint16Array.of(0x3f80, 0xbf81, 0x7f80, 0x8000))).toEqual([
      1,
      -1.0078125,
      Infinity,
      -0,
    ]);
    expect(await read('F64', Float64Array.of(1 / 3, -2))).toEqual([Math.fround(1 / 3), -2]);
  });

  test('refuses weights for another head', async () => {
    const init = await weightsFrom(fixture(names[0]));
    const make = (dim: number, classes: number) => MarginHead.create({ dim, classes, init });
    await expectFailure(() => make(4, 22), 'ERR_SHAPE', /^init\.classes must be 22, received 11$/);
    await expectFailure(() => make(4, 11), 'ERR_SHAPE', /^init\.dim must be 4, received 8$/);
  });

  test.each<[string, () => string | string[], RegExp]>([
    ['a missing file', () => join(folder, 'none'), /none cannot be read: ENOENT/],
    ['a folder', () => folder, /must be a file, received something else$/],
    ['an empty file', () => write(new Uint8Array(0)), /must be a safetensors file, received one of 0 bytes$/],
    [
      'text',
      () => write(Buffer.from('a page of text, longer than eight bytes')),
      /with a header of at most \d+ bytes/,
    ],
    [
      'a file without the tensor',
      () =>
        tensorFile(
          { a: { dtype: 'F32', shape: [1, 1] }, b: { dtype: 'F32', shape: [1, 1] } },
          new Uint8Array(8),
        ),
      /must be a safetensors file with a tensor 'weight', received one with 'a', 'b'$/,
    ],
    [
      'integers',
      () => tensorFile({ weight: { dtype: 'I64', shape: [1, 1] } }, new Uint8Array(8)),
      /must be weights of type F32, F64, BF16, F16, received I64 \[1, 1\] of 'weight'$/,
    ],
    [
      'a vector',
      () => tensorFile({ weight: { dtype: 'F32', shape: [2] } }, new Uint8Array(8)),
      /must be weights \[classes, dim\], received F32 \[2\] of 'weight'$/,
    ],
    [
      'no classes',
      () => tensorFile({ weight: { dtype: 'F32', shape: [0, 2] } }, new Uint8Array(0)),
      /must be weights \[classes, dim\] of at least one class, received \[0, 2\]$/,
    ],
    [
      'files of different widths',
      () => [fixture(names[0]), tensorFile({ weight: { dtype: 'F32', shape: [1, 2] } }, new Uint8Array(8))],
      /must be weights of width 8, as of .*f32_two_tensors\.safetensors, received 2$/,
    ],
    [
      'a truncated .npy file',
      () => write(readFileSync(fixture('pfc_weight.npy')).subarray(0, -1)),
      /must be a \.npy file of 480 bytes, as its header says, received 479 bytes$/,
    ],
    [
      'a .npy file in Fortran order',
      () =>
        write(
          Buffer.from(
            readFileSync(fixture('pfc_weight.npy')).toString('latin1').replace('False', 'True '),
            'latin1',
          ),
        ),
      /must be a \.npy file in C order/,
    ],
  ])('refuses %s', async (_, files, message) => {
    await expectFailure(() => weightsFrom(files()), 'ERR_CHECKPOINT', message);
  });

  test('refuses arguments of the wrong type', async () => {
    await expectFailure(() => weightsFrom(7 as never), 'ERR_TYPE', /^files must be a path/);
    await expectFailure(() => weightsFrom([]), 'ERR_OPTION', /^files must be at least one path/);
    await expectFailure(
      () => weightsFrom('a', { tensor: 1 as never }),
      'ERR_TYPE',
      /^tensor must be a string/,
    );
  });
});

/** A reader that gets anything gives what the bytes say, or MarginFcError. */
describe('random files', () => {
  const often = { ...runs, numRuns: 20 * (runs.numRuns ?? 0) };
  const sound = names.map((name) => readFileSync(fixture(name)));
  const npy = readFileSync(fixture('pfc_weight.npy'));

  async function readOrRefuse(contents: Uint8Array): Promise<void> {
    const path = write(contents);
    try {
      const { classes, dim } = await weightsFrom(path);
      // What is accepted lies in the file.
      expect(classes * dim * 2).toBeLessThanOrEqual(contents.length);
      expect(await (await weightsFrom(path))(0, classes)).toHaveLength(classes * dim);
    } catch (error) {
      expect(error).toBeInstanceOf(MarginFcError);
      expect(error).toMatchObject({ code: 'ERR_CHECKPOINT', message: expect.stringContaining(path) });
    } finally {
      rmSync(path);
    }
  }

  const bytes = fc.uint8Array({ minLength: 1, maxLength: 8 });
  const mutation = fc.record({
    file: fc.constantFrom(...sound, npy),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    how: fc.constantFrom('truncate', 'overwrite', 'insert', 'remove'),
    bytes,
    header: fc.boolean(),
  });

  test('are sound or refused: truncated, overwritten, lengthened', async () => {
    const property = fc.asyncProperty(mutation, async ({ file, at, how, bytes: other, header }) => {
      const position = Math.floor(at * (header ? Math.min(file.length, 260) : file.length));
      const rest = {
        truncate: file.length,
        overwrite: position + other.length,
        insert: position,
        remove: position + 1,
      }[how];
      const middle = how === 'overwrite' || how === 'insert' ? other : [];
      await readOrRefuse(
        Buffer.concat([file.subarray(0, position), Uint8Array.from(middle), file.subarray(rest)]),
      );
    });
    await fc.assert(property, often);
  });

  const count = fc.oneof(
    fc.nat(12),
    fc.constantFrom(-1, 0.5, 2 ** 31, 2 ** 53, 2 ** 53 - 1, 1e300, '8', null),
  );
  const entry = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom('F32', 'BF16', 'F16', 'F64', 'F99', 'constructor'), fc.jsonValue()),
      shape: fc.oneof(fc.array(count, { maxLength: 3 }), fc.jsonValue()),
      data_offsets: fc.oneof(fc.tuple(count, count), fc.array(count, { maxLength: 3 })),
    },
    { requiredKeys: [] },
  );
  const header = fc.oneof(
    fc.dictionary(
      fc.constantFrom('weight', 'b', '__metadata__', '__proto__', 'toString'),
      fc.oneof(entry, fc.jsonValue()),
    ),
    fc.jsonValue(),
  );

  test('are sound or refused: any header', async () => {
    const property = fc.asyncProperty(header, fc.nat(64), async (json, size) => {
      const text = Buffer.from(JSON.stringify(json));
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(text.length));
      await readOrRefuse(Buffer.concat([length, text, Buffer.alloc(size)]));
    });
    await fc.assert(property, often);
  });

  test('with a header of any length take no memory for it', async () => {
    const property = fc.asyncProperty(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), async (length) => {
      const start = Buffer.alloc(64);
      start.writeBigUInt64LE(length);
      await readOrRefuse(start);
    });
    await fc.assert(property, runs);
  });

  test.each<[string, object, number]>([
    ['overlaps', { a: entryAt(0, 8), b: entryAt(4, 12) }, 12],
    ['gaps', { a: entryAt(0, 8), b: entryAt(12, 20) }, 20],
    ['bytes before the first', { a: entryAt(4, 12) }, 12],
    ['bytes behind the last', { a: entryAt(0, 8) }, 12],
    ['tensors behind the end', { a: entryAt(0, 8), b: entryAt(8, 16) }, 12],
    [
      'shapes whose product overflows',
      { a: { dtype: 'F32', shape: [2 ** 40, 2 ** 40, 0.25], data_offsets: [0, 8] } },
      8,
    ],
    ['shapes of other sizes', { a: { dtype: 'F32', shape: [3], data_offsets: [0, 8] } }, 8],
    ['metadata that are no strings', { __metadata__: { a: 1 } }, 0],
  ])('with %s are refused', async (_, json, dataBytes) => {
    const text = Buffer.from(JSON.stringify(json));
    const parse = () => parseSafetensorsHeader(text, 'the file', 8 + text.length + dataBytes);
    await expectFailure(parse, 'ERR_CHECKPOINT', /^the file must be a safetensors file /);
  });

  function entryAt(begin: number, end: number): object {
    return { dtype: 'F32', shape: [(end - begin) / 4], data_offsets: [begin, end] };
  }
});

/**
 * The safetensors format: 8 bytes with the length of a JSON header, the header, then the tensors' bytes without gaps. Little
 * endian, as every machine that this package runs on.
 *
 * Source: https://github.com/huggingface/safetensors#format, with the checks of its own reader.
 */

import { fileMust, type OpenFile } from './files.js';
import { show } from './validate.js';

/** Bytes of an element. */
const elementBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
} as const;

export type Dtype = keyof typeof elementBytes;

export interface Tensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Of its first byte in the file. */
  readonly offset: number;
  readonly bytes: number;
}

export interface Safetensors {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of their bytes. */
  readonly tensors: readonly Tensor[];
}

/** Headers are a few hundred bytes a tensor; this is beyond any model, and memory that any machine has. */
const longestHeader = 2 ** 24;

/** Reads and checks the header of a file. */
export async function readSafetensors(file: OpenFile): Promise<Safetensors> {
  if (file.bytes < 8) throw fileMust(file.path, 'a safetensors file', `one of ${file.bytes} bytes`);
  const start = await file.read(0, 8);
  const length = new DataView(start.buffer, start.byteOffset).getBigUint64(0, true);
  const room = Math.min(file.bytes - 8, longestHeader);
  if (length > room)
    throw fileMust(file.path, `a safetensors file with a header of at most ${room} bytes`, String(length));
  const header = await file.read(8, Number(length));
  return parseSafetensorsHeader(header, file.path, file.bytes);
}

/** `header`: the JSON text; `fileBytes`: of the whole file. */
export function parseSafetensorsHeader(header: Uint8Array, path: string, fileBytes: number): Safetensors {
  const fail = (expectation: string, received: unknown) =>
    fileMust(
      path,
      `a safetensors file ${expectation}`,
      typeof received === 'string' ? received : show(received),
    );
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header));
  } catch (cause) {
    throw fileMust(path, 'a safetensors file with a JSON header', 'something else', { cause });
  }
  if (!isRecord(json)) throw fail('whose header is an object', json);
  const dataStart = 8 + header.length;
  const tensors: Tensor[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(json)) {
    const of = `with a sound entry ${show(name)}`;
    if (!isRecord(entry)) throw fail(of, entry);
    if (name === '__metadata__') {
      if (!Object.values(entry).every((value) => typeof value === 'string'))
        throw fail('whose metadata are strings', entry);
      metadata = entry as Record<string, string>;
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = entry;
    if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype))
      throw fail(of, `dtype ${show(dtype)}`);
    if (!isCounts(shape)) throw fail(of, `shape ${show(shape)}`);
    if (!isCounts(offsets) || offsets.length !== 2) throw fail(of, `data_offsets ${show(offsets)}`);
    const [begin = 0, end = 0] = offsets;
    const bytes = shape.reduce((product, size) => product * size, elementBytes[dtype as Dtype]);
    if (end - begin !== bytes || dataStart + end > fileBytes)
      throw fail(
        of,
        `${dtype} [${shape.slice(0, 8).join(', ')}] at bytes ${begin} to ${end} of ${fileBytes - dataStart}`,
      );
    tensors.push({ name, dtype: dtype as Dtype, shape, offset: dataStart + begin, bytes });
  }
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let next = dataStart;
  for (const { name, offset, bytes } of tensors) {
    if (offset !== next)
      throw fail(
        'without gaps and overlaps',
        `${show(name)} at byte ${offset - dataStart}, not ${next - dataStart}`,
      );
    next += bytes;
  }
  if (next !== fileBytes) throw fail(`of ${next} bytes, as its header says`, `${fileBytes} bytes`);
  return { metadata, tensors };
}

/** The first bytes of a file: all before the tensors, which follow in this order. */
export function safetensorsStart(
  metadata: Readonly<Record<string, string>>,
  tensors: readonly Pick<Tensor, 'name' | 'dtype' | 'shape'>[],
): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const end = shape.reduce((product, size) => product * size, elementBytes[dtype]) + offset;
    entries[name] = { dtype, shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(entries));
  // Tensors start at a multiple of 8 bytes; the format pads with spaces.
  const length = Math.ceil(text.length / 8) * 8;
  const start = new Uint8Array(8 + length).fill(0x20);
  new DataView(start.buffer).setBigUint64(0, BigInt(length), true);
  start.set(text, 8);
  return start;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && count >= 0);
}

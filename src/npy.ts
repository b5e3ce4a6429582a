/**
 * The header of numpy's .npy files: `\x93NUMPY`, version, length, and a Python dictionary of descr, fortran_order and shape.
 *
 * Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 */

import { fileMust, type OpenFile } from './files.js';
import type { Dtype, Tensor } from './safetensors.js';
import { show } from './validate.js';

const magic = '\x93NUMPY';

const types: Readonly<Record<string, { dtype: Dtype; bytes: number }>> = {
  '<f2': { dtype: 'F16', bytes: 2 },
  '<f4': { dtype: 'F32', bytes: 4 },
  '<f8': { dtype: 'F64', bytes: 8 },
};

/** numpy itself reads no header longer than this. */
const longestHeader = 10_000;

export async function isNpy(file: OpenFile): Promise<boolean> {
  return file.bytes >= 12 && latin1(await file.read(0, 6)) === magic;
}

/** The one array of a file, as a tensor without a name. */
export async function readNpy(file: OpenFile): Promise<Tensor> {
  const { path, bytes: fileBytes } = file;
  const start = await file.read(0, 12);
  const view = new DataView(start.buffer, start.byteOffset);
  const version = view.getUint8(6);
  if (version < 1 || version > 3) throw fileMust(path, 'a .npy file of version 1 to 3', String(version));
  const headerStart = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const room = Math.min(longestHeader, fileBytes - headerStart);
  if (length > room)
    throw fileMust(path, `a .npy file with a header of at most ${room} bytes`, String(length));
  const header = latin1(await file.read(headerStart, length));
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const sizes = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (descr === undefined || order === undefined || sizes === undefined)
    throw fileMust(path, 'a .npy file with descr, fortran_order and shape', show(header));
  const type = Object.hasOwn(types, descr) ? types[descr] : undefined;
  if (type === undefined)
    throw fileMust(path, `a .npy file of type ${Object.keys(types).join(', ')}`, show(descr));
  if (order === 'True') throw fileMust(path, 'a .npy file in C order', 'one in Fortran order');
  const shape = sizes
    .split(',')
    .filter((size) => size.trim() !== '')
    .map(Number);
  const bytes = shape.reduce((product, size) => product * size, type.bytes);
  const offset = headerStart + length;
  if (offset + bytes !== fileBytes)
    throw fileMust(path, `a .npy file of ${offset + bytes} bytes, as its header says`, `${fileBytes} bytes`);
  return { name: '', dtype: type.dtype, shape, offset, bytes };
}

function latin1(bytes: Uint8Array): string {
  return new TextDecoder('latin1').decode(bytes);
}

/** Class weights that other programs have written, as a head's first weights. */

import { widenBfloat16 } from './bfloat16.js';
import { checkPath, fileMust, type OpenFile, withFile } from './files.js';
import { isNpy, readNpy } from './npy.js';
import { readSafetensors, type Tensor } from './safetensors.js';
import { checkSubCenters } from './sub_centers.js';
import { checkOptions, maxCount, mustBe, show } from './validate.js';

/** Weights in files, for `init` of {@link MarginHead.create} and {@link MarginHead.addClasses}; knows how many there are. */
export interface WeightFile {
  (start: number, end: number): Promise<Float32Array>;
  /** Number of classes, C. */
  readonly classes: number;
  /** Length of an embedding, D. */
  readonly dim: number;
  /** Rows of each class. */
  readonly subCenters: number;
}

/** Options of {@link weightsFrom}. */
export interface WeightFileOptions {
  /** The tensor of a safetensors file. Default: `weight`, or else the only one of two dimensions. */
  readonly tensor?: string | undefined;
  /** Rows of each class, one behind the other, as of {@link MarginHeadOptions}. Default 1. */
  readonly subCenters?: number | undefined;
}

/**
 * Weights [C, dim] from a safetensors file (float32, float16, bfloat16 or float64) or a .npy file (float32, float16, float64), or
 * from several that follow each other, as the ranks of PartialFC write them. They are read range by range, when the head asks.
 *
 * In Python, for each rank of InsightFace's train_v2.py with `save_all_states`:
 *
 *     import torch, safetensors.torch
 *     weight = torch.load(f"checkpoint_gpu_{rank}.pt", map_location="cpu")["state_dict_softmax_fc"]["weight"]
 *     safetensors.torch.save_file({"weight": weight.float().contiguous()}, f"weights_{rank}.safetensors")
 *
 * @example
 * ```ts
 * import { MarginHead, weightsFrom } from 'marginfc';
 *
 * export async function continueTraining(files: string[]) {
 *   const init = await weightsFrom(files);
 *   return MarginHead.create({ dim: init.dim, classes: init.classes, init });
 * }
 * ```
 *
 * Rejects with MarginFcError: ERR_TYPE or ERR_OPTION for arguments; ERR_CHECKPOINT for a file that is missing, damaged, of another
 * type, or of another width than the first.
 */
export async function weightsFrom(
  files: string | URL | readonly (string | URL)[],
  options?: WeightFileOptions,
): Promise<WeightFile> {
  const { tensor, subCenters = 1 } = checkOptions(options, { tensor: true, subCenters: true });
  checkSubCenters(subCenters);
  if (tensor !== undefined && typeof tensor !== 'string')
    throw mustBe('ERR_TYPE', 'tensor', 'a string', show(tensor));
  const given: readonly unknown[] = Array.isArray(files) ? files : [files];
  if (given.length === 0) throw mustBe('ERR_OPTION', 'files', 'at least one path', 'none');
  const parts: Part[] = [];
  let allRows = 0;
  let dim = 0;
  for (const [i, file] of given.entries()) {
    const path = checkPath(file, Array.isArray(files) ? `files[${i}]` : 'files');
    const found = await withFile(path, (opened) => findWeights(opened, tensor));
    const [rows = 0, width = 0] = found.shape;
    if (i > 0 && width !== dim)
      throw fileMust(path, `weights of width ${dim}, as of ${parts[0]?.path}`, String(width));
    dim = width;
    parts.push({ path, tensor: found, start: allRows, end: allRows + rows });
    allRows += rows;
  }
  const classes = allRows / subCenters;
  if (!Number.isInteger(classes))
    throw fileMust(parts[0]?.path ?? '', `weights with ${subCenters} rows for each class`, `${allRows} rows`);
  if (dim < 1 || classes < 1 || classes > maxCount || dim > maxCount)
    throw fileMust(
      parts[0]?.path ?? '',
      'weights [classes, dim] of at least one class',
      `[${classes}, ${dim}]`,
    );
  const read = async (startClass: number, endClass: number) => {
    const [start, end] = [startClass * subCenters, endClass * subCenters];
    const values = new Float32Array((end - start) * dim);
    for (const part of parts) {
      const [first, last] = [Math.max(start, part.start), Math.min(end, part.end)];
      if (first >= last) continue;
      const to = values.subarray((first - start) * dim, (last - start) * dim);
      await withFile(part.path, (file) => readRows(file, part, first, dim, to));
    }
    return values;
  };
  return Object.assign(read, { classes, dim, subCenters });
}

interface Part {
  readonly path: string;
  readonly tensor: Tensor;
  /** Classes of the whole. */
  readonly start: number;
  readonly end: number;
}

async function findWeights(file: OpenFile, name: string | undefined): Promise<Tensor> {
  if (await isNpy(file)) return checkTensor(file, await readNpy(file));
  const { tensors } = await readSafetensors(file);
  const matrices = tensors.filter(({ shape }) => shape.length === 2);
  const found =
    tensors.find((tensor) => tensor.name === (name ?? 'weight')) ??
    (name === undefined && matrices.length === 1 ? matrices[0] : undefined);
  if (found !== undefined) return checkTensor(file, found);
  const names = tensors.slice(0, 8).map((tensor) => show(tensor.name));
  throw fileMust(
    file.path,
    `a safetensors file with a tensor ${show(name ?? 'weight')}`,
    names.length > 0 ? `one with ${names.join(', ')}` : 'one without tensors',
  );
}

function checkTensor(file: OpenFile, tensor: Tensor): Tensor {
  const { name, dtype, shape } = tensor;
  const what = `${dtype} [${shape.join(', ')}]${name === '' ? '' : ` of ${show(name)}`}`;
  if (shape.length !== 2) throw fileMust(file.path, 'weights [classes, dim]', what);
  if (!Object.hasOwn(readers, dtype))
    throw fileMust(file.path, `weights of type ${Object.keys(readers).join(', ')}`, what);
  return tensor;
}

async function readRows(
  file: OpenFile,
  { tensor, start }: Part,
  first: number,
  dim: number,
  to: Float32Array,
): Promise<void> {
  const { bytes: width, widen } = readers[tensor.dtype as keyof typeof readers];
  const offset = tensor.offset + (first - start) * dim * width;
  if (tensor.dtype === 'F32') {
    await file.read(offset, to.byteLength, new Uint8Array(to.buffer, to.byteOffset, to.byteLength));
    return;
  }
  const { buffer } = await file.read(offset, to.length * width);
  widen(buffer as ArrayBuffer, to);
}

/** How stored numbers become float32. */
const readers = {
  F32: { bytes: 4, widen: (from: ArrayBuffer, to: Float32Array) => to.set(new Float32Array(from)) },
  F64: { bytes: 8, widen: (from: ArrayBuffer, to: Float32Array) => to.set(new Float64Array(from)) },
  BF16: {
    bytes: 2,
    widen: (from: ArrayBuffer, to: Float32Array) => widenBfloat16(new Uint16Array(from), to),
  },
  F16: {
    bytes: 2,
    widen(from: ArrayBuffer, to: Float32Array) {
      for (const [i, half] of new Uint16Array(from).entries()) to[i] = float16Value(half);
    },
  },
} as const;

function float16Value(half: number): number {
  const [sign, exponent, fraction] = [half & 0x8000 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

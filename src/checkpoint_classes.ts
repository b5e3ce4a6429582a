/** The arrays of a checkpoint with a number for each class, which the loss remembers: one safetensors file, which every process reads. */

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { bytesOf } from './bytes.js';
import { type CheckpointIndex, indexName, type WrittenFile } from './checkpoint_index.js';
import { fileMust, withFile, writeWhole } from './files.js';
import { type ClassArrays, classArrays, type LossMemory } from './loss_memory.js';
import { readSafetensors, safetensorsStart } from './safetensors.js';

const keys = Object.keys(classArrays) as (keyof typeof classArrays)[];

/** Null where there are none. */
export async function writeClassArrays(
  folder: string,
  name: string,
  memory: LossMemory,
): Promise<WrittenFile | null> {
  const arrays = keys.flatMap((key) => {
    const values = memory[key];
    return values ? [{ name: classArrays[key], values }] : [];
  });
  if (arrays.length === 0) return null;
  const tensors = arrays.map(({ name, values }) => ({ name, dtype: 'F64', shape: [values.length] }) as const);
  const pieces = [safetensorsStart({}, tensors), ...arrays.map(({ values }) => bytesOf(values))];
  return { name, ...(await writeWhole(folder, name, pieces)) };
}

export async function readClassArrays(
  folder: string,
  { classArrays: file, classes }: CheckpointIndex,
): Promise<ClassArrays> {
  if (file === null) return {};
  return withFile(join(folder, file.name), async ({ path, bytes, read }) => {
    if (bytes !== file.bytes) throw fileMust(path, `${file.bytes} bytes long`, `${bytes} bytes`);
    const { tensors } = await readSafetensors({ path, bytes, read });
    const hash = createHash('sha256').update(await read(0, tensors[0]?.offset ?? bytes));
    const memory: { -readonly [K in keyof ClassArrays]: Float64Array } = {};
    for (const { name, dtype, shape, offset } of tensors) {
      const key = keys.find((one) => classArrays[one] === name);
      const [length = 0, ...more] = shape;
      if (key === undefined || dtype !== 'F64' || more.length > 0 || length > classes)
        throw fileMust(
          path,
          `with a number for each of ${classes} classes`,
          `${name} ${dtype} [${shape.join(', ')}]`,
        );
      const values = new Float64Array(length);
      hash.update(await read(offset, values.byteLength, bytesOf(values)));
      memory[key] = values;
    }
    if (hash.digest('hex') !== file.sha256)
      throw fileMust(path, `as it was written, with the checksum of ${indexName}`, 'changed contents');
    return memory;
  });
}

/** Files: read in pieces that are there, and written so that a name stands for the whole contents or for what was there before. */

import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MarginFcError } from './errors.js';
import { mustBe, show } from './validate.js';

/** An error about a file. */
export function fileMust(
  path: string,
  expectation: string,
  received: string,
  options?: ErrorOptions,
): MarginFcError {
  return mustBe('ERR_CHECKPOINT', path, expectation, received, options);
}

/** What the system said about a file, as MarginFcError; one of those, or an abort, as it is. */
export function fileError(error: unknown, path: string, doing: 'read' | 'written'): MarginFcError {
  if (error instanceof MarginFcError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new MarginFcError('ERR_CHECKPOINT', `${path} cannot be ${doing}: ${message}`, { cause: error });
}

/** A path as a string or a `file:` URL. */
export function checkPath(path: unknown, argument: string): string {
  if (typeof path === 'string' && path !== '' && !path.includes('\0')) return path;
  if (path instanceof URL && path.protocol === 'file:') return fileURLToPath(path);
  throw mustBe(
    typeof path === 'string' ? 'ERR_OPTION' : 'ERR_TYPE',
    argument,
    'a path or a file: URL',
    show(path),
  );
}

export interface OpenFile {
  readonly path: string;
  /** Of the whole file. */
  readonly bytes: number;
  /** Exactly `length` bytes from `offset` on, in `into` (from its start) or in new memory. */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
}

/** Opens a file for `use`. What the system says becomes MarginFcError. */
export async function withFile<T>(path: string, use: (file: OpenFile) => Promise<T>): Promise<T> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    const status = await handle.stat();
    if (!status.isFile()) throw fileMust(path, 'a file', 'something else');
    const from = handle;
    const read = async (offset: number, length: number, into?: Uint8Array) => {
      const bytes = into?.subarray(0, length) ?? new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await from.read(bytes, done, length - done, offset + done);
        if (bytesRead === 0)
          throw fileMust(path, `a file of at least ${offset + length} bytes`, `${offset + done}`);
        done += bytesRead;
      }
      return bytes;
    };
    return await use({ path, bytes: status.size, read });
  } catch (error) {
    throw fileError(error, path, 'read');
  } finally {
    await handle?.close();
  }
}

export interface Written {
  readonly bytes: number;
  readonly sha256: string;
}

/** The name of a file while it is being written. */
export function temporaryName(name: string): string {
  return `.${name}.tmp`;
}

/**
 * Writes what `pieces` gives to `name` in `folder`: to a temporary file first, which takes the name when all of it is on the disk.
 * A piece's memory is free again when the next one is asked for.
 */
export async function writeWhole(
  folder: string,
  name: string,
  pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<Written> {
  const [path, temporary] = [join(folder, name), join(folder, temporaryName(name))];
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, 'w');
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const piece of pieces) {
      await writeAll(handle, piece, hash);
      bytes += piece.length;
    }
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, path);
    return { bytes, sha256: hash.digest('hex') };
  } catch (error) {
    await handle?.close().catch(() => {});
    await unlink(temporary).catch(() => {});
    throw fileError(error, path, 'written');
  }
}

async function writeAll(handle: FileHandle, piece: Uint8Array, hash: Hash): Promise<void> {
  for (let done = 0; done < piece.length; ) {
    const writing = handle.write(piece, done, piece.length - done);
    // While the system writes.
    if (done === 0) hash.update(piece);
    done += (await writing).bytesWritten;
  }
}

/** Makes the names in a folder last, as a file's sync makes its contents. */
export async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(folder, 'r');
    await handle.sync();
  } catch (error) {
    throw fileError(error, folder, 'written');
  } finally {
    await handle?.close();
  }
}

/** The one error class of the package, and how failures of native code become it. */

import type { NativeFailure } from './native.js';

/** What went wrong. Codes are stable; messages may be reworded. */
export type MarginFcErrorCode =
  /** An argument has the wrong type. */
  | 'ERR_TYPE'
  /** Lengths, `dim` or `classes` do not fit together. */
  | 'ERR_SHAPE'
  /** A label is neither -1 nor a class id. */
  | 'ERR_LABEL_RANGE'
  /** An option has an impossible value or combination, or an unknown name. */
  | 'ERR_OPTION'
  /** A margin parameter is not finite, or a custom margin threw or returned something other than numbers. */
  | 'ERR_MARGIN'
  /** NaN or infinity in features or weights, or in the rewards of all candidates of a search's iteration. */
  | 'ERR_NOT_FINITE'
  /** An array's memory is detached, resizable or growable. */
  | 'ERR_DETACHED'
  /** The engine, device, MPI or NCCL asked for cannot run here; the message says why. */
  | 'ERR_ENGINE_UNAVAILABLE'
  /** The engine cannot multiply or store in this precision. */
  | 'ERR_PRECISION_UNSUPPORTED'
  /** There is not enough memory for outputs, workspace or a head's weights. */
  | 'ERR_OUT_OF_MEMORY'
  /** The call's AbortSignal fired; `cause` is its reason. Nothing was changed. */
  | 'ERR_ABORTED'
  /** A synchronous call on a head or forward pass whose asynchronous calls have not finished. */
  | 'ERR_BUSY'
  /** The head or forward pass has been disposed, or the head's weights have changed since the forward pass. */
  | 'ERR_DISPOSED'
  /**
   * A checkpoint or file of weights cannot be read or written, or is not what it should be; the message names the file.
   * Nothing was changed: a checkpoint that was in the folder is still there.
   */
  | 'ERR_CHECKPOINT'
  /**
   * Another process of a head's group failed in the call or made another one, one has left, or what connects them failed; the
   * message says which. The head has not changed.
   */
  | 'ERR_GROUP'
  /** A process of a group did not answer in time; the group cannot be used any more. */
  | 'ERR_GROUP_TIMEOUT'
  /** The native addon could not be loaded; the message says what was tried. */
  | 'ERR_NATIVE_LOAD'
  /** A tfjs tensor or backend cannot be used by `marginfc/tfjs`. */
  | 'ERR_TFJS'
  /** A defect of marginfc: please report it. */
  | 'ERR_INTERNAL';

/** Every error the package throws or rejects with. Tell them apart by `code`. */
export class MarginFcError extends Error {
  override readonly name = 'MarginFcError';
  readonly code: MarginFcErrorCode;

  constructor(code: MarginFcErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The rejection of an aborted call. */
export function abortedError(signal: AbortSignal | undefined): MarginFcError {
  return new MarginFcError('ERR_ABORTED', 'the operation was aborted', { cause: signal?.reason });
}

/** A failure of native code as MarginFcError; anything else, such as an error of a user's callback, as it is. */
export function publicError(error: unknown, signal?: AbortSignal): unknown {
  if (!isNativeFailure(error)) return error;
  if (error.nativeCode === 'ERR_ABORTED') return abortedError(signal);
  return new MarginFcError(error.nativeCode, error.message, { cause: error });
}

function isNativeFailure(error: unknown): error is NativeFailure {
  return error instanceof Error && 'nativeCode' in error;
}

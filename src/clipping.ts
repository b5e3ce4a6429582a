/** Clipping of the weights' gradient. */

import { checkNumber, checkOptions, mustBe, show } from './validate.js';

/**
 * The longest that the gradient of the weights may be, as `torch.nn.utils.clip_grad_norm_` has it: a longer one is multiplied by
 * c / norm (without the 1e-6 that PyTorch adds to the norm), before weight decay and momentum. With `accumulate` it is the sum
 * that `apply` clips.
 *
 * - `perClass`: each class's row of the gradient by itself, inside the pass that makes it, for next to nothing.
 * - `global`: the gradient of all classes as a whole. Its norm is known only when all of it has been made, and it is not kept: a
 *   step makes it twice, once for the norm and once for the update, which adds a product over all classes (two where the
 *   exponentials are not kept) to about three; `apply` reads the sum once more.
 */
export type GradientClip =
  | { readonly perClass: number; readonly global?: undefined }
  | { readonly global: number; readonly perClass?: undefined };

export function checkClip(clip: GradientClip | undefined): GradientClip | undefined {
  if (clip === undefined) return undefined;
  const argument = 'clipWeightGradient';
  const { perClass, global } = checkOptions<{ perClass?: unknown; global?: unknown }>(
    clip,
    { perClass: true, global: true },
    argument,
  );
  if ((perClass === undefined) === (global === undefined))
    throw mustBe('ERR_OPTION', argument, '{ perClass } or { global }', show(clip));
  const range = { least: 0, exclusive: true };
  return perClass === undefined
    ? { global: checkNumber(global, `${argument}.global`, range) }
    : { perClass: checkNumber(perClass, `${argument}.perClass`, range) };
}

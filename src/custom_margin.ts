/** Phase 1's end for a margin written in JavaScript: the callback over the rows of a batch. */

import type { CustomMarginCallback } from './margins.js';
import type { NativeMargin } from './native_loss.js';
import { checkNumber, largestFactor, mustBe, show } from './validate.js';

/**
 * Calls `callback` once for each row with a label, in order.
 *
 * @throws MarginFcError ERR_MARGIN, naming the first row whose answer is of no use.
 */
export function customTargets(
  callback: CustomMarginCallback,
  labels: Int32Array,
  { cosine, featureNorm }: { readonly cosine: Float64Array; readonly featureNorm: Float64Array },
): NativeMargin {
  const rows = cosine.length;
  const target = new Float64Array(rows);
  const dTarget = new Float64Array(rows);
  let dFeatureNorm: Float64Array | undefined;
  for (let row = 0; row < rows; row++) {
    const label = labels[row] as number;
    if (label === -1) continue;
    const name = `customMargin callback, row ${row}:`;
    const answer = ask(callback, name, {
      cosine: cosine[row] as number,
      row,
      label,
      featureNorm: featureNorm[row] as number,
    });
    target[row] = finite(answer, 'target', name);
    dTarget[row] = finite(answer, 'dTarget', name);
    if (Reflect.get(answer, 'dFeatureNorm') !== undefined) {
      dFeatureNorm ??= new Float64Array(rows);
      dFeatureNorm[row] = finite(answer, 'dFeatureNorm', name);
    }
  }
  return { kind: 'custom', target, dTarget, ...(dFeatureNorm ? { dFeatureNorm } : {}) };
}

const answerForm = '{ target, dTarget, dFeatureNorm? }';

function ask(callback: CustomMarginCallback, name: string, row: Parameters<CustomMarginCallback>[0]): object {
  let answer: unknown;
  try {
    answer = callback(row);
  } catch (cause) {
    const thrown = cause instanceof Error ? cause.message : show(cause);
    throw mustBe('ERR_MARGIN', `${name} result`, answerForm, `the exception: ${thrown}`, { cause });
  }
  if (typeof answer !== 'object' || answer === null)
    throw mustBe('ERR_MARGIN', `${name} result`, answerForm, show(answer));
  return answer;
}

function finite(answer: object, key: string, name: string): number {
  const value: unknown = Reflect.get(answer, key);
  if (typeof value !== 'number' || !Number.isFinite(value))
    throw mustBe('ERR_MARGIN', `${name} ${key}`, 'a finite number', show(value));
  return checkNumber(value, `${name} ${key}`, { magnitude: largestFactor, code: 'ERR_MARGIN' });
}

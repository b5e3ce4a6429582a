/** Margins with a number for each class that a head keeps, and that other calls must be given as `{ perClass }`. */

import type { BatchRule } from './target_rows.js';
import { checkFloats, checkOptions, checkValues, mustBe, show } from './validate.js';

/** [C] */
interface ClassNumbers {
  readonly perClass: Float32Array;
}

/** The parameter's check, which allows it to be left out. */
export function checkClassNumbers(value: unknown, argument: string): void {
  if (value !== undefined) checkOptions(value as ClassNumbers, { perClass: true }, argument);
}

/** The rules of the parameter `name`; `why` ends their messages. */
export function keptByHeads<
  K extends string,
  M extends { readonly kind: string } & { readonly [N in K]?: ClassNumbers },
>(
  name: K,
  why: { readonly withoutHead: string; readonly onHead: string },
): Required<Pick<BatchRule<M>, 'withoutHead' | 'onHead'>> {
  const argument = `margin.${name}`;
  return {
    withoutHead(margin, classes) {
      const given: ClassNumbers | undefined = margin[name];
      if (given === undefined)
        throw mustBe('ERR_OPTION', argument, `{ perClass } ${why.withoutHead}`, show(given));
      checkFloats(given.perClass, `${argument}.perClass`, classes, 'classes');
      checkValues(given.perClass, `${argument}.perClass`, 'ERR_MARGIN');
    },
    onHead(margin) {
      if (margin[name] !== undefined)
        throw mustBe('ERR_OPTION', argument, `left out on a MarginHead, ${why.onHead}`, show(margin[name]));
    },
  };
}

/** Classes of several rows: Sub-center ArcFace (Deng et al., ECCV 2020), whose cosine to a class is the largest to its rows. */

import type { DeviceName, Loss } from './options.js';
import { termOf } from './terms.js';
import { checkInteger, maxCount, mustBe } from './validate.js';

/** How the rows of a class lie. */
export interface ClassShape {
  readonly dim: number;
  /** Default 1. */
  readonly subCenters?: number | undefined;
}

/** Floats of a class's rows. */
export function classSize({ dim, subCenters = 1 }: ClassShape): number {
  return dim * subCenters;
}

/** What one array is measured in, for messages. */
export function classSizeName({ subCenters = 1 }: ClassShape): string {
  return subCenters === 1 ? 'dim' : 'subCenters * dim';
}

export function checkSubCenters(subCenters: number): number {
  return checkInteger(subCenters, 'subCenters', { least: 1, most: 1024 });
}

/** Columns that one thread of the kernels has of a tile's, kMostSubCenters of cuda/sub_center_slots.h. */
const mostOnGpus = 16;

/** Whether so many classes of so many rows can be counted, and whether the loss can be had of them. */
export function checkSubCentersOf(
  { subCenters, classes }: { readonly subCenters: number; readonly classes: number },
  { labelSmoothing, terms }: Pick<Loss, 'labelSmoothing' | 'terms'>,
  devices: readonly DeviceName[],
): void {
  if (subCenters === 1) return;
  const refuse = (code: 'ERR_OPTION' | 'ERR_SHAPE' | 'ERR_ENGINE_UNAVAILABLE', instead: string) =>
    mustBe(code, 'subCenters', instead, String(subCenters));
  if (classes * subCenters > maxCount)
    throw refuse('ERR_SHAPE', `at most ${Math.floor(maxCount / classes)} with ${classes} classes`);
  const gpu = devices.find((name) => name !== 'cpu');
  if (gpu !== undefined && subCenters > mostOnGpus)
    throw refuse('ERR_ENGINE_UNAVAILABLE', `at most ${mostOnGpus} on ${gpu}, as on all GPUs`);
  if (labelSmoothing > 0)
    throw refuse(
      'ERR_OPTION',
      `1 with labelSmoothing ${labelSmoothing}, which adds up the cosines to all classes`,
    );
  if (termOf(terms, 'inter'))
    throw refuse('ERR_OPTION', `1 with an interLoss, whose classes have one centre each`);
}

/** What benchmarks need of the package under test that is not in its public API. */

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import type { AdaptiveFaceMargin } from 'marginfc';
import type { Addon } from '../../dist/native.js';

type Native = typeof import('../../dist/native.js');
type BatchMargins = typeof import('../../dist/batch_margins.js');
type Twins = typeof import('../../dist/twin.js');
type SearchState = typeof import('../../dist/search_state.js');

/** Where `marginfc` itself is, so that both share one addon and one pool of threads. */
const entry = pathToFileURL(createRequire(import.meta.url).resolve('marginfc'));
const beside = (file: string) => import(new URL(file, entry).href);

const native: Native = await beside('native.js');

const batchMargins: BatchMargins = await beside('batch_margins.js');
const { runSync }: Twins = await beside('twin.js');

/** Margins that are computed over a whole batch. */
export const { resolution, isBatchMargin } = batchMargins;

/** The margins of classes that a head with seed 0 begins with. */
export function firstMargins(margin: AdaptiveFaceMargin, classes: number): Float32Array {
  const angles = () => {
    throw new Error('no angles are asked for');
  };
  const head = { classes, seed: 0, stepCount: 0, angles };
  return Float32Array.from(runSync(batchMargins.batchPrepared(margin, {}, head)).margins ?? []);
}

/** States of loss searches. */
export const { candidateOf, checkState }: SearchState = await beside('search_state.js');

export function addon(): Addon {
  return native.addon();
}

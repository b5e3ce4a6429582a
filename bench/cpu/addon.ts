/** The addon of the package under test: what benchmarks need of it is not in the public API. */

import type { Addon } from '../../dist/native.js';

type Native = typeof import('../../dist/native.js');

/** Where `marginfc` itself is, so that both share one addon and one pool of threads. */
const native: Native = await import(new URL('native.js', import.meta.resolve('marginfc')).href);

export function addon(): Addon {
  return native.addon();
}

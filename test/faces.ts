/** Folders of images for the examples' tests. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { seeded } from '../examples/random.js';

export function pgm(width: number, height: number, grey: readonly number[]): Uint8Array {
  return Buffer.concat([Buffer.from(`P5\n${width} ${height}\n255\n`), Uint8Array.from(grey)]);
}

/** A folder per identity, each with images of one brightness and some noise. */
export function makeFaces(folder: string, identities: number, images: number): string {
  const random = seeded(3);
  for (let identity = 0; identity < identities; identity++) {
    mkdirSync(join(folder, `person ${identity + 1}`), { recursive: true });
    for (let image = 0; image < images; image++) {
      const grey = Array.from({ length: 48 }, (_, i) =>
        Math.floor(100 * random() + (i % identities === identity ? 150 : 0)),
      );
      writeFileSync(join(folder, `person ${identity + 1}`, `${image}.pgm`), pgm(8, 6, grey));
    }
  }
  return folder;
}

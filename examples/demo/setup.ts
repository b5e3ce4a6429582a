/** The images, the backend of tfjs, and what both are, for headings. */

import { getBackend, ready, setBackend, version_core } from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-wasm';
import { listEngines } from 'marginfc';
import { type LabelledImages, loadDigits, loadFolder } from './data.js';

/** Of a folder with a folder per identity, or of the digits. */
export async function setUp(
  folder: string | undefined,
): Promise<{ readonly data: LabelledImages; readonly facts: Readonly<Record<string, string>> }> {
  await chooseBackend();
  const data = folder === undefined ? loadDigits() : await loadFolder(folder);
  const engine = listEngines().find(({ available }) => available);
  const facts = {
    images:
      `${data.name}: ${data.images.length.toLocaleString('en')} images, ` +
      `${data.size.width} x ${data.size.height}, ${data.classNames.length} classes`,
    network: `multi-layer perceptron, tfjs ${version_core} on ${getBackend()}`,
    head: `MarginHead on ${engine?.name}${engine?.available ? ` (${engine.detail})` : ''}`,
  };
  return { data, facts };
}

/** wasm is several times faster than cpu, and some machines have no WebAssembly SIMD. */
async function chooseBackend(): Promise<void> {
  const works = await setBackend('wasm').catch(() => false);
  if (!works) {
    await import('@tensorflow/tfjs-backend-cpu');
    await setBackend('cpu');
  }
  await ready();
}

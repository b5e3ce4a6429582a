// Compiles the CUDA kernels to cuda/kernels.fatbin, which is committed so that nobody needs nvcc, and cuda/kernels.json,
// which says what it was made of.
//
//   node scripts/fatbin.mjs              all architectures; minutes
//   node scripts/fatbin.mjs --ptx-only   PTX alone, into build/kernels/: enough for the software device, and seconds
//   node scripts/fatbin.mjs --check      fails unless the committed image is of these sources; where there is the nvcc that
//                                        made it, also unless it compiles them to the same PTX
//   node scripts/fatbin.mjs --statics [75,80...]
//                                        prints the path of the image that builds take, and what the compiler says of its
//                                        machine code, as JSON

import path from 'node:path';
import kernels from './lib/kernels.cjs';

const root = path.join(import.meta.dirname, '..');

function make(/** @type {boolean} */ ptxOnly) {
  const nvcc = kernels.findNvcc();
  if (nvcc === undefined) throw new Error('nvcc is neither on PATH nor in /usr/local/cuda/bin');
  const [stem, cubins] = ptxOnly ? [kernels.MADE, []] : [kernels.COMMITTED, kernels.CUBINS];
  const record = kernels.makeImage(root, { nvcc, stem, cubins });
  return `${stem}.fatbin: ${(record.image.bytes / 1024).toFixed(0)} KiB, ${kernels.describe(record)}`;
}

function check() {
  const found = kernels.readImage(root, kernels.COMMITTED);
  if ('stale' in found) throw new Error(`${found.stale}: run \`npm run build:fatbin\``);
  const { record } = found;
  const nvcc = kernels.findNvcc();
  if (nvcc === undefined)
    return 'cuda/kernels.fatbin is of these sources (its PTX was not compared: there is no nvcc)';
  const compiler = kernels.compilerVersion(nvcc);
  if (compiler !== record.compiler)
    return `cuda/kernels.fatbin is of these sources (its PTX was not compared: ${record.compiler} made it, this is ${compiler})`;
  const digests = kernels.ptxDigests(root, nvcc);
  const other = Object.keys({ ...digests, ...record.ptx }).filter((sm) => digests[sm] !== record.ptx[sm]);
  if (other.length > 0)
    throw new Error(`the PTX for ${other.join(', ')} is not what cuda/kernels.fatbin was made of`);
  return `cuda/kernels.fatbin is of these sources, which ${compiler} compiles to the same PTX`;
}

function statics(/** @type {string[]} */ architectures) {
  const choice = kernels.chooseImage(root, kernels.findNvcc());
  if ('missing' in choice) throw new Error(`there are no kernels: ${choice.missing}\n${choice.log ?? ''}`);
  const found = kernels.staticsOf(root, choice.record, architectures);
  return JSON.stringify({ image: path.join(root, `${choice.stem}.fatbin`), statics: found });
}

const [mode, ...rest] = process.argv.slice(2);
if (
  rest.length > (mode === '--statics' ? 1 : 0) ||
  !['--ptx-only', '--check', '--statics', undefined].includes(mode)
) {
  console.error('usage: node scripts/fatbin.mjs [--ptx-only | --check | --statics [ARCHITECTURES]]');
  process.exit(2);
}
try {
  if (mode === '--check') console.log(check());
  else if (mode === '--statics') console.log(statics(rest[0]?.split(',').filter(Boolean) ?? kernels.CUBINS));
  else console.log(make(mode === '--ptx-only'));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

'use strict';
// What compiling says of the machine code of each kernel, without running it: from the output of `ptxas -v` and from the
// PTX that nvcc keeps.

const fs = require('node:fs');
const path = require('node:path');

/**
 * @typedef {object} KernelStatics
 * @property {number} registers of a thread
 * @property {number} spillBytes stores and loads of a thread
 * @property {number} sharedBytes of a block, static; dynamic ones are in variables
 * @property {number} threads of a block, at most
 * @property {true} [serialized] ptxas made each wgmma wait for the one before
 */

/**
 * @typedef {object} Statics of one architecture
 * @property {{ [kernel: string]: KernelStatics }} kernels
 * @property {{ [name: string]: number }} variables those that tell the host what a launch needs, such as tile_bytes_float16
 */

/** Makes nvcc say and keep what readStatics reads. @param {string} folder */
const flags = (folder) => ['-Xptxas', '-v', '--keep', '--keep-dir', folder];

/**
 * @param {string} output of nvcc with these flags
 * @param {string} folder
 * @param {string} unit the name of the translation unit
 * @param {string[]} architectures
 * @returns {{ [architecture: string]: Statics }}
 */
function readStatics(output, folder, unit, architectures) {
  const said = new Map();
  const pieces = output.split(/Compiling entry function '(\w+)' for 'sm_(\w+)'/).slice(1);
  for (let i = 0; i < pieces.length; i += 3) said.set(`${pieces[i + 1]} ${pieces[i]}`, pieces[i + 2]);
  const waiting = /wgmma\.mma_async instructions are serialized.*?function '(\w+)'/g;
  const serialized = new Set([...output.matchAll(waiting)].map(([, name]) => name));
  return Object.fromEntries(
    architectures.map((architecture) => {
      const ptx = fs.readFileSync(path.join(folder, `${unit}.compute_${architecture}.ptx`), 'utf8');
      const variables = ptx.matchAll(
        /^(?:\.visible )?\.global .*\.u32 (\w+_(?:bytes|threads)_\w+) = (\d+);/gm,
      );
      const kernels = [...ptx.matchAll(/\.entry (\w+)\([^{]*?\.maxntid (\d+)/g)].map(([, name, threads]) => {
        const text = said.get(`${architecture} ${name}`);
        const number = (/** @type {RegExp} */ pattern) => Number(pattern.exec(text ?? '')?.[1] ?? 0);
        if (!/Used \d+ registers/.test(text ?? ''))
          throw new Error(`ptxas said nothing of ${name} for sm_${architecture}`);
        const statics = {
          registers: number(/Used (\d+) registers/),
          spillBytes: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
          sharedBytes: number(/(\d+) bytes smem/),
          threads: Number(threads),
          ...(serialized.has(name) ? { serialized: true } : {}),
        };
        return [name, statics];
      });
      const numbers = [...variables].map(([, name, value]) => [name, Number(value)]);
      return [architecture, { kernels: Object.fromEntries(kernels), variables: Object.fromEntries(numbers) }];
    }),
  );
}

module.exports = { flags, readStatics };

'use strict';
// The compiled CUDA kernels: which sources take part, whether an image is of these sources, compiling one where there is
// nvcc, and choosing the one that a build of the addon carries. Used by the build, by scripts/fatbin.mjs and by prebuildify.
//
// An image is a fatbin with a record beside it: cuda/kernels.{fatbin,json}, which are committed, or
// build/kernels/kernels.{fatbin,json}, which a build makes where the committed one is not of these sources.

const { spawnSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { flags, readStatics } = require('./statics.cjs');

/** The one translation unit, relative to the root: nvcc hashes the path that it is given into names. */
const UNIT = 'cuda/kernels/kernels.cu';
/** Machine code for these; `a`: with the instructions of this architecture alone. */
const CUBINS = ['75', '80', '86', '89', '90a', '100', '120'];
/** PTX for these: what newer GPUs compile, and what the software device of the tests runs. */
const PTX = ['75', '80', '90a'];
const COMMITTED = path.join('cuda', 'kernels');
const MADE = path.join('build', 'kernels', 'kernels');

/**
 * @typedef {object} Record what an image was made of and by
 * @property {string} compiler
 * @property {{ sha256: string, files: string[] }} sources
 * @property {string[]} cubins
 * @property {{ [architecture: string]: string }} ptx digest of the PTX text
 * @property {{ [architecture: string]: import('./statics.cjs').Statics }} statics for each of the cubins
 * @property {{ bytes: number, sha256: string }} image
 */

/** @param {string | Buffer} bytes */
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/**
 * Every file that takes part, by its includes, and one digest over names and contents.
 * @param {string} root
 * @returns {Record['sources'] | undefined} undefined where there are no kernels
 */
function sourcesOf(root) {
  if (!fs.existsSync(path.join(root, UNIT))) return undefined;
  const seen = new Map();
  const visit = (/** @type {string} */ file) => {
    if (seen.has(file)) return;
    const text = fs.readFileSync(path.join(root, file), 'utf8');
    seen.set(file, text);
    for (const [, name] of text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      const beside = path.join(path.dirname(file), /** @type {string} */ (name));
      const found = [beside, /** @type {string} */ (name)].find((file) =>
        fs.existsSync(path.join(root, file)),
      );
      if (found === undefined) throw new Error(`${file} includes ${name}, which is not there`);
      visit(found);
    }
  };
  visit(UNIT);
  const files = [...seen.keys()].sort();
  return { sha256: sha256(files.map((file) => `${file}\0${seen.get(file)}\0`).join('')), files };
}

/** nvcc on PATH or where the toolkit is installed. @returns {string | undefined} */
function findNvcc() {
  const folders = [...(process.env.PATH ?? '').split(path.delimiter), '/usr/local/cuda/bin'];
  return folders
    .filter((folder) => path.isAbsolute(folder))
    .map((folder) => path.join(folder, 'nvcc'))
    .find((file) => fs.existsSync(file));
}

/** For example `nvcc 13.0.88`. @param {string} nvcc */
function compilerVersion(nvcc) {
  const { stdout } = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
  return `nvcc ${/\bV([\d.]+)/.exec(stdout ?? '')?.[1] ?? 'of unknown version'}`;
}

/**
 * @param {string} root
 * @param {string} nvcc
 * @param {string[]} args
 */
function runNvcc(root, nvcc, args) {
  const common = ['-O3', '-std=c++17', '-I.', UNIT];
  const child = spawnSync(nvcc, [...args, ...common], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (child.status !== 0)
    throw new Error(`nvcc failed:\n${child.stdout ?? ''}${child.stderr ?? child.error}`);
  return child.stdout + child.stderr;
}

/**
 * Compiles a fatbin. Its PTX and what else nvcc makes on the way stay in build/kernels/kept.
 * @param {string} root
 * @param {{ nvcc: string, output: string, cubins: string[], ptx: string[] }} options
 * @returns {Record['statics']} of the cubins
 */
function compileImage(root, { nvcc, output, cubins, ptx }) {
  const help = spawnSync(nvcc, ['--help'], { encoding: 'utf8' }).stdout ?? '';
  const kept = path.join(root, 'build', 'kernels', 'kept');
  fs.mkdirSync(kept, { recursive: true });
  fs.mkdirSync(path.dirname(output), { recursive: true });
  const said = runNvcc(root, nvcc, [
    ...['-fatbin', '--threads', '2', '-o', output, ...flags(kept)],
    ...(help.includes('--compress-mode') ? ['--compress-mode=size'] : []),
    ...cubins.flatMap((sm) => ['-gencode', `arch=compute_${sm},code=sm_${sm}`]),
    ...ptx.flatMap((sm) => ['-gencode', `arch=compute_${sm},code=compute_${sm}`]),
  ]);
  return readStatics(said, kept, path.basename(UNIT, '.cu'), cubins);
}

/**
 * The digest of the PTX for each architecture that ships PTX. nvcc writes the same text whenever and wherever it runs.
 * @param {string} root
 * @param {string} nvcc
 * @returns {Record['ptx']}
 */
function ptxDigests(root, nvcc) {
  const folder = path.join(root, 'build', 'kernels');
  fs.mkdirSync(folder, { recursive: true });
  return Object.fromEntries(
    PTX.map((architecture) => {
      const file = path.join(folder, `kernels.${architecture}.ptx`);
      runNvcc(root, nvcc, ['-ptx', `-arch=compute_${architecture}`, '-o', file]);
      return [architecture, sha256(fs.readFileSync(file))];
    }),
  );
}

/**
 * Compiles an image and its record to `${stem}.fatbin` and `${stem}.json`.
 * @param {string} root
 * @param {{ nvcc: string, stem: string, cubins: string[] }} options
 * @returns {Record}
 */
function makeImage(root, { nvcc, stem, cubins }) {
  const sources = sourcesOf(root);
  if (sources === undefined) throw new Error(`${UNIT} is not there`);
  const output = path.join(root, stem);
  const statics = compileImage(root, { nvcc, output: `${output}.fatbin`, cubins, ptx: PTX });
  for (const [architecture, { kernels }] of Object.entries(statics))
    for (const [name, { serialized }] of Object.entries(kernels))
      if (serialized) throw new Error(`ptxas serialised the wgmma of ${name} for sm_${architecture}`);
  const image = fs.readFileSync(`${output}.fatbin`);
  /** @type {Record} */
  const record = {
    compiler: compilerVersion(nvcc),
    sources,
    cubins,
    ptx: ptxDigests(root, nvcc),
    image: { bytes: image.length, sha256: sha256(image) },
    statics,
  };
  writeRecord(`${output}.json`, record);
  return record;
}

/** With a kernel a line. @param {string} file @param {object} record */
function writeRecord(file, record) {
  const text = JSON.stringify(record, null, 2);
  const short = text.replace(
    /\{\s+("registers": [^{}]*?)\s+\}/g,
    (_, inner) => `{ ${inner.replace(/\s+/g, ' ')} }`,
  );
  fs.writeFileSync(file, `${short}\n`);
}

/**
 * What the compiler says of the machine code for some architectures: as the record of an image has it, else compiled
 * now, which takes some 15 seconds each, and kept in build/kernels/statics.json.
 * @param {string} root
 * @param {Record} record
 * @param {string[]} architectures
 * @returns {Record['statics']}
 */
function staticsOf(root, record, architectures) {
  const file = path.join(root, 'build', 'kernels', 'statics.json');
  /** @type {Record['statics']} */
  const known = { ...record.statics };
  const kept = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : undefined;
  if (kept?.sources === record.sources.sha256) Object.assign(known, kept.statics);
  const missing = architectures.filter((architecture) => known[architecture] === undefined);
  if (missing.length > 0) {
    const nvcc = findNvcc();
    if (nvcc === undefined)
      throw new Error(
        `nothing is recorded of the machine code for sm_${missing.join(', sm_')}, and nvcc was not found to compile it`,
      );
    const output = path.join(root, 'build', 'kernels', 'statics.fatbin');
    Object.assign(known, compileImage(root, { nvcc, output, cubins: missing, ptx: [] }));
    writeRecord(file, { sources: record.sources.sha256, statics: known });
  }
  return Object.fromEntries(
    Object.entries(known).filter(([architecture]) => architectures.includes(architecture)),
  );
}

/**
 * The record of an image that is whole and of these sources, or why there is none.
 * @param {string} root
 * @param {string} stem
 * @returns {{ record: Record } | { stale: string }}
 */
function readImage(root, stem) {
  const [image, json] = [`${stem}.fatbin`, `${stem}.json`];
  const absent = [image, json].find((file) => !fs.existsSync(path.join(root, file)));
  if (absent !== undefined) return { stale: `${absent} is not there` };
  /** @type {Record} */
  const record = JSON.parse(fs.readFileSync(path.join(root, json), 'utf8'));
  if (sha256(fs.readFileSync(path.join(root, image))) !== record.image.sha256)
    return { stale: `${image} is not the file that ${json} describes` };
  if (sourcesOf(root)?.sha256 !== record.sources.sha256)
    return { stale: `${image} was made of other sources` };
  return { record };
}

/** For example `sm_75, sm_80; PTX 7.5, 8.0, 9.0a; nvcc 13.0.88`. @param {Record} record */
function describe({ cubins, ptx, compiler }) {
  const dotted = (/** @type {string} */ sm) => sm.replace(/^(\d+)(\d)(a?)$/, '$1.$2$3');
  const code = cubins.length === 0 ? [] : [cubins.map((sm) => `sm_${sm}`).join(', ')];
  return [...code, `PTX ${Object.keys(ptx).map(dotted).join(', ')}`, compiler].join('; ');
}

/**
 * Chooses what a build of the addon carries: the committed image, one made by an earlier build, or one made now.
 * @param {string} root
 * @param {string | undefined} nvcc
 * @returns {{ stem: string, record: Record, note?: string } | { missing: string, log?: string }}
 */
function chooseImage(root, nvcc) {
  if (sourcesOf(root) === undefined) return { missing: 'the sources of the kernels were not there' };
  const committed = readImage(root, COMMITTED);
  if ('record' in committed) return { stem: COMMITTED, ...committed };
  const made = readImage(root, MADE);
  if ('record' in made) return { stem: MADE, ...made };
  if (nvcc === undefined) return { missing: `${committed.stale}, and nvcc was not found to compile these` };
  try {
    const record = makeImage(root, { nvcc, stem: MADE, cubins: [] });
    const note = `${committed.stale}; compiled ${MADE}.fatbin with ${record.compiler}, PTX only (\`npm run build:fatbin\` makes all)`;
    return { stem: MADE, record, note };
  } catch (error) {
    const log = error instanceof Error ? error.message : String(error);
    return { missing: `${committed.stale}, and nvcc could not compile these`, log };
  }
}

/**
 * Writes build/kernels/embedded.h, from which cuda/embedded_kernels.cc takes the image into the addon.
 * @param {string} root
 * @param {() => string | undefined} [find] finds nvcc
 * @returns {string} what a reader of the build's output should know; empty where all is as usual
 */
function prepareKernels(root, find = findNvcc) {
  const choice = chooseImage(root, find());
  const lines = ['// Written by scripts/lib/kernels.cjs.'];
  const define = (/** @type {string} */ name, /** @type {string} */ text) =>
    lines.push(`#define MARGINFC_KERNELS_${name} ${JSON.stringify(text)}`);
  if ('missing' in choice) {
    define('MISSING', choice.missing);
  } else {
    define('IMAGE', path.join(root, `${choice.stem}.fatbin`));
    define('CONTENTS', describe(choice.record));
    // So that what includes this is compiled again when the image changes.
    lines.push(`// ${choice.record.image.sha256}`);
  }
  const file = path.join(root, 'build', 'kernels', 'embedded.h');
  const text = `${lines.join('\n')}\n`;
  fs.mkdirSync(path.dirname(file), { recursive: true });
  if (!fs.existsSync(file) || fs.readFileSync(file, 'utf8') !== text) fs.writeFileSync(file, text);
  if ('missing' in choice) {
    const log = choice.log === undefined ? '' : `\n${choice.log}`;
    return `this build has no CUDA kernels, so CUDA is off: ${choice.missing}${log}`;
  }
  return choice.note ?? '';
}

module.exports = {
  COMMITTED,
  CUBINS,
  MADE,
  chooseImage,
  compilerVersion,
  describe,
  findNvcc,
  makeImage,
  prepareKernels,
  ptxDigests,
  readImage,
  sourcesOf,
  staticsOf,
};

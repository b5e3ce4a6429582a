/**
 * The order of the folders, enforced: who may include or import whom, and what the compiled objects may
 * contain. Every check fails when it finds nothing to look at.
 */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');

function filesIn(folders: readonly string[], pattern: RegExp): string[] {
  return folders
    .filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
        .filter((file) => pattern.test(file))
        .map((file) => join(folder, file)),
    )
    .sort();
}

interface Rule {
  readonly property: string;
  readonly folders: readonly string[];
  readonly files: RegExp;
  readonly except?: readonly string[];
  /** What an include or import in those files must not match. */
  readonly forbidden: RegExp;
}

const cxx = /\.(h|c|cc|cu|cuh)$/;
const nodeApi = /^(napi|node_api|node_api_types|js_native_api|node|v8|uv)(-inl)?\.h$/;
/** The toolkit's; `cuda/name.h` is this package's own folder. */
const cudaToolkit =
  /^(?!cuda\/\w+\.h$)(cuda|cublas|cudnn|curand|nccl|nvrtc|nvml|nvtx|nvfatbin|mma|cub|cute|cutlass|cooperative_groups|vector_types|device_launch)[\w-]*(\/.*|\.(h|hpp|cuh))$/;
/** Of an MPI, not group/mpi.h. */
const mpiHeader = /^(mpi|mpicxx|mpi-ext|mpio)\.h$/;
const addonFiles = /^node-gyp-build$|\.node$|(^|\/)(build|prebuilds)\//;
const loaderModule = /(^|\/)load_addon\.js$/;

const rules: readonly Rule[] = [
  {
    property: 'Node-API headers are included in binding/ only',
    folders: ['engine', 'group', 'cpu', 'cuda'],
    files: cxx,
    forbidden: nodeApi,
  },
  {
    property: 'CUDA headers are included in cuda/ only',
    folders: ['engine', 'group', 'cpu', 'binding'],
    files: cxx,
    forbidden: cudaToolkit,
  },
  {
    property: 'engine/ and cpu/ do not include cuda/',
    folders: ['engine', 'cpu'],
    files: cxx,
    forbidden: /(^|\/)cuda\//,
  },
  { property: 'cuda/ does not include cpu/', folders: ['cuda'], files: cxx, forbidden: /(^|\/)cpu\// },
  {
    property: 'engine/ does not include binding/',
    folders: ['engine', 'group', 'cpu', 'cuda'],
    files: cxx,
    forbidden: /(^|\/)binding\//,
  },
  {
    property: 'group/ includes of the package itself and engine/status.h only',
    folders: ['group'],
    files: cxx,
    except: ['group/nccl_library.h'],
    forbidden: /^(?!group\/|engine\/status\.h$).*\//,
  },
  {
    property: 'NCCL knows of cuda/ the driver only',
    folders: ['group'],
    files: /^nccl_library\.h$/,
    forbidden: /^(?!cuda\/driver\.h$).*\//,
  },
  {
    property: 'engine/, cpu/ and cuda/ do not include group/',
    folders: ['engine', 'cpu', 'cuda'],
    files: cxx,
    forbidden: /(^|\/)group\//,
  },
  {
    property: 'mpi.h is included by the shim only',
    folders: ['engine', 'group', 'cpu', 'cuda', 'binding'],
    files: cxx,
    except: ['group/mpi_shim.c'],
    forbidden: mpiHeader,
  },
  {
    property: 'the addon is loaded by src/load_addon.ts only',
    folders: ['src'],
    files: /\.ts$/,
    except: ['src/load_addon.ts'],
    forbidden: addonFiles,
  },
  {
    property: 'the rest of src/ reaches native code through src/native.ts',
    folders: ['src'],
    files: /\.ts$/,
    except: ['src/native.ts'],
    forbidden: loaderModule,
  },
];

/** What a C++ file includes, or a TypeScript file imports or requires. */
function references(text: string): string[] {
  const patterns = [
    /^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm,
    /\bfrom\s+['"]([^'"]+)['"]/g,
    /\b(?:import|require)\s*\(\s*['"]([^'"]+)['"]/g,
    /^\s*import\s+['"]([^'"]+)['"]/gm,
  ];
  return patterns.flatMap((pattern) => [...text.matchAll(pattern)].map((match) => match[1] ?? ''));
}

function filesUnder(rule: Rule): string[] {
  return filesIn(rule.folders, rule.files).filter((file) => !rule.except?.includes(file));
}

describe('layers', () => {
  it.each(rules)('$property', (rule) => {
    // cuda/ is the one folder that a checkout may lack.
    const optional = rule.folders.every((folder) => folder === 'cuda') && !existsSync(join(root, 'cuda'));
    const files = filesUnder(rule);
    if (!optional) expect(files).not.toEqual([]);
    const violations = files.flatMap((file) =>
      references(readFileSync(join(root, file), 'utf8'))
        .filter((reference) => rule.forbidden.test(reference))
        .map((reference) => `${file} refers to ${reference}`),
    );
    expect(violations).toEqual([]);
  });

  it.each([
    ['#include <napi.h>', nodeApi],
    ['  #  include "node_api.h"', nodeApi],
    ['#include <cuda_runtime.h>', cudaToolkit],
    ['#include <cuda.h>', cudaToolkit],
    ['#include <cuda/std/array>', cudaToolkit],
    ['#include <nccl.h>', cudaToolkit],
    ['#include <mpi.h>', mpiHeader],
    ["const gyp = require('node-gyp-build');", addonFiles],
    ["const { loadAddon } = await import('./load_addon.js');", loaderModule],
    ["import { loadAddon } from './load_addon.js';", loaderModule],
  ])('the checks see %j', (line, forbidden) => {
    expect(references(line).filter((reference) => forbidden.test(reference))).toHaveLength(1);
  });
});

describe('compiled objects', () => {
  // One kernel source is compiled once per instruction set. A weak symbol (an inline function, a template) in the
  // object for a newer set could be the copy that the linker keeps for everyone: an older processor would run it.
  it.skipIf(process.arch !== 'x64')('kernels for newer instruction sets define no weak symbol', () => {
    const objects = filesIn(['build/CMakeFiles'], /(^|\/)kernels_(?!baseline)\w+\.dir\/.*\.o$/);
    expect(objects).not.toEqual([]);
    for (const object of objects) {
      const symbols = execFileSync('nm', [join(root, object)], { encoding: 'utf8' }).split('\n');
      expect(
        symbols.filter((line) => / T /.test(line)),
        `${object} defines its kernels`,
      ).not.toEqual([]);
      expect(
        symbols.filter((line) => / [WVu] /.test(line)),
        object,
      ).toEqual([]);
    }
  });

  const addon = join(root, 'build', 'Release', 'marginfc.node');

  it('the addon carries its own libstdc++', () => {
    const needed = [...objdump('-p', addon).matchAll(/NEEDED\s+(\S+)/g)].map((match) => match[1]);
    expect(needed).toContain('libc.so.6');
    expect(needed.filter((library) => library?.startsWith('libstdc++'))).toEqual([]);
  });

  // Newer systems bind newer symbol versions to the same source; prebuilt addons are made on glibc 2.36 or older.
  const builder = glibcVersion();
  it.skipIf(builder === undefined || builder > 36)(
    'the addon asks for glibc 2.34 at most (checked where glibc is 2.36 or older, as for prebuilt addons)',
    () => {
      const versions = [...objdump('-T', addon).matchAll(/GLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
      expect(versions).not.toEqual([]);
      expect(Math.max(...versions)).toBeLessThanOrEqual(34);
    },
  );
});

function objdump(flag: string, file: string): string {
  return execFileSync('objdump', [flag, file], { encoding: 'utf8', maxBuffer: 1 << 26 });
}

/** The 36 of this machine's glibc 2.36; undefined with another C library. */
function glibcVersion(): number | undefined {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  const minor = report.header?.glibcVersionRuntime?.split('.')[1];
  return minor === undefined ? undefined : Number(minor);
}

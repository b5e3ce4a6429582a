/** Which compiled CUDA kernels a build of the addon carries (scripts/lib/kernels.cjs), and when it carries none. */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import kernels from '../scripts/lib/kernels.cjs';
import { addon } from '../src/native.js';

const root = join(import.meta.dirname, '..');
const copy = mkdtempSync(join(tmpdir(), 'marginfc-kernels-'));
afterAll(() => rmSync(copy, { recursive: true, force: true }));

const sha256 = (bytes: string) => createHash('sha256').update(bytes).digest('hex');
const image = 'not a fatbin, but nobody looks inside';
const embedded = () => readFileSync(join(copy, 'build', 'kernels', 'embedded.h'), 'utf8');
const noNvcc = () => undefined;

/** A checkout's sources of kernels, with an image that says it is of them. */
beforeEach(() => {
  for (const folder of ['cuda', 'engine', 'build'])
    rmSync(join(copy, folder), { recursive: true, force: true });
  for (const folder of ['cuda', 'engine'])
    cpSync(join(root, folder), join(copy, folder), { recursive: true });
  const record = {
    compiler: 'nvcc 99.9',
    sources: kernels.sourcesOf(copy),
    cubins: ['80', '90a'],
    ptx: { 75: '', '90a': '' },
    image: { bytes: image.length, sha256: sha256(image) },
  };
  writeFileSync(join(copy, 'cuda', 'kernels.fatbin'), image);
  writeFileSync(join(copy, 'cuda', 'kernels.json'), JSON.stringify(record));
});

test('the sources are the kernels, the parameters and the engine headers that these include', () => {
  const files = kernels.sourcesOf(root)?.files;
  expect(files).toEqual(
    expect.arrayContaining(['cuda/kernels/kernels.cu', 'cuda/parameters.h', 'engine/margin.h']),
  );
  expect(
    files?.filter(
      (file) =>
        !/^(cuda\/kernels\/|cuda\/((hopper_)?parameters|sub_center_slots)\.h$|engine\/\w+\.h$)/.test(file),
    ),
  ).toEqual([]);
});

describe('a build', () => {
  test('carries the committed image of its sources', () => {
    expect(kernels.prepareKernels(copy, noNvcc)).toBe('');
    expect(embedded()).toContain(
      `#define MARGINFC_KERNELS_IMAGE ${JSON.stringify(join(copy, 'cuda', 'kernels.fatbin'))}`,
    );
    expect(embedded()).toContain(
      '#define MARGINFC_KERNELS_CONTENTS "sm_80, sm_90a; PTX 7.5, 9.0a; nvcc 99.9"',
    );
  });

  test.each<[string, string, (text: string) => string, RegExp]>([
    [
      'a kernel has changed',
      'cuda/kernels/kernels.cu',
      (text) => `${text}\n`,
      /kernels\.fatbin was made of other sources, and nvcc was not found/,
    ],
    [
      'a header of the engine that kernels include has changed',
      'engine/margin.h',
      (text) => `${text}\n`,
      /was made of other sources/,
    ],
    [
      'the image is damaged',
      'cuda/kernels.fatbin',
      (text) => text.slice(1),
      /kernels\.fatbin is not the file that cuda\/kernels\.json describes/,
    ],
  ])('without nvcc carries none where %s, and says why', (_, file, change, reason) => {
    writeFileSync(join(copy, file), change(readFileSync(join(copy, file), 'utf8')));
    expect(kernels.prepareKernels(copy, noNvcc)).toMatch(reason);
    expect(embedded()).toMatch(/#define MARGINFC_KERNELS_MISSING ".+"/);
    expect(embedded()).not.toContain('MARGINFC_KERNELS_IMAGE');
  });

  test('carries none where nvcc cannot compile the sources', () => {
    writeFileSync(join(copy, 'cuda', 'kernels', 'kernels.cu'), 'no C++');
    expect(kernels.prepareKernels(copy, () => '/bin/false')).toMatch(
      /nvcc could not compile these\nnvcc failed/,
    );
  });
});

test('the addon says which kernels it carries, or why none', () => {
  const text = readFileSync(join(root, 'build', 'kernels', 'embedded.h'), 'utf8');
  const [, name, value] = /MARGINFC_KERNELS_(CONTENTS|MISSING) (".*")/.exec(text) ?? [];
  const { kernels: contents, kernelsMissing } = addon().describeCuda();
  expect(name === 'CONTENTS' ? contents : kernelsMissing).toBe(JSON.parse(value ?? ''));
});

/** The lint for what the software device cannot see (test/ptx_lint.ts), on the mutants that it is there for. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { lintPtx } from './ptx_lint.js';

const cases = join(import.meta.dirname, '..', '..', 'shared', 'ptx-cases');
const exceptions = readFileSync(
  join(import.meta.dirname, 'gpusim', 'tests', 'fixtures', 'mutation_exceptions.txt'),
  'utf8',
)
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => {
    const [site = '', , cover = ''] = line.split('|').map((part) => part.trim());
    const [, kernel = '', number = ''] = /^(\S+):(\d+) /.exec(site) ?? [];
    return { kernel, line: Number(number), cover };
  });
const covered = exceptions.filter(({ cover }) => cover.startsWith('a lint'));

test('the exceptions name sites that a lint covers', () => {
  expect(covered.length).toBeGreaterThan(0);
});

describe.skipIf(!existsSync(cases))('kernels of another compiler (skipped without ../shared)', () => {
  const textOf = (kernel: string) => readFileSync(join(cases, `${kernel}.ptx`), 'utf8');

  test.each([...new Set(exceptions.map(({ kernel }) => kernel))])('%s has nothing to report', (kernel) => {
    expect(lintPtx(textOf(kernel))).toEqual([]);
  });

  test.each(covered)('$kernel without line $line is reported', ({ kernel, line }) => {
    const lines = textOf(kernel).split('\n');
    lines[line - 1] = '';
    expect(lintPtx(lines.join('\n'))).not.toEqual([]);
  });
});

test.each([
  [
    'st.shared.b32 [%r1], %r2;',
    'fence.proxy.async.shared::cta;',
    'wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 x;',
  ],
  [
    '@%p1 stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r1], {};',
    'fence.proxy.async;',
    'cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1], [%r1];',
  ],
  [
    'mbarrier.init.shared.b64 [%r1], 1;',
    'fence.mbarrier_init.release.cluster;',
    'cp.async.bulk.shared::cluster.global.mbarrier [%r1];',
  ],
  [
    'tensormap.cp_fenceproxy.global.shared::cta [%rd1], [%rd2], 0x80;',
    'fence.proxy.tensormap::generic.acquire.gpu [%rd1], 0x80;',
    'bar.sync 0;',
  ],
  [
    'st.shared.b32 [%r1], %r2;',
    'bar.warp.sync -1;',
    '@%p1 tensormap.replace.tile.rank.shared::cta.b1024.b32 [%rd2], 1;',
  ],
  ['wgmma.wait_group.sync.aligned 0;', 'bar.sync 0;', 'cp.async.cg.shared.global [%r1], [%rd1], 16;'],
])('%s needs %s before %s', (begin, end, use) => {
  expect(lintPtx([begin, end, use].join('\n'))).toEqual([]);
  expect(lintPtx([begin, use].join('\n'))).toEqual([{ line: 2, message: expect.any(String) }]);
});

/**
 * The package's own name resolves inside a checkout, to one copy of every class for `import` and `require`.
 * Asked of Node itself, because vitest resolves and transforms modules in its own way.
 */

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const program = (entry: string) => `
  import { createRequire } from 'node:module';
  const imported = await import('${entry}');
  const required = createRequire(import.meta.url)('${entry}');
  const same = Object.keys(required).filter((name) => required[name] === imported[name]);
  console.log(JSON.stringify({ imported: Object.keys(imported).sort(), same: same.sort() }));
`;

describe.each([
  ['marginfc', ['MarginFcError', 'MarginHead', 'arcface', 'valueAndGrad']],
  ['marginfc/tfjs', ['headLoss', 'marginLoss']],
])('%s', (entry, names) => {
  it('is one module for import and require', () => {
    const output = execFileSync(process.execPath, ['--input-type=module', '--eval', program(entry)], {
      cwd: join(import.meta.dirname, '..'),
      encoding: 'utf8',
    });
    const { imported, same } = JSON.parse(output);
    expect(imported).toEqual(expect.arrayContaining(names));
    expect(same).toEqual(imported);
  });
});

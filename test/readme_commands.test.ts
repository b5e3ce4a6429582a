/** What README.md tells a user to type exists. CI runs it all (scripts/ci.mjs); here only what is quick. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { codeBlocks, readmeBlocks } from '../scripts/readme_commands.mjs';

const root = join(import.meta.dirname, '..');

describe('the blocks of a page', () => {
  const page = [
    '```sh',
    'npm ci',
    'npm test',
    '```',
    'and',
    '<!-- not in CI: needs a GPU -->',
    '```sh',
    'npm run bench',
    '```',
    '```ts',
    'not run;',
    '```',
    '```js',
    "import 'marginfc';",
    '```',
  ].join('\n');

  it('are those in sh and js, with their lines and reasons not to run', () => {
    expect(codeBlocks(page)).toEqual([
      { line: 1, language: 'sh', source: 'npm ci\nnpm test', skip: undefined },
      { line: 7, language: 'sh', source: 'npm run bench', skip: 'needs a GPU' },
      { line: 13, language: 'js', source: "import 'marginfc';", skip: undefined },
    ]);
  });

  it('must end', () => {
    expect(() => codeBlocks('text\n```sh\nnpm ci')).toThrow('README.md:2');
  });
});

describe('the pages of this repository', () => {
  const shell = readmeBlocks().filter((block) => block.language === 'sh');

  it('README.md names only npm scripts that exist', () => {
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    const named = shell.flatMap(({ source }) =>
      [...source.matchAll(/npm (?:run (?:--silent )?([\w:]+)|(test)\b)/g)].map(
        (match) => match[1] ?? match[2] ?? '',
      ),
    );
    expect(named).toContain('test');
    expect(named).toContain('demo');
    expect(Object.keys(scripts)).toEqual(expect.arrayContaining(named));
  });

  it.each(['README.md', 'CONTRIBUTING.md'])('%s links only to files that exist', (page) => {
    const text = readFileSync(join(root, page), 'utf8');
    const links = [...text.matchAll(/\]\(([^)#]+)/g)].map((match) => match[1] ?? '');
    const local = links.filter((link) => !link.includes('://'));
    expect(local.filter((link) => !existsSync(join(root, link)))).toEqual([]);
  });
});

/** kill -9 in the middle of a save, at every moment: the folder has the checkpoint of before or the new one, and takes the next. */
import { execFile } from 'node:child_process';
import { cpSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { MarginHead } from '../src/index.js';
import { kept, newFolder, optimizers, trainedHead } from './checkpoint_heads.js';

const program = fileURLToPath(new URL('./lifecycle/save.mjs', import.meta.url));

function save(
  folder: string,
  moment: number,
): Promise<{ signal: NodeJS.Signals | null; said: string; stderr: string }> {
  return new Promise((resolve) => {
    const options = { timeout: 100_000, env: { ...process.env, MARGINFC_THREADS: '1' } };
    const child = execFile(process.execPath, [program, folder, String(moment)], options, (_, said, stderr) =>
      resolve({ signal: child.signalCode, said, stderr }),
    );
  });
}

test('the last complete checkpoint always loads', async () => {
  const head = await trainedHead({ optimizer: optimizers['sgd with momentum'], shards: 3 });
  const [before, after] = [newFolder(), newFolder()];
  await head.save(before);
  cpSync(before, after, { recursive: true });
  const { said, stderr } = await save(after, 0);
  expect(stderr).toBe('');
  const moments = Number(said);
  // At least open, write of the header and the two arrays, sync, close and rename of three shards.
  expect(moments).toBeGreaterThan(21);
  const weights = {
    before: kept(await MarginHead.load(before)).weights(),
    after: kept(await MarginHead.load(after)).weights(),
  };
  expect(weights.after).not.toEqual(weights.before);
  const found: string[] = [];
  for (let moment = 1; moment <= moments; moment++) {
    const folder = newFolder();
    cpSync(before, folder, { recursive: true });
    expect(await save(folder, moment)).toEqual({ signal: 'SIGKILL', said: '', stderr: '' });
    const loaded = kept(await MarginHead.load(folder));
    const which = loaded.stepCount === head.stepCount ? 'before' : 'after';
    expect(loaded.weights()).toEqual(weights[which]);
    found.push(which);
    await loaded.save(folder);
    expect(readdirSync(folder)).toHaveLength(2);
  }
  // Once the new one is there, it stays.
  expect(found.join()).toMatch(/^(before,){21,}(after,?)+$/);
});

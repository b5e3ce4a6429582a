/**
 * node checkpoint_memory.mjs FOLDER: how much the peak of this process's resident memory grows, in bytes, by saving a head, and by
 * loading it again, beyond the head itself. `size`: bytes of its arrays.
 */
import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import process from 'node:process';
import { MarginHead, sgd } from 'marginfc';

const dim = 256;
const classes = 65_536;
const options = { dim, classes, shards: 3, optimizer: sgd({ momentum: 0.9 }) };
const size = 2 * dim * classes * 4;

/** @param {string} name */
function memory(name) {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line?.[1]) * 1024;
}

/** @param {() => Promise<unknown>} call */
async function growth(call) {
  // Resets the peak.
  writeFileSync('/proc/self/clear_refs', '5');
  const before = memory('VmRSS');
  await call();
  return memory('VmHWM') - before;
}

const folder = process.argv[2] ?? '';
const small = await MarginHead.create({ ...options, classes: 10 });
await small.save(`${folder}/small`);
(await MarginHead.load(`${folder}/small`)).dispose();

const head = await MarginHead.create(options);
// Touches the momentum's memory.
await head.step({ features: new Float32Array(dim).fill(1), labels: Int32Array.of(0) });
const save = await growth(() => head.save(folder));
const load = (await growth(() => MarginHead.load(folder))) - size;
writeSync(1, JSON.stringify({ save, load, size }));

/**
 * mpirun -np R node ranks.mjs SCENARIO FOLDER OUT: what a head does whose classes R processes share; with MARGINFC_TEST_GROUP=nccl
 * on a GPU each, as torchrun starts them. Each leaves what it saw in OUT/RANK.json.
 */
import { writeFileSync } from 'node:fs';
import files from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import path from 'node:path';
import process from 'node:process';
import { customMargin, MarginFcError, MarginHead, mpi, nccl, sgd } from 'marginfc';
import { makeBatch } from './problems.mjs';

const [scenario = '', folder = '', out = ''] = process.argv.slice(2);
const size = { rows: 30, dim: 24, classes: 101 };
const batch = makeBatch(size);
const gpus = process.env.MARGINFC_TEST_GROUP === 'nccl';
const group = await (gpus ? nccl : mpi)({ timeout: scenario === 'stop in a step' ? 3 : 60 });
const { rank, size: ranks } = group;

/** The rows of this process: all ranks but the last have three fewer than even parts. */
const bounds = [rank, rank + 1].map((r) =>
  r === ranks ? size.rows : Math.max(0, Math.floor((size.rows * r) / ranks) - 3 * Math.sign(r)),
);
const [start = 0, end = 0] = bounds;
const own = {
  features: batch.features.slice(start * size.dim, end * size.dim),
  labels: batch.labels.slice(start, end),
};

/** @param {object} seen */
const report = (seen) => writeFileSync(path.join(out, `${rank}.json`), JSON.stringify(seen));

const create = () =>
  MarginHead.create({
    dim: size.dim,
    classes: size.classes,
    seed: 5,
    init: { std: 0.5 },
    shards: 1 + rank,
    optimizer: sgd({ learningRate: 0.2, momentum: 0.9 }),
    group,
    ...(gpus && { devices: [/** @type {const} */ (`cuda:${rank}`)], precision: 'float32' }),
  });

/** @param {MarginHead} head */
const step = async (head) => {
  const { loss, accuracy, dFeatures } = await head.step(own);
  return { loss, accuracy, dFeatures: Array.from(dFeatures) };
};

/** A step in whose middle rank 1 sends itself a signal. @param {MarginHead} head @param {NodeJS.Signals} signal */
const interrupted = (head, signal) =>
  head.step(own, {
    margin: customMargin(({ cosine, row }) => {
      if (rank === 1 && row === 0) process.kill(process.pid, signal);
      return { target: cosine - 0.3, dTarget: 1 };
    }),
  });

/** Kills this process when it has asked the file system so many things. @param {number} moment */
async function killAt(moment) {
  let asked = 0;
  const handle = await files.open(process.execPath);
  const handles = Object.getPrototypeOf(handle);
  await handle.close();
  for (const [of, names] of /** @type {[Record<string, any>, string[]][]} */ ([
    [handles, ['write', 'sync', 'close']],
    [files, ['open', 'rename']],
  ]))
    for (const name of names) {
      const original = of[name];
      of[name] = function (/** @type {unknown[]} */ ...args) {
        const result = original.apply(this, args);
        if (++asked === moment) process.kill(process.pid, 'SIGKILL');
        return result;
      };
    }
  syncBuiltinESMExports();
}

/** @type {Record<string, () => Promise<void>>} */
const scenarios = {
  async train() {
    const head = await create();
    const steps = [await step(head), await step(head)];
    await head.save(folder);
    const next = await step(head);
    report({ steps, next, range: head.range, weights: Array.from(head.weights()) });
  },
  async resume() {
    const head = await MarginHead.load(folder, { group, shards: 2 });
    report({ stepCount: head.stepCount, next: await step(head), weights: Array.from(head.weights()) });
  },
  async 'stop in a step'() {
    const head = await create();
    await step(head);
    const before = head.weights();
    const begun = performance.now();
    const failure = await interrupted(head, 'SIGSTOP').catch((/** @type {unknown} */ error) => error);
    const again = await head.step(own).catch((/** @type {unknown} */ error) => error);
    const code = (/** @type {unknown} */ error) =>
      error instanceof MarginFcError ? error.code : String(error);
    report({
      codes: [code(failure), code(again)],
      seconds: (performance.now() - begun) / 1000,
      unchanged: Buffer.from(before.buffer).equals(Buffer.from(head.weights().buffer)),
      stepCount: head.stepCount,
    });
    process.exit(3);
  },
  async 'kill in a step'() {
    const head = await create();
    await step(head);
    await interrupted(head, 'SIGKILL');
  },
  async 'kill in a save'() {
    const head = await MarginHead.load(folder, { group });
    await step(head);
    const [victim, moment] = (process.env.MARGINFC_TEST_KILLED ?? '').split(':').map(Number);
    if (rank === victim) await killAt(moment ?? 0);
    await head.save(folder);
  },
};

await scenarios[scenario]?.();
await group.close();

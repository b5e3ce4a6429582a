/**
 * What two shards cost against one on the cpu: `npm run bench:shards [-- B,D,C [PAIRS]]`.
 *
 * Calls with one shard and with two take turns, so that both see the machine's load alike. Beside the clock's time there is that of the
 * process's threads, which other processes disturb less.
 */

import { arcface, MarginHead, sgd, valueAndGradSync } from 'marginfc';
import { describeMachine } from './cpu/machine.js';
import { printMachine, table } from './cpu/table.js';
import { normals, uniforms } from './random.js';
import { parseSize } from './size.js';
import { median, ratioInterval } from './statistics.js';

interface Times {
  readonly clock: number[];
  readonly processor: number[];
}

/** Each call once unrecorded, then in turns; who is first changes from pair to pair. */
function inTurns(calls: readonly (() => unknown)[], pairs: number): Times[] {
  const times = calls.map((call): Times => {
    call();
    return { clock: [], processor: [] };
  });
  for (let pair = 0; pair < pairs; pair++)
    for (let turn = 0; turn < calls.length; turn++) {
      const which = (turn + pair) % calls.length;
      const [before, start] = [process.cpuUsage(), performance.now()];
      calls[which]?.();
      times[which]?.clock.push(performance.now() - start);
      const { user, system } = process.cpuUsage(before);
      times[which]?.processor.push((user + system) / 1000);
    }
  return times;
}

const { B, D, C } = parseSize(process.argv[2] ?? '512,512,100000');
const pairs = Number(process.argv[3] ?? 11);
const [normal, uniform] = [normals(), uniforms()];
const filled = (length: number) => Float32Array.from({ length }, normal);
const weights = filled(C * D);
const features = filled(B * D);
const labels = Int32Array.from({ length: B }, () => Math.floor(uniform() * C));
const out = { dFeatures: new Float32Array(B * D), dWeights: new Float32Array(C * D) };
const margin = arcface();

printMachine(`marginfc, two shards against one at (${B}, ${D}, ${C})`, describeMachine(), {
  samples: `${pairs} pairs, in turns`,
});
const shards = [1, 2];
const rows: string[][] = [];
function compare(name: string, calls: readonly (() => unknown)[]): void {
  const [one, two] = inTurns(calls, pairs);
  for (const kind of ['clock', 'processor'] as const) {
    const [a, b] = [one?.[kind] ?? [], two?.[kind] ?? []];
    const percent = (ratio: number) => `${((ratio - 1) * 100).toFixed(1)} %`;
    const [low, high] = ratioInterval(a, b);
    rows.push([
      name,
      kind,
      median(a).toFixed(0),
      median(b).toFixed(0),
      percent(median(b) / median(a)),
      `${percent(low)} to ${percent(high)}`,
    ]);
  }
}
for (const workspace of ['keep', 'recompute'] as const)
  compare(
    `loss + dX + dW, ${workspace}`,
    shards.map((count) => () => {
      valueAndGradSync({ features, weights, labels, dim: D }, { margin, workspace, shards: count, out });
    }),
  );
const heads = await Promise.all(
  shards.map((count) =>
    MarginHead.create({
      ...{ dim: D, classes: C, margin, shards: count, init: weights, workspace: 'recompute' },
      optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
    }),
  ),
);
compare(
  'step, recompute',
  heads.map((head) => () => head.stepSync({ features, labels }, { out: { dFeatures: out.dFeatures } })),
);
for (const head of heads) head.dispose();
const heading = ['call', 'time', '1 shard, ms', '2 shards, ms', 'more', '95 % interval'];
for (const line of table(heading, rows, new Set(['call', 'time']))) console.log(line);

/**
 * node storage_child.mjs SHARDS...: updates bfloat16 weights and prints a digest of them for each number of shards. Gradients are
 * 0 and every factor is a power of two, so that each operation rounds once with fused multiply-adds and without.
 */
import { createHash } from 'node:crypto';
import process from 'node:process';
import { MarginHead, sgd } from 'marginfc';

const [dim, classes] = [300, 41];
for (const shards of process.argv.slice(2).map(Number)) {
  const head = await MarginHead.create({
    dim,
    classes,
    shards,
    storage: 'bfloat16',
    seed: 2 ** 32 - 1,
    init: { std: 1 },
    optimizer: sgd({ learningRate: 2 ** -3, momentum: 0.5, weightDecay: 2 ** -5 }),
  });
  const before = head.weights();
  for (let step = 0; step < 5; step++)
    await head.step({ features: new Float32Array(dim).fill(1), labels: Int32Array.of(-1) });
  const after = head.weights();
  if (after.every((value, i) => value === before[i])) throw new Error('nothing has moved');
  console.log(
    createHash('sha256')
      .update(new Uint8Array(after.buffer, after.byteOffset, after.byteLength))
      .digest('hex'),
  );
  head.dispose();
}

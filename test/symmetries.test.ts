/** What the formula of the loss implies, tried on random problems: symmetries, and margins that coincide. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { seeded } from './random.js';
import {
  bitsOf,
  compute,
  expectSame,
  type Given,
  given,
  parameter,
  plainOptions,
  runs,
} from './random_problems.js';
import { reference } from './reference.js';

function rowsIn(order: readonly number[], matrix: Float32Array, dim: number): Float32Array {
  return Float32Array.from(order.flatMap((i) => [...matrix.subarray(i * dim, (i + 1) * dim)]));
}

function shuffled(count: number, seed: number): number[] {
  const random = seeded(seed);
  const order = [...Array(count).keys()];
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

describe('symmetries of the loss', () => {
  test('the order of the classes does not matter', () => {
    const property = fc.property(given, fc.nat(), (input, seed) => {
      const { problem, options } = input;
      const { dim } = problem;
      const order = shuffled(problem.weights.length / dim, seed);
      const place = new Map(order.map((from, to) => [from, to]));
      const weights = rowsIn(order, problem.weights, dim);
      const labels = problem.labels.map((label) => (label < 0 ? label : place.get(label)!));
      const back = order.map((_, from) => place.get(from)!);
      const got = compute({ problem: { ...problem, weights, labels }, options });
      expectSame({ ...got, dWeights: rowsIn(back, got.dWeights, dim) }, compute(input), input);
    });
    fc.assert(property, runs);
  });

  test('where rows begin in memory does not matter, nor what lies around them', () => {
    const inside = (values: Float32Array, start: number) => {
      const around = new Float32Array(start + values.length + 16).fill(Number.NaN);
      around.set(values, start);
      return around.subarray(start, start + values.length);
    };
    const start = fc.integer({ min: 0, max: 15 });
    const precision = fc.constantFrom('float32' as const, 'bfloat16' as const, 'float16' as const);
    const property = fc.property(given, start, precision, ({ problem, options }, first, precision) => {
      const weights = inside(problem.weights, first);
      const features = inside(problem.features, 15 - first);
      const moved = compute({ problem: { ...problem, weights, features }, options }, { precision });
      expect(bitsOf(moved)).toEqual(bitsOf(compute({ problem, options }, { precision })));
    });
    fc.assert(property, runs);
  });

  test('the order of the rows does not matter', () => {
    const property = fc.property(given, fc.nat(), (input, seed) => {
      const { problem, options } = input;
      const order = shuffled(problem.labels.length, seed);
      const features = rowsIn(order, problem.features, problem.dim);
      const labels = Int32Array.from(order, (i) => problem.labels[i]!);
      const { loss, dWeights } = compute({ problem: { ...problem, features, labels }, options });
      expectSame({ loss, dWeights }, compute(input), input);
    });
    fc.assert(property, runs);
  });

  test('the length of a row changes its own gradient alone, and that inversely', () => {
    // Powers of two round nothing; rows stay above 1e-12, where length stops counting.
    const property = fc.property(
      given.filter(({ problem }) =>
        [...reference(problem, plainOptions).featureNorm].every((norm) => norm > 1e-9),
      ),
      fc.integer({ min: -6, max: 20 }),
      (input, power) => {
        const { problem, options } = input;
        const factor = (i: number) => (i % 2 === 0 ? 2 ** power : 1);
        const row = (index: number) => Math.floor(index / problem.dim);
        const features = problem.features.map((value, index) => value * factor(row(index)));
        const got = compute({ problem: { ...problem, features }, options });
        const dFeatures = got.dFeatures.map((value, index) => value * factor(row(index)));
        expectSame({ ...got, dFeatures }, compute(input), input);
      },
    );
    fc.assert(property, runs);
  });

  test('summed losses and gradients of two parts of a batch are those of the batch', () => {
    const property = fc.property(given, fc.double({ min: 0, max: 1, noNaN: true }), (input, share) => {
      const { problem } = input;
      const whole = { problem, options: { ...input.options, reduction: 'sum' as const } };
      const cut = Math.floor(share * problem.labels.length);
      const part = (start: number, end: number) =>
        compute({
          ...whole,
          problem: {
            ...problem,
            features: problem.features.subarray(start * problem.dim, end * problem.dim),
            labels: problem.labels.subarray(start, end),
          },
        });
      const [head, tail] = [part(0, cut), part(cut, problem.labels.length)];
      const dFeatures = Float32Array.of(...head.dFeatures, ...tail.dFeatures);
      const dWeights = head.dWeights.map((value, i) => value + tail.dWeights[i]!);
      expectSame({ loss: head.loss + tail.loss, dFeatures, dWeights }, compute(whole), whole);
    });
    fc.assert(property, runs);
  });
});

describe('margins that say the same give the same', () => {
  const angle = parameter(0, 0.8);

  test('combined(1, m, 0) is arcface(m), with every policy', () => {
    const property = fc.property(
      given,
      angle,
      fc.constantFrom('none' as const, 'fallback' as const, 'easy' as const),
      (input, m, onOverflow) => {
        const { problem } = input;
        const options = { ...input.options, onOverflow };
        const arcface: Given = { problem, options: { ...options, margin: { kind: 'arcface', m } } };
        const combined: Given = {
          problem,
          options: { ...options, margin: { kind: 'combined', m1: 1, m2: m, m3: 0 } },
        };
        expectSame(compute(combined), compute(arcface), arcface);
      },
    );
    fc.assert(property, runs);
  });

  test('a custom margin with the formula of cosface is cosface', () => {
    const property = fc.property(given, angle, (input, m) => {
      const { problem } = input;
      const options = { ...input.options, onOverflow: 'none' as const };
      const cosface: Given = { problem, options: { ...options, margin: { kind: 'cosface', m } } };
      const callback = ({ cosine }: { cosine: number }) => ({ target: cosine - m, dTarget: 1 });
      expectSame(
        compute({ problem, options: { ...options, margin: { kind: 'custom', callback } } }),
        compute(cosface),
        cosface,
      );
    });
    fc.assert(property, runs);
  });

  test('a parameter per row or per class with one value everywhere is that value', () => {
    const property = fc.property(given, angle, fc.boolean(), (input, m, byRow) => {
      const { problem } = input;
      const rounded = Math.fround(m);
      const count = byRow ? problem.labels.length : problem.weights.length / problem.dim;
      const all = new Float32Array(count).fill(rounded);
      const options = { ...input.options, onOverflow: 'fallback' as const };
      const number: Given = { problem, options: { ...options, margin: { kind: 'arcface', m: rounded } } };
      const array = {
        ...options,
        margin: { kind: 'arcface' as const, m: byRow ? { perRow: all } : { perClass: all } },
      };
      expect(bitsOf(compute({ problem, options: array }))).toEqual(bitsOf(compute(number)));
    });
    fc.assert(property, runs);
  });

  test('straight-through gradients are those of subtracting what the margin took from the cosine', () => {
    const property = fc.property(given, (input) => {
      const { problem } = input;
      const straight: Given = { problem, options: { ...input.options, gradient: 'straightThrough' } };
      const exact = reference(problem, straight.options);
      const taken = exact.targetCosine.map((c, i) =>
        problem.labels[i]! < 0 ? 0 : c - exact.targetLogit[i]! / input.options.scale,
      );
      const shift: Given = {
        problem,
        options: {
          ...input.options,
          onOverflow: 'none',
          margin: { kind: 'cosface', m: { perRow: Float32Array.from(taken) } },
        },
      };
      expectSame(compute(shift), compute(straight), straight);
    });
    fc.assert(property, runs);
  });
});

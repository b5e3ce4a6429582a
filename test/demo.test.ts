/** The demo: its figures against values worked out by hand, its image loader, and whole runs with tiny settings. */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Transformer } from '@napi-rs/image';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { closedSetSplit, loadDigits, loadFolder, openSetSplit, searchSplit } from '../examples/demo/data.js';
import { fitted, readGrey, sizeOf } from '../examples/demo/images.js';
import {
  angularSpread,
  bestThreshold,
  classCentres,
  drawPairs,
  mean,
  meanInterval,
  nearestCentreAccuracy,
  nearestCentreAngle,
  type Pair,
  standardDeviation,
  unitRows,
  verify,
} from '../examples/demo/metrics.js';
import { seeded } from '../examples/random.js';
import { namedLosses } from '../src/index.js';
import { makeFaces, pgm } from './faces.js';

const root = join(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'marginfc-demo-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Unit rows [N, 2] at these angles in degrees. */
function at(...angles: number[]): Float64Array {
  const radians = angles.map((angle) => (angle * Math.PI) / 180);
  return Float64Array.from(radians.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]));
}

describe('metrics', () => {
  it('scale rows to length 1, except rows of zeros', () => {
    expect(Array.from(unitRows([3, 4, 0, 0, 0, -2], 2))).toEqual([0.6, 0.8, 0, 0, 0, -1]);
  });

  it('measure the spread of a class as the mean angle to its centre', () => {
    const units = at(-10, 10, 70, 110);
    const labels = [0, 0, 1, 1];
    const centres = classCentres(units, labels, 2, 2);
    expect(Array.from(centres)).toEqual([1, 0, 0, 1].map((value) => expect.closeTo(value, 12)));
    expect(angularSpread(units, labels, centres, 2)).toBeCloseTo((10 + 20) / 2, 10);
  });

  it('count every class alike, however many images it has', () => {
    const units = at(-10, 10, -10, 10, 70, 110);
    const labels = [0, 0, 0, 0, 1, 1];
    expect(angularSpread(units, labels, classCentres(units, labels, 2, 2), 2)).toBeCloseTo(15, 10);
  });

  it('measure how near the nearest other centre is', () => {
    expect(nearestCentreAngle(at(0, 40, 180), 2)).toBeCloseTo((40 + 40 + 140) / 3, 10);
    expect(nearestCentreAccuracy(at(10, 30, 100, 170), [0, 0, 1, 2], at(0, 40, 180), 2)).toBe(3 / 4);
  });

  it('choose the threshold that judges most pairs rightly, both kinds counting alike', () => {
    expect(bestThreshold([0.8, 0.9], [0.1, 0.2])).toBeCloseTo(0.5, 12);
    expect(bestThreshold([0.3, 0.8, 0.9], [0.1, 0.2, 0.5])).toBeCloseTo(0.25, 12);
    expect(bestThreshold([0.4, 0.9], [0.1, 0.2, 0.3, 0.5])).toBeCloseTo(0.35, 12);
  });

  /** Pairs whose cosines are these. */
  function pairsOf(positives: readonly number[], negatives: readonly number[]) {
    const cosines = [...positives, ...negatives];
    const units = Float64Array.from([1, 0, ...cosines.flatMap((c) => [c, Math.sqrt(1 - c * c)])]);
    const pair = (_: number, i: number): Pair => [0, i + 1];
    const pairs = cosines.map(pair);
    return {
      units,
      pairs: { same: pairs.slice(0, positives.length), different: pairs.slice(positives.length) },
    };
  }
  const steps = (count: number, from: number, step: number) =>
    Array.from({ length: count }, (_, i) => from + i * step);

  it('verify separable pairs without a mistake', () => {
    const { units, pairs } = pairsOf(steps(20, 0.7, 0.01), steps(40, 0.1, 0.01));
    expect(verify(units, 2, pairs)).toEqual({ accuracy: 1, trueAcceptRate: 1 });
  });

  it('find half of all pairs right where both kinds have the same cosines', () => {
    const { units, pairs } = pairsOf(steps(100, 0, 0.009), steps(100, 0, 0.009));
    const { accuracy, trueAcceptRate } = verify(units, 2, pairs);
    expect(accuracy).toBeCloseTo(0.5, 1);
    expect(trueAcceptRate).toBe(0.01);
  });

  it('let through no more different pairs than the false accept rate says', () => {
    // 5 of 100 are above 0.94: 0.95 to 0.99.
    const { units, pairs } = pairsOf([0.945, 0.9, 0.96, 0.5], steps(100, 0, 0.01));
    expect(verify(units, 2, pairs, 0.05).trueAcceptRate).toBe(0.5);
  });

  it('draw every pair once where there are few', () => {
    const { same, different } = drawPairs([0, 0, 0, 1, 1], 100, seeded(1));
    const named = (pairs: readonly Pair[]) => pairs.map(([i, j]) => [i, j].sort().join()).sort();
    expect(named(same)).toEqual(['0,1', '0,2', '1,2', '3,4']);
    expect(named(different)).toEqual(['0,3', '0,4', '1,3', '1,4', '2,3', '2,4']);
  });

  it('draw as many pairs as asked where there are many, none twice, the same for a seed', () => {
    const labels = Array.from({ length: 200 }, (_, i) => i % 3);
    const { same, different } = drawPairs(labels, 500, seeded(2));
    for (const [pairs, alike] of [
      [same, true],
      [different, false],
    ] as const) {
      expect(new Set(pairs.map(([i, j]) => [i, j].sort().join())).size).toBe(500);
      expect(pairs.every(([i, j]) => i !== j && (labels[i] === labels[j]) === alike)).toBe(true);
    }
    expect(drawPairs(labels, 500, seeded(2))).toEqual({ same, different });
  });

  it('summarise', () => {
    expect(mean([1, 2, 6])).toBe(3);
    expect(standardDeviation([1, 2, 6])).toBeCloseTo(Math.sqrt((4 + 1 + 9) / 2), 12);
    const half = (4.303 * Math.sqrt(7)) / Math.sqrt(3);
    expect(meanInterval([1, 2, 6])).toEqual([expect.closeTo(3 - half, 10), expect.closeTo(3 + half, 10)]);
    expect(meanInterval(new Array(40).fill(2))).toEqual([2, 2]);
  });
});

/** Opaque grey pixels as RGBA. */
function rgba(grey: readonly number[]): Uint8Array {
  return Uint8Array.from(grey.flatMap((value) => [value, value, value, 255]));
}

function written(name: string, contents: Uint8Array | string): string {
  const file = join(scratch, name);
  writeFileSync(file, contents);
  return file;
}

describe('images', () => {
  const grey = [0, 51, 102, 153, 204, 255];
  const size = { width: 3, height: 2 };
  const shares = grey.map((value) => expect.closeTo(value / 255, 6));

  it.each([
    ['PGM', () => written('binary.pgm', pgm(3, 2, grey))],
    ['PGM in text', () => written('text.pgm', `P2\n# by hand\n3 2\n255\n${grey.join(' ')}\n`)],
    ['PNG', () => written('grey.png', Transformer.fromRgbaPixels(rgba(grey), 3, 2).pngSync())],
  ])('of kind %s are read as they are', async (_, file) => {
    expect(await sizeOf(file())).toEqual(size);
    expect(Array.from(await readGrey(file(), size))).toEqual(shares);
  });

  it('of kind JPEG are read as they are, to its precision', async () => {
    const flat = Transformer.fromRgbaPixels(rgba(new Array(64).fill(100)), 8, 8);
    const pixels = await readGrey(written('flat.jpeg', flat.jpegSync(90)), { width: 8, height: 8 });
    expect(Array.from(pixels)).toEqual(new Array(64).fill(expect.closeTo(100 / 255, 2)));
  });

  it('of 16 bits are read to all of them', async () => {
    const samples = [0, 1000, 40000, 65535];
    const bytes = Buffer.alloc(8);
    for (const [i, sample] of samples.entries()) bytes.writeUInt16BE(sample, 2 * i);
    const file = written('deep.pgm', Buffer.concat([Buffer.from('P5\n2 2\n65535\n'), bytes]));
    const pixels = await readGrey(file, { width: 2, height: 2 });
    expect(Array.from(pixels)).toEqual(samples.map((sample) => expect.closeTo(sample / 65535, 6)));
  });

  it('of another shape are cropped about their middle', async () => {
    const wide = written('wide.pgm', pgm(4, 2, [9, 100, 200, 9, 9, 50, 150, 9]));
    const pixels = await readGrey(wide, { width: 2, height: 2 });
    expect(Array.from(pixels, (value) => Math.round(value * 255))).toEqual([100, 200, 50, 150]);
  });

  it('get smaller and keep their shape, and never larger', () => {
    expect(fitted({ width: 92, height: 112 }, 28)).toEqual({ width: 23, height: 28 });
    expect(fitted({ width: 10, height: 5 }, 28)).toEqual({ width: 10, height: 5 });
  });

  it('that cannot be decoded are named', async () => {
    const file = written('broken.png', 'no image');
    await expect(readGrey(file, size)).rejects.toThrow(`${file} cannot be decoded`);
  });
});

function facesFolder(name: string, identities: number, images: number): string {
  return makeFaces(join(scratch, name), identities, images);
}

describe('data', () => {
  it('are 10,000 digits of 14 x 14 by default', () => {
    const { images, labels, classNames, size } = loadDigits();
    expect(images).toHaveLength(10_000);
    expect(size).toEqual({ width: 14, height: 14 });
    expect(new Set(labels)).toEqual(new Set(classNames.keys()));
    expect(images.every((image) => image.every((value) => value >= 0 && value <= 1))).toBe(true);
    expect(mean(images.map((image) => Math.max(...image)))).toBeGreaterThan(0.9);
  });

  it('come from a folder per identity, in the order people count', async () => {
    const folder = facesFolder('twelve', 12, 2);
    mkdirSync(join(folder, 'person 0'));
    writeFileSync(join(folder, 'person 0', 'notes.txt'), 'no image');
    const { images, labels, classNames, size, name } = await loadFolder(folder);
    expect(name).toBe('twelve');
    expect(classNames).toEqual(Array.from({ length: 12 }, (_, i) => `person ${i + 1}`));
    expect(labels).toEqual(Array.from({ length: 24 }, (_, i) => Math.floor(i / 2)));
    expect(images.every((image) => image.length === size.width * size.height)).toBe(true);
  });

  it('need four identities', async () => {
    await expect(loadFolder(facesFolder('three', 3, 2))).rejects.toThrow(/at least 4 folders .* found 3/);
  });

  const labels = Array.from({ length: 100 }, (_, i) => i % 10);
  const classNames = Array.from({ length: 10 }, (_, i) => `${i}`);
  const data = {
    name: '',
    size: { width: 1, height: 1 },
    images: labels.map(() => new Float32Array(1)),
    labels,
    classNames,
  };
  const classesOf = (images: readonly number[]) => new Set(images.map((image) => labels[image]));

  it('keep the classes to verify on out of training, and other images of the rest for testing', () => {
    const { classOf, train, test, heldOut } = openSetSplit(data, seeded(1));
    expect(new Set([...train, ...test, ...heldOut]).size).toBe(100);
    expect([train.length, test.length, heldOut.length]).toEqual([49, 21, 30]);
    expect(classesOf(train)).toEqual(new Set(classOf.keys()));
    expect(classesOf(test)).toEqual(new Set(classOf.keys()));
    expect([...classesOf(heldOut)].filter((label) => classOf.has(label as number))).toEqual([]);
    expect([...classOf.values()]).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it('are split otherwise by another seed', () => {
    const held = (seed: number) => [...classesOf(openSetSplit(data, seeded(seed)).heldOut)].sort().join();
    expect(new Set([1, 2, 3, 4, 5].map(held)).size).toBeGreaterThan(1);
    expect(held(1)).toBe(held(1));
  });

  it('are parted three ways for a search: no class is in two parts', () => {
    const { classOf, train, validation, test } = searchSplit(data, seeded(2));
    const parts = [train, validation, test].map(classesOf);
    expect(parts.map(({ size }) => size)).toEqual([4, 3, 3]);
    expect(new Set(parts.flatMap((part) => [...part])).size).toBe(10);
    expect(parts[0]).toEqual(new Set(classOf.keys()));
    expect(train.length + validation.length + test.length).toBe(100);
    const few = { ...data, classNames: classNames.slice(0, 5) };
    expect(() => searchSplit(few, seeded(1))).toThrow(/at least 6 identities, received 5/);
  });

  it('are the first classes only for the picture', () => {
    const { classOf, train, test } = closedSetSplit(data, 8, seeded(1));
    expect([...classOf]).toEqual(Array.from({ length: 8 }, (_, i) => [i, i]));
    expect(train.length + test.length).toBe(80);
  });
});

describe('a run', () => {
  beforeAll(() => {
    execFileSync('npm', ['run', '--silent', 'build:programs'], { cwd: root, stdio: 'inherit' });
  });

  function demo(...options: string[]) {
    const program = join(root, 'build', 'examples', 'demo', 'main.js');
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...options], {
      cwd: scratch,
      encoding: 'utf8',
    });
    return { status, stdout, stderr };
  }

  function expectWholePage(page: string) {
    expect(page.match(/<svg/g)).toHaveLength(5);
    for (const loss of ['Softmax', 'CosFace', 'ArcFace', 'X2-Softmax']) expect(page).toContain(loss);
    expect(page).toContain('prefers-color-scheme: dark');
    expect(page).not.toMatch(/<script|<link|<img|@import|url\(|NaN|undefined|Infinity/);
  }

  it('on a folder prints losses and tables, and writes a page that needs nothing else', () => {
    const options = [
      '--data',
      facesFolder('six <&> people', 6, 6),
      '--seeds',
      '2',
      '--epochs',
      '2',
      '--dim',
      '4',
    ];
    const { status, stdout, stderr } = demo(...options, '--out', 'made/page.html');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.match(/^ {2}seed [12] .*( +\d+\.\d\d){2}$/gm)).toHaveLength(8);
    expect(stdout).toMatch(/4-D embedding, mean ± standard deviation over 2 seeds/);
    expect(stdout).toMatch(/ArcFace( +[\d.]+ ± [\d.]+°){2}( +[\d.]+ ± [\d.]+ %){2}/);
    expect(stdout).not.toMatch(/NaN|undefined/);
    const page = readFileSync(join(scratch, 'made', 'page.html'), 'utf8');
    expectWholePage(page);
    expect(page).toContain('six &#60;&#38;&#62; people');
  });

  it('compares any losses by name, the first being the baseline', () => {
    const names = namedLosses.map(({ name }) => name);
    const options = ['--data', facesFolder('five', 5, 4), '--seeds', '1', '--epochs', '1', '--dim', '4'];
    const { status, stdout, stderr } = demo(...options, '--losses', names.join(', '), '--out', 'all.html');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(new RegExp(`of ${namedLosses[0]?.title}, points`));
    const page = readFileSync(join(scratch, 'all.html'), 'utf8');
    expect(page.match(/<figure/g)).toHaveLength(names.length);
    for (const { title } of namedLosses) expect(page).toContain(`<b>${title}</b>`);
    expect(page).toContain('sphereface, m 1.5, lambda 0, straightThrough');
    expect(page).not.toMatch(/NaN|undefined|Infinity/);
  });

  it('gives the same figures again', () => {
    const options = ['--data', facesFolder('four', 4, 4), '--seeds', '1', '--epochs', '2', '--dim', '4'];
    const figures = () => demo(...options).stdout.replace(/\d+ s\. The picture.*/, '');
    expect(figures()).toBe(figures());
  });

  it('works on the digits', () => {
    const { status, stdout } = demo('--seeds', '1', '--epochs', '1', '--out', 'digits.html');
    expect(status).toBe(0);
    expect(stdout).toContain('MNIST digits: 10,000 images');
    expectWholePage(readFileSync(join(scratch, 'digits.html'), 'utf8'));
  });

  const faces = join(root, '..', 'shared', 'data', 'orl-faces');
  it('works on photographs of 40 people', (context) => {
    if (!existsSync(faces)) context.skip(`no ${faces}`);
    const { status, stdout } = demo('--data', faces, '--seeds', '1', '--epochs', '3', '--out', 'faces.html');
    expect(status).toBe(0);
    expect(stdout).toContain('400 images, 23 x 28, 40 classes');
    expectWholePage(readFileSync(join(scratch, 'faces.html'), 'utf8'));
  });

  it('explains its options', () => {
    expect(demo('--help')).toMatchObject({ status: 0, stdout: expect.stringContaining('--data DIR') });
  });

  it.each([
    ['an unknown option', ['--sides', '3'], 2, /'--sides'/],
    [
      'a number that is none',
      ['--seeds', 'many'],
      2,
      /--seeds must be an integer in \[1, 100\], received 'many'/,
    ],
    ['a folder that is not there', ['--data', 'nowhere'], 1, /nowhere/],
    ['an unknown loss', ['--losses', 'softmax,arcfice'], 2, /one of softmax, .*received 'arcfice'/],
    ['a loss given twice', ['--losses', 'arcface,arcface'], 2, /--losses must be different ones/],
  ])('ends with a message for %s', (_, options, code, message) => {
    const { status, stderr } = demo(...options);
    expect(status).toBe(code);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/ at .*main\.js/);
  });
});

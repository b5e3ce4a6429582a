/** Reads test/golden: cases with expected values in float64. Format and definition: test/golden/README.md. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Limits } from './metrics.js';
import type { ReferenceMargin, ReferenceOptions, ReferenceProblem } from './reference.js';

interface TensorEntry {
  readonly file: string;
  readonly dtype: 'f32' | 'f64' | 'i32';
  readonly shape: readonly number[];
  readonly offset: number;
  readonly bytes: number;
  readonly sha256: string;
}

interface CaseEntry {
  readonly name: string;
  readonly note: string;
  readonly B: number;
  readonly D: number;
  readonly C: number;
  readonly loss: number;
  readonly options: {
    readonly kind: 'arcface' | 'cosface' | 'x2';
    readonly s: number;
    readonly m?: number;
    readonly a?: number;
    readonly h?: number;
    readonly k?: number;
    readonly guard: 'none' | 'fallback' | 'easy';
    readonly grad: 'exact' | 'straight_through';
  };
  readonly tol: { readonly f32: { loss: number; lse: number; dX: number; dW: number } };
  readonly needs_f64_target?: boolean;
  readonly tensors: Readonly<Record<string, TensorEntry>>;
  readonly shards?: readonly { start: number; end: number; lse: string; dX: string; labels: string }[];
}

export interface GoldenShard {
  readonly start: number;
  readonly end: number;
  readonly labels: Int32Array;
  readonly logSumExp: Float64Array;
}

export interface GoldenCase {
  readonly name: string;
  readonly note: string;
  readonly problem: ReferenceProblem & { readonly features: Float32Array; readonly weights: Float32Array };
  readonly options: ReferenceOptions;
  readonly expected: {
    readonly loss: number;
    readonly logSumExp: Float64Array;
    readonly targetLogit: Float64Array;
    /** NaN where the label is -1. */
    readonly targetCosine: Float64Array;
    readonly dFeatures: Float64Array;
    readonly dWeights: Float64Array;
  };
  readonly float32: Limits;
  /** Some target is so near theta = 0 or pi that float32 cosines have no digits left there. */
  readonly nearPole: boolean;
  readonly shards: readonly GoldenShard[];
}

const folder = new URL('./golden/', import.meta.url);
const files = new Map<string, Buffer>();

function fileNamed(name: string): Buffer {
  const known = files.get(name);
  if (known) return known;
  const read = readFileSync(new URL(name, folder));
  files.set(name, read);
  return read;
}

function tensorBytes(entry: TensorEntry): ArrayBuffer {
  const bytes = fileNamed(entry.file).subarray(entry.offset, entry.offset + entry.bytes);
  const digest = createHash('sha256').update(bytes).digest('hex').slice(0, entry.sha256.length);
  if (digest !== entry.sha256)
    throw new Error(`${entry.file} at ${entry.offset} is not the published tensor`);
  return Uint8Array.from(bytes).buffer;
}

function marginOf({ kind, m, a, h, k }: CaseEntry['options']): ReferenceMargin {
  if (kind === 'x2') return { kind: 'x2softmax', a: a!, h: h!, k: k! };
  return { kind, m: m! };
}

function loadCase(entry: CaseEntry): GoldenCase {
  const { tensors, options } = entry;
  const float32 = (key: string) => new Float32Array(tensorBytes(tensors[key]!));
  const float64 = (key: string) => new Float64Array(tensorBytes(tensors[key]!));
  const int32 = (key: string) => new Int32Array(tensorBytes(tensors[key]!));
  return {
    name: entry.name,
    note: entry.note,
    problem: { features: float32('X'), weights: float32('W'), labels: int32('labels'), dim: entry.D },
    options: {
      margin: marginOf(options),
      scale: options.s,
      gradient: options.grad === 'exact' ? 'exact' : 'straightThrough',
      onOverflow: options.guard,
      reduction: 'mean',
    },
    expected: {
      loss: entry.loss,
      logSumExp: float64('lse'),
      targetLogit: float64('target_logit'),
      targetCosine: float64('target_cos'),
      dFeatures: float64('dX'),
      dWeights: float64('dW'),
    },
    float32: {
      loss: entry.tol.f32.loss,
      logSumExp: entry.tol.f32.lse,
      gradient: Math.min(entry.tol.f32.dX, entry.tol.f32.dW),
      cosine: 6e-8,
    },
    nearPole: entry.needs_f64_target ?? false,
    shards: (entry.shards ?? []).map(({ start, end, labels, lse }) => ({
      start,
      end,
      labels: int32(labels),
      logSumExp: float64(lse),
    })),
  };
}

export const goldenCases: readonly GoldenCase[] = (
  JSON.parse(readFileSync(new URL('manifest.json', folder), 'utf8')) as { cases: CaseEntry[] }
).cases.map(loadCase);

/**
 * The engines this machine has, as rows for describe.each, and a way to run a problem on one. An engine here is the CPU
 * engine with one instruction set, or what test/gpus.ts finds; each runs in child processes, one for every environment.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inspect } from 'node:util';
import type {
  AccumulateOptions,
  DeviceName,
  EngineName,
  HeadBatch,
  MarginHeadOptions,
  Precision,
  StepOptions,
  StepResult,
} from '../src/index.js';
import type { Loss } from '../src/options.js';
import type { Execution } from './cases.js';
import { findingsFolder } from './global_setup.js';
import type { Problem } from './problems.js';
import { type ReferenceMargin, type ReferenceOptions, reference } from './reference.js';

/** The formula as a call is given it, where that is more than the reference's margins. */
export type GivenLoss = Pick<Loss, 'margin' | 'onOverflow' | 'filterThreshold'>;

/** One call of a custom margin: what it was told. */
export interface CustomRow {
  readonly cosine: number;
  readonly row: number;
  readonly label: number;
  readonly featureNorm: number;
}

/** What it answered. */
export interface CustomAnswer {
  readonly target: number;
  readonly dTarget: number;
  readonly dFeatureNorm?: number;
}

export type Request =
  | { readonly kind: 'engines' }
  | {
      readonly kind: 'evaluate';
      readonly problem: Problem;
      /** `margin` is absent where `customRows` holds its answers: functions do not cross processes. */
      readonly options: Omit<ReferenceOptions, 'margin' | 'negative' | 'nearness' | 'binary'> &
        Partial<Omit<GivenLoss, 'margin'>> & { readonly margin?: ReferenceMargin | GivenLoss['margin'] };
      readonly customRows?: readonly (CustomAnswer | undefined)[];
      readonly execution: Execution;
      readonly engine: Engine['choice'];
    }
  | {
      readonly kind: 'train';
      readonly options: MarginHeadOptions;
      readonly batches: readonly HeadBatch[];
      /** `accumulate`: and `apply`. */
      readonly call: 'step' | 'accumulate';
    }
  | { readonly kind: 'head'; readonly options: MarginHeadOptions; readonly calls: readonly HeadStep[] };

/** A step of a head; 'accumulate' is one with `apply` behind it. */
export interface HeadStep {
  readonly call: 'step' | 'accumulate';
  readonly batch: HeadBatch;
  readonly options?: StepOptions & AccumulateOptions;
}

export interface HeadRun {
  readonly results: readonly StepResult[];
  /** [C, D], after the last step. */
  readonly weights: Float32Array;
  /** [C, D] likewise; with a centre loss. */
  readonly centers?: Float32Array;
}

/** One step of a head, and its weights then. */
export interface TrainedStep {
  readonly result: StepResult;
  readonly weights: Float32Array;
}

export interface Evaluated {
  readonly result: {
    readonly loss?: number | undefined;
    readonly rowLoss: Float32Array;
    readonly logSumExp: Float32Array;
    readonly targetCosine: Float32Array;
    readonly workspace: 'keep' | 'recompute';
    readonly engine: EngineName;
    readonly dFeatures?: Float32Array | undefined;
    readonly dWeights?: Float32Array | undefined;
  };
  /** What a custom margin was told, in the order of the calls. */
  readonly asked: readonly CustomRow[];
  /** Features, weights and labels hold what they held. */
  readonly inputsIntact: boolean;
  /** Nothing was written around the outputs. */
  readonly paddingIntact: boolean;
}

/** A process that evaluates one problem at a time. */
class EngineProcess {
  readonly #child: ChildProcess;
  #last: Promise<unknown> = Promise.resolve();

  constructor(environment: Record<string, string>) {
    this.#child = fork(new URL('./engine_child.mjs', import.meta.url), {
      env: { ...process.env, ...environment },
      execArgv: [],
      serialization: 'advanced',
    });
  }

  ask<T>(request: Request): Promise<T> {
    const answer = this.#last.then(() => this.#exchange<T>(request));
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  async #exchange<T>(request: Request): Promise<T> {
    const settled = new AbortController();
    const { signal } = settled;
    try {
      const reply = once(this.#child, 'message', { signal }).then(([message]) => message);
      const exit = once(this.#child, 'exit', { signal }).then(([code, killedBy]) => {
        throw new Error(`the engine's process ended with ${killedBy ?? code}`);
      });
      if (!this.#child.connected) throw new Error("the engine's process has ended");
      this.#child.send(request);
      const message = (await Promise.race([reply, exit])) as { answer: T } | { failure: string };
      if ('failure' in message) throw new Error(message.failure);
      return message.answer;
    } finally {
      settled.abort();
    }
  }

  async close(): Promise<void> {
    await this.#last;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.disconnect();
    await exit;
  }
}

/** Enough for every instruction set and number of threads. */
const mostProcesses = 10;
/** By environment, the one used last at the end. */
const processes = new Map<string, EngineProcess>();
const closing = new Set<Promise<void>>();

function processFor(environment: Record<string, string>): EngineProcess {
  const key = JSON.stringify(environment);
  const child = processes.get(key) ?? new EngineProcess(environment);
  processes.delete(key);
  processes.set(key, child);
  for (const [old, idle] of processes) {
    if (processes.size <= mostProcesses) break;
    processes.delete(old);
    const closed = idle.close().finally(() => closing.delete(closed));
    closing.add(closed);
  }
  return child;
}

/** Ends every process; for afterAll. */
export async function closeEngines(): Promise<void> {
  const running = [...processes.values()];
  processes.clear();
  await Promise.all([...running.map((child) => child.close()), ...closing]);
}

export interface Engine {
  /** For titles, such as `cpu avx2`. */
  readonly name: string;
  /** What the option `engine` is given. */
  readonly choice: 'cpu' | 'cuda';
  /** What makes the process have it. */
  readonly environment: Readonly<Record<string, string>>;
  readonly precisions: readonly Precision[];
  /** Why it cannot be tested here. */
  readonly missing?: string;
}

/** Prints why engines are skipped, and returns the others. */
export function withoutMissing(engines: readonly Engine[]): Engine[] {
  for (const { name, missing } of engines)
    if (missing !== undefined) console.log(`engine ${name} is skipped: ${missing}`);
  return engines.filter(({ missing }) => missing === undefined);
}

export interface EngineRow {
  readonly name: string;
  readonly available: boolean;
  readonly detail?: string;
  readonly reason?: string;
}

/** What listEngines() says in a process with this environment; asked once in a run of all files. */
export async function listEnginesIn(environment: Readonly<Record<string, string>>): Promise<EngineRow[]> {
  const ask = () => processFor({ ...environment }).ask<EngineRow[]>({ kind: 'engines' });
  const folder = process.env[findingsFolder];
  if (folder === undefined) return ask();
  const relevant = Object.entries({ ...process.env, ...environment }).filter(([name]) =>
    /^(MARGINFC|GPUSIM|CUDA)_/.test(name),
  );
  const key = createHash('sha256').update(JSON.stringify(relevant.sort())).digest('hex');
  const file = join(folder, `${key}.json`);
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8'));
  const rows = await ask();
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, JSON.stringify(rows));
  renameSync(mine, file);
  return rows;
}

export const instructionSets: readonly string[] =
  process.arch === 'arm64' ? ['neon'] : ['baseline', 'avx2', 'avx512'];
/** avx512bf16 and amx differ from avx512 with bfloat16 operands only. */
export const halfInstructionSets = [
  ...instructionSets,
  ...(process.arch === 'arm64' ? [] : ['avx512bf16', 'amx']),
];

/** Every instruction set of the CPU engine, with the reason where this machine cannot run it. */
export async function findEngines(sets: readonly string[] = instructionSets): Promise<Engine[]> {
  if (process.env.MARGINFC_TEST_ENGINES === 'gpu') return [];
  const engines = await Promise.all(sets.map(findEngine));
  withoutMissing(engines);
  return engines;
}

async function findEngine(isa: string): Promise<Engine> {
  const environment = { MARGINFC_ISA: isa };
  const precisions = ['float32', 'bfloat16', 'float16'] as const;
  const engine: Engine = { name: `cpu ${isa}`, choice: 'cpu', environment, precisions };
  const list = await listEnginesIn({ ...environment, MARGINFC_THREADS: '1' });
  const cpu = list.find(({ name }) => name === 'cpu');
  if (!cpu?.available) return { ...engine, missing: cpu?.reason ?? 'listEngines() names no cpu engine' };
  if (!cpu.detail?.startsWith(`${isa},`))
    throw new Error(`MARGINFC_ISA=${isa} was asked for, the cpu engine says: ${inspect(cpu)}`);
  return engine;
}

/** Runs a problem on an engine; with `loss` instead of the formula in `options`. */
export function evaluate(
  engine: Engine,
  problem: Problem,
  options: ReferenceOptions,
  execution: Execution,
  loss?: GivenLoss,
): Promise<Evaluated> {
  const { margin, negative: _, nearness: __, binary: ___, ...rest } = options;
  const answers = loss ? undefined : customRows(problem, options);
  const threads = { MARGINFC_THREADS: String(execution.threads) };
  return processFor(
    engine.choice === 'cpu' ? { ...engine.environment, ...threads } : { ...engine.environment },
  ).ask<Evaluated>({
    kind: 'evaluate',
    engine: engine.choice,
    problem,
    options: loss ? { ...rest, ...loss } : { ...rest, ...(answers ? {} : { margin }) },
    ...(answers && { customRows: answers }),
    execution,
  });
}

function customRows(problem: Problem, options: ReferenceOptions) {
  return options.margin.kind === 'custom' ? customAnswers(problem, options).answers : undefined;
}

/** Where a head with so many shards lives on an engine. */
function devicesOf({ choice, environment }: Engine, shards = 1): DeviceName[] {
  if (choice === 'cpu') return ['cpu'];
  const gpus = Math.min(shards, Number(environment.GPUSIM_DEVICES ?? 1));
  return Array.from({ length: gpus }, (_, n) => `cuda:${n}` as const);
}

/** Trains a head on an engine, step by step. */
export function train(
  engine: Engine,
  threads: number,
  request: Omit<Extract<Request, { kind: 'train' }>, 'kind'>,
): Promise<TrainedStep[]> {
  const { environment } = engine;
  return processFor(
    engine.choice === 'cpu' ? { ...environment, MARGINFC_THREADS: String(threads) } : { ...environment },
  ).ask<TrainedStep[]>({
    kind: 'train',
    ...request,
    options: { ...request.options, devices: devicesOf(engine, request.options.shards) },
  });
}

/** Makes steps with a new head on an engine. */
export function runHead(
  engine: Engine,
  options: MarginHeadOptions,
  calls: readonly HeadStep[],
): Promise<HeadRun> {
  const devices = devicesOf(engine, options.shards);
  return processFor({ ...engine.environment }).ask<HeadRun>({
    kind: 'head',
    options: { precision: 'float32', ...options, devices },
    calls,
  });
}

/** What a custom margin is told and answers when the reference asks it. */
export function customAnswers(
  problem: Problem,
  options: ReferenceOptions,
): { asked: CustomRow[]; answers: (CustomAnswer | undefined)[] } {
  const asked: CustomRow[] = [];
  const answers: (CustomAnswer | undefined)[] = [];
  const { margin } = options;
  if (margin.kind !== 'custom') return { asked, answers };
  reference(problem, {
    ...options,
    margin: {
      kind: 'custom',
      callback: (row) => {
        asked.push(row);
        const answer = margin.callback(row);
        answers[row.row] = answer;
        return answer;
      },
    },
  });
  return { asked, answers };
}

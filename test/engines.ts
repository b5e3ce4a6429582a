/**
 * The engines this machine has, as rows for describe.each. An engine here is the CPU engine with one
 * instruction set; each runs in child processes, one for every number of threads.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { inspect } from 'node:util';
import type { Execution } from './cases.js';
import type { Problem } from './problems.js';
import { type ReferenceMargin, type ReferenceOptions, reference } from './reference.js';

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
      readonly options: Omit<ReferenceOptions, 'margin'> & { readonly margin?: ReferenceMargin };
      readonly customRows?: readonly (CustomAnswer | undefined)[];
      readonly execution: Execution;
    };

export interface Evaluated {
  readonly result: {
    readonly loss?: number | undefined;
    readonly rowLoss: Float32Array;
    readonly logSumExp: Float32Array;
    readonly targetCosine: Float32Array;
    readonly workspace: 'keep' | 'recompute';
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
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.disconnect();
    await exit;
  }
}

const processes = new Map<string, EngineProcess>();

function processFor(isa: string, threads: number): EngineProcess {
  const key = `${isa} ${threads}`;
  const running = processes.get(key);
  if (running) return running;
  const started = new EngineProcess({ MARGINFC_ISA: isa, MARGINFC_THREADS: String(threads) });
  processes.set(key, started);
  return started;
}

/** Ends every process; for afterAll. */
export async function closeEngines(): Promise<void> {
  const running = [...processes.values()];
  processes.clear();
  await Promise.all(running.map((child) => child.close()));
}

export interface Engine {
  /** The instruction set, as MARGINFC_ISA takes it. */
  readonly isa: string;
  /** Why it cannot be tested here. */
  readonly missing?: string;
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
  const engines = await Promise.all(sets.map(findEngine));
  for (const { isa, missing } of engines)
    if (missing) console.log(`engine cpu ${isa} is skipped: ${missing}`);
  return engines;
}

async function findEngine(isa: string): Promise<Engine> {
  type Status = { name: string; available: boolean; detail?: string; reason?: string };
  const list = await processFor(isa, 1).ask<Status[]>({ kind: 'engines' });
  const cpu = list.find(({ name }) => name === 'cpu');
  if (!cpu?.available) return { isa, missing: cpu?.reason ?? 'listEngines() names no cpu engine' };
  if (!cpu.detail?.startsWith(`${isa},`))
    throw new Error(`MARGINFC_ISA=${isa} was asked for, the cpu engine says: ${inspect(cpu)}`);
  return { isa };
}

/** Runs a problem on an engine. */
export function evaluate(
  engine: Engine,
  problem: Problem,
  options: ReferenceOptions,
  execution: Execution,
): Promise<Evaluated> {
  const { margin, ...rest } = options;
  return processFor(engine.isa, execution.threads).ask<Evaluated>({
    kind: 'evaluate',
    problem,
    options: margin.kind === 'custom' ? rest : options,
    ...(margin.kind === 'custom' && { customRows: customAnswers(problem, options).answers }),
    execution,
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

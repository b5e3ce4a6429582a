/**
 * The run: size by size, every contestant in a process of its own, checked against the float64 reference before it is timed,
 * and then all of them in turns, so that what happens on the machine meets all alike.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { releaseMemory } from 'marginfc';
import type { Contestant } from './contestants/contestant.js';
import { engineLogSumExp, makeProblem } from './cpu/contestants.js';
import { readLoad } from './cpu/load.js';
import { type Reference, reference } from './cpu/reference.js';
import { type Disturbance, judge, type Repetition } from './cpu/samples.js';
import { formulaNamed, storedSize, usual } from './formula.js';
import { availableMemory, compareOutput, inputBytes, writeProblem } from './inputs.js';
import { type Plan, secondsOfCell, work } from './plan.js';
import { type Errors, type ResultRow, settingKey } from './results.js';
import { type Failure, Session } from './session.js';
import { type Size, sizeName } from './size.js';
import { median, medianInterval, quantile } from './statistics.js';

/** Repetitions without disturbance that a row needs to be believed; all of them, where there was no time for more. */
const enough = 3;
/** Where the machine is never quiet, a row takes no more than so many times the samples that are wanted. */
const mostTries = 4;
/** Of shorter calls much is not by the work, and would be multiplied. */
const leastExtrapolatedMs = 20;
const noneDropped: Readonly<Record<Disturbance, number>> = { others: 0, stolen: 0, waited: 0, peak: 0 };

interface Found {
  readonly rows: readonly ResultRow[];
  readonly versions: Readonly<Record<string, string>>;
}

export async function run(plan: Plan): Promise<Found> {
  const rows: ResultRow[] = [];
  const versions: Record<string, string> = {};
  for (const [index, size] of plan.sizes.entries()) {
    const cell = new Cell(
      plan,
      size,
      secondsOfCell(plan, index),
      rows,
      versions,
      index * plan.contestants.length,
    );
    const found = await cell.measure();
    rows.push(...found);
    plan.onRows?.(size, found);
  }
  return { rows, versions };
}

interface Entry {
  readonly contestant: Contestant;
  readonly session: Session;
  readonly errors: Errors;
  readonly peakBytes: number | null;
  /** Of the fastest call so far. */
  fastest: number;
  spent: number;
  readonly taken: Repetition[];
  failure?: Failure;
}

/** By the derivative of the margin. */
type Verification = ReadonlyMap<Contestant['gradient'], Reference>;

/** One size. */
class Cell {
  readonly #rows = new Map<Contestant, ResultRow>();
  readonly #folder = mkdtempSync(join(tmpdir(), 'marginfc-bench-'));
  #done: number;
  /** For each contestant. */
  #seconds = 0;

  constructor(
    readonly plan: Plan,
    readonly size: Size,
    /** For all contestants together. */
    readonly allSeconds: number,
    /** Of sizes before. */
    readonly earlier: readonly ResultRow[],
    readonly versions: Record<string, string>,
    done: number,
  ) {
    this.#done = done;
  }

  async measure(): Promise<ResultRow[]> {
    try {
      const waiting = this.#affordable(this.plan.contestants.filter((contestant) => this.#admit(contestant)));
      if (waiting.length > 0 && this.#secondsLeft() > 0) {
        this.#progress('inputs and reference');
        const verification = this.#makeInputs(waiting);
        for (const group of this.#groups(waiting)) await this.#measureGroup(group, verification);
      }
      for (const contestant of waiting)
        if (!this.#rows.has(contestant))
          this.#skip(contestant, 'not reached', 'the time of the whole run was over');
      return this.plan.contestants.map((contestant) => this.#rows.get(contestant) as ResultRow);
    } finally {
      rmSync(this.#folder, { recursive: true, force: true });
    }
  }

  /** Whether there is any use in starting a contestant; else its row says why not. */
  #admit(contestant: Contestant): boolean {
    const before = this.earlier.filter((row) => settingKey(row) === settingKey(contestant));
    const missing = contestant.missing ?? before.find(({ status }) => status === 'not installed')?.reason;
    if (missing !== undefined) return this.#skip(contestant, 'not installed', missing);
    // Waiting for it again would only take time from others.
    const slow = before.find(
      ({ status, size }) => status === 'would take longer' && work(size) <= work(this.size),
    );
    if (slow && slow.extrapolatedMs === null && !this.#extrapolate(contestant))
      return this.#skip(contestant, 'would take longer', `as it would at ${sizeName(slow.size)}`);
    const needed = contestant.bytes(this.#arrays) + inputBytes(this.#arrays);
    const available = availableMemory();
    if (needed > available)
      return this.#skip(contestant, 'does not fit', `needs about ${gib(needed)}, ${gib(available)} are free`);
    return true;
  }

  /** Shares the time out among those who can use it; one whose calls would take longer than its share leaves it to others. */
  #affordable(contestants: readonly Contestant[]): Contestant[] {
    const open = contestants
      .map((contestant) => ({ contestant, guess: this.#extrapolate(contestant) }))
      .sort((a, b) => (a.guess?.ms ?? 0) - (b.guess?.ms ?? 0));
    for (let last = open.at(-1); last; last = open.at(-1)) {
      this.#seconds = this.plan.seconds ?? this.allSeconds / open.length;
      // One call for the check and one for a sample.
      if (!last.guess || (2 * last.guess.ms) / 1e3 <= this.#seconds) break;
      const reason = `than the ${Math.round(this.#seconds)} s it has here`;
      this.#skip(last.contestant, 'would take longer', reason, last.guess);
      open.pop();
    }
    return contestants.filter((contestant) => open.some((entry) => entry.contestant === contestant));
  }

  /** By the work of the nearest size that was measured, B x D x C. */
  #extrapolate(contestant: Contestant): { ms: number; from: Size } | undefined {
    const nearest = this.earlier
      .filter((row) => settingKey(row) === settingKey(contestant))
      .filter(({ medianMs }) => medianMs !== null && medianMs >= leastExtrapolatedMs)
      .sort((a, b) => work(b.size) - work(a.size))[0];
    if (nearest?.medianMs == null) return undefined;
    return { ms: (nearest.medianMs * work(this.size)) / work(nearest.size), from: nearest.size };
  }

  #skip(
    contestant: Contestant,
    status: ResultRow['status'],
    reason: string,
    guess?: { ms: number; from: Size },
    wrong?: Errors,
  ): false {
    this.#finish(contestant, {
      status,
      reason,
      checked: false,
      error: wrong?.gradient ?? null,
      errors: wrong ?? null,
      samplesMs: [],
      medianMs: null,
      intervalMs: null,
      quartilesMs: null,
      dropped: noneDropped,
      disturbed: false,
      peakBytes: null,
      extraBytes: null,
      extrapolatedMs: guess?.ms ?? null,
      ...(guess && { extrapolatedFrom: guess.from }),
    });
    return false;
  }

  #finish(
    contestant: Contestant,
    result: Omit<ResultRow, keyof ReturnType<typeof settingOf> | 'size'>,
  ): void {
    this.#rows.set(contestant, { ...settingOf(contestant), size: this.size, ...result });
    this.#done++;
  }

  #progress(now: string): void {
    const all = this.plan.sizes.length * this.plan.contestants.length;
    const { B, D, C } = this.size;
    this.plan.onProgress?.(this.#done, all, `${B},${D},${C}: ${now}`);
  }

  #secondsLeft(): number {
    return (this.plan.deadline - performance.now()) / 1e3;
  }

  get #arrays(): Size {
    return storedSize(this.size, this.plan.loss);
  }

  get #input(): string {
    return join(this.#folder, 'input');
  }

  #makeInputs(contestants: readonly Contestant[]): Verification {
    const formula = formulaNamed(this.plan.loss, this.size.C);
    const problem = makeProblem(this.size, formula.subCenters);
    writeProblem(this.#input, problem);
    const logSumExp = engineLogSumExp(problem, formula);
    releaseMemory();
    const derivatives = [...new Set(contestants.map(({ gradient }) => gradient))];
    return new Map(
      derivatives.map((gradient) => [gradient, reference(problem, { ...formula, gradient }, logSumExp)]),
    );
  }

  /** So that all of a group fit in memory together. */
  #groups(contestants: readonly Contestant[]): Contestant[][] {
    const groups: Contestant[][] = [];
    const available = availableMemory();
    let free = 0;
    for (const contestant of contestants) {
      const needed = contestant.bytes(this.#arrays) + inputBytes(this.#arrays);
      if (needed > free || groups.length === 0) {
        groups.push([]);
        free = available;
      }
      groups.at(-1)?.push(contestant);
      free -= needed;
    }
    return groups;
  }

  async #measureGroup(contestants: readonly Contestant[], verification: Verification): Promise<void> {
    const entries: Entry[] = [];
    try {
      for (const contestant of contestants) {
        if (this.#secondsLeft() <= 0) break;
        const entry = await this.#start(contestant, verification.get(contestant.gradient) as Reference);
        if (entry) entries.push(entry);
      }
      await this.#takeTurns(entries);
      for (const entry of entries) this.#finishEntry(entry);
    } finally {
      for (const { session } of entries) await session.end();
    }
  }

  /** Starts a contestant and checks its results; undefined if it is out. */
  async #start(contestant: Contestant, expected: Reference): Promise<Entry | undefined> {
    const session = new Session(contestant.command);
    const within = (seconds: number) => Math.max(1, Math.min(seconds, this.#secondsLeft()));
    const out = async (failure: Failure) => {
      await session.end();
      this.#skip(contestant, ...this.#verdict(failure));
      return undefined;
    };
    const start = performance.now();
    const spent = () => (performance.now() - start) / 1e3;
    this.#progress(`${contestant.contestant} starts`);
    const startSeconds = this.#seconds + (contestant.startSeconds ?? 10);
    const prepared = await session.prepare(
      {
        ...{ do: 'prepare', input: this.#input, size: this.size, ...usual },
        ...{ loss: this.plan.loss, job: contestant.job },
      },
      within(startSeconds),
    );
    if ('failure' in prepared) return out(prepared.failure);
    const { version } = prepared.value;
    if (version !== undefined) this.versions[contestant.contestant] = version;

    this.#progress(`${contestant.contestant} is checked`);
    const output = join(this.#folder, 'output');
    const rows = expected.rows.map(({ row }) => row);
    const classes = expected.classRows.map(({ classRow }) => classRow);
    const begun = spent();
    const checked = await session.check({ do: 'check', rows, classes, output }, within(this.#seconds));
    if ('failure' in checked) return out(checked.failure);
    const found = compareOutput(output, rows, classes, expected);
    const { limits } = contestant;
    const verdict: Errors = { ...found, lossLimit: limits.loss, gradientLimit: limits.gradient };
    // NaN is not within a limit.
    if (!(found.loss <= limits.loss && found.gradient <= limits.gradient)) {
      await session.end();
      const reason = `loss is off by ${found.loss.toExponential(1)}, gradients by ${found.gradient.toExponential(1)}`;
      this.#skip(contestant, 'wrong', reason, undefined, verdict);
      return undefined;
    }
    const { seconds, peakBytes } = checked.value;
    return {
      contestant,
      session,
      errors: verdict,
      peakBytes,
      fastest: seconds,
      spent: spent() - begun,
      taken: [],
    };
  }

  #verdict({ kind, reason }: Failure): [ResultRow['status'], string] {
    switch (kind) {
      case 'missing':
        return ['not installed', reason];
      case 'memory':
        return ['does not fit', reason];
      case 'slow':
        return this.#secondsLeft() <= 0
          ? ['not reached', 'the time of the whole run was over']
          : ['would take longer', reason];
      case 'failed':
        return ['failed', reason];
    }
  }

  async #takeTurns(entries: readonly Entry[]): Promise<void> {
    const wants = ({ contestant, failure, fastest, spent, taken }: Entry) => {
      if (failure || this.#secondsLeft() <= 0) return false;
      if (taken.length === 0) return true;
      if (judge(taken, contestant.threads).kept.length >= this.plan.samples) return false;
      if (taken.length >= mostTries * this.plan.samples) return false;
      return spent + fastest <= this.#seconds;
    };
    for (let open = entries.filter(wants); open.length > 0; open = open.filter(wants))
      for (const entry of open) if (wants(entry)) await this.#takeSample(entry);
  }

  async #takeSample(entry: Entry): Promise<void> {
    const { contestant, session, taken } = entry;
    this.#progress(`${contestant.contestant}, sample ${taken.length + 1}`);
    const begin = readLoad();
    const patience = 10 + 8 * (entry.fastest + this.plan.sampleSeconds);
    const request = { do: 'sample', seconds: this.plan.sampleSeconds, warmUp: true } as const;
    const answer = await session.sample(request, Math.max(1, Math.min(patience, this.#secondsLeft())));
    const end = readLoad();
    entry.spent += end.clock - begin.clock;
    if ('failure' in answer) {
      entry.failure = answer.failure;
      return;
    }
    const { seconds, elapsed, own, ownInAll, calls } = answer.value;
    entry.fastest = Math.min(entry.fastest, elapsed / calls);
    // The benchmark itself waits meanwhile: what is busy beyond the contestant is others.
    const others = Math.max(0, end.busy - begin.busy - ownInAll - (end.own - begin.own));
    const load = { elapsed, own, others, stolen: end.stolen - begin.stolen };
    taken.push({ seconds, processorSeconds: own / calls, load, peaks: [1, 1] });
  }

  #finishEntry({ contestant, errors: found, peakBytes, taken, failure }: Entry): void {
    const { kept, dropped } = judge(taken, contestant.threads);
    const disturbed = kept.length < Math.min(enough, taken.length);
    const samplesMs = (disturbed ? taken : kept).map(({ seconds }) => seconds * 1e3);
    if (samplesMs.length === 0) {
      const [status, reason] = this.#verdict(
        failure ?? { kind: 'slow', reason: 'the time was over before the first sample' },
      );
      this.#skip(contestant, status, reason);
      return;
    }
    const sorted = [...samplesMs].sort((a, b) => a - b);
    const extraBytes = peakBytes === null ? null : Math.max(0, peakBytes - inputBytes(this.#arrays));
    this.#finish(contestant, {
      status: 'measured',
      checked: true,
      error: found.gradient,
      errors: found,
      samplesMs,
      medianMs: median(samplesMs),
      intervalMs: medianInterval(samplesMs),
      quartilesMs: [quantile(sorted, 0.25), quantile(sorted, 0.75)],
      dropped,
      disturbed,
      peakBytes,
      extraBytes,
      extrapolatedMs: null,
    });
  }
}

function settingOf({
  contestant,
  operation,
  precision,
  workspace,
  outputs,
  threads,
  allocator,
  gradient,
}: Contestant) {
  return { contestant, operation, precision, workspace, outputs, threads, allocator, gradient };
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

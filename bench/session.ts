/** A contestant's process from the outside: see protocol.ts. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Checked, Prepared, Refusal, Request, Sampled } from './protocol.js';

export interface Command {
  readonly file: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Why a request got no answer. `slow`: none came in time, and the process was stopped. */
export interface Failure {
  readonly kind: 'missing' | 'failed' | 'memory' | 'slow';
  readonly reason: string;
}

export type Answer<Value> = { readonly value: Value } | { readonly failure: Failure };

/** What the last lines of standard error are kept for. */
const keptCharacters = 2000;

export class Session {
  readonly #child: ChildProcess;
  readonly #ended: Promise<string>;
  #absent = false;
  #complaints = '';
  #waiting: ((line: string) => void) | undefined;

  constructor({ file, args, env }: Command) {
    this.#child = spawn(file, args, {
      env: { ...process.env, ...env },
      stdio: ['pipe', 'ignore', 'pipe', 'pipe'],
    });
    this.#child.stderr?.on('data', (chunk) => {
      this.#complaints = (this.#complaints + String(chunk)).slice(-keptCharacters);
    });
    // A process that has ended already is told nothing.
    this.#child.stdin?.on('error', () => {});
    createInterface({ input: this.#child.stdio[3] as Readable }).on('line', (line) => this.#waiting?.(line));
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error: NodeJS.ErrnoException) => {
        this.#absent = error.code === 'ENOENT';
        resolve(this.#absent ? `there is no ${file}` : error.message);
      });
      this.#child.once('close', (code, signal) => {
        const last = this.#complaints.trim().split('\n').at(-1) ?? '';
        resolve(`its process ended with ${signal ?? code}${last === '' ? '' : `: ${last}`}`);
      });
    });
  }

  prepare(request: Extract<Request, { do: 'prepare' }>, seconds: number): Promise<Answer<Prepared>> {
    return this.#ask(request, seconds);
  }

  check(request: Extract<Request, { do: 'check' }>, seconds: number): Promise<Answer<Checked>> {
    return this.#ask(request, seconds);
  }

  sample(request: Extract<Request, { do: 'sample' }>, seconds: number): Promise<Answer<Sampled>> {
    return this.#ask(request, seconds);
  }

  async end(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  async #ask<Value>(request: Request, seconds: number): Promise<Answer<Value>> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<Failure>((resolve) => {
      const reason = `no answer within ${Math.round(seconds)} s`;
      timer = setTimeout(() => resolve({ kind: 'slow', reason }), seconds * 1e3);
    });
    const gone = this.#ended.then((reason): Failure => {
      if (this.#absent) return { kind: 'missing', reason };
      // How the kernel ends a process when memory runs out.
      const kind = this.#child.signalCode === 'SIGKILL' || /memory/i.test(reason) ? 'memory' : 'failed';
      return { kind, reason };
    });
    const line = new Promise<string>((resolve) => {
      this.#waiting = resolve;
    });
    this.#child.stdin?.write(`${JSON.stringify(request)}\n`);
    const first = await Promise.race([line, late, gone]);
    clearTimeout(timer);
    this.#waiting = undefined;
    if (typeof first !== 'string') {
      if (first.kind === 'slow') await this.end();
      return { failure: first };
    }
    const reply = JSON.parse(first) as Value & Refusal;
    if (reply.missing !== undefined) return { failure: { kind: 'missing', reason: reply.missing } };
    if (reply.failed !== undefined)
      return { failure: { kind: reply.memory ? 'memory' : 'failed', reason: reply.failed } };
    return { value: reply };
  }
}

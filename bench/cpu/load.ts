/** Where the processors' time goes. */

import { readFileSync } from 'node:fs';
import type { Load } from './samples.js';

/** Counters, in seconds since some past. */
export interface Reading {
  readonly clock: number;
  readonly own: number;
  readonly busy: number;
  readonly stolen: number;
}

/** Of /proc/stat: USER_HZ, the same on every architecture that this package runs on. */
const ticksPerSecond = 100;

/** The processors this process may use, from a list such as `0-3,8`. */
export function parseProcessorList(text: string): Set<number> {
  const processors = new Set<number>();
  for (const range of text.trim().split(',')) {
    const [first = NaN, last = first] = range.split('-').map(Number);
    for (let processor = first; processor <= last; processor++) processors.add(processor);
  }
  return processors;
}

/** Busy and stolen seconds of some processors, from the text of /proc/stat. */
export function parseStat(text: string, processors: ReadonlySet<number>): { busy: number; stolen: number } {
  let busy = 0;
  let stolen = 0;
  for (const [, processor, fields = ''] of text.matchAll(/^cpu(\d+) (.*)$/gm)) {
    if (!processors.has(Number(processor))) continue;
    const [user = 0, nice = 0, system = 0, , , interrupts = 0, softInterrupts = 0, steal = 0] = fields
      .split(' ')
      .map(Number);
    busy += user + nice + system + interrupts + softInterrupts;
    stolen += steal;
  }
  return { busy: busy / ticksPerSecond, stolen: stolen / ticksPerSecond };
}

const allowed = parseProcessorList(
  /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '',
);

/** Of this process, all its threads together, in seconds. */
export function processorTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

export function readLoad(): Reading {
  return {
    clock: performance.now() / 1e3,
    own: processorTime(),
    ...parseStat(readFileSync('/proc/stat', 'utf8'), allowed),
  };
}

export function loadBetween(start: Reading, end: Reading): Load {
  const own = end.own - start.own;
  return {
    elapsed: end.clock - start.clock,
    own,
    others: Math.max(0, end.busy - start.busy - own),
    stolen: end.stolen - start.stolen,
  };
}

/** A bar on a terminal; nothing elsewhere. */

import { Presets, SingleBar } from 'cli-progress';

export interface Progress {
  readonly update: (done: number, all: number, now: string) => void;
  /** Lets something else be printed. */
  readonly pause: (print: () => void) => void;
  readonly stop: () => void;
}

export function progressBar(): Progress {
  if (!process.stderr.isTTY) return { update: () => {}, pause: (print) => print(), stop: () => {} };
  const format = ' {bar} {value}/{total}  {duration_formatted}  {now}';
  const bar = new SingleBar({ format, hideCursor: true, clearOnComplete: true }, Presets.shades_classic);
  let last: [done: number, all: number, now: string] = [0, 1, ''];
  let shown = false;
  const update = (done: number, all: number, now: string) => {
    last = [done, all, now];
    if (!shown) bar.start(all, done, { now });
    else bar.update(done, { now });
    shown = true;
  };
  const stop = () => {
    if (shown) bar.stop();
    shown = false;
  };
  return {
    update,
    pause: (print) => {
      stop();
      print();
      update(...last);
    },
    stop,
  };
}

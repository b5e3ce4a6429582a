/** What may be typed after `npm run bench --` or `npx marginfc bench`. */

import { parseArgs } from 'node:util';
import { compare, type Differences } from './compare.js';
import { timedLoss, usualLoss } from './formula.js';
import { readResults } from './results.js';
import { parseSize, type Size } from './size.js';

export const usage = `Usage: marginfc bench [options]              in a checkout: npm run bench -- [options]
       marginfc bench compare A.json B.json
       marginfc bench report A.json [--html FILE]
       marginfc plot STATE.json [--html FILE]

Options:
  --quick          smaller sizes, in less than 10 minutes
  --sizes LIST     B,D,C;B,D,C;... from small to large (default 128,512,1000;64,128,10000;128,512,10000;
                   128,512,100000;512,512,100000;1024,512,100000;128,512,1000000)
  --loss NAME      what is timed instead of arcface, such as magface; a name that is none lists all. Others than arcface
                   are this package's alone, and the phases are not timed
  --seconds N      for each contestant at each size (default 60; with --quick the time that is left is shared out)
  --samples N      undisturbed samples wanted of each row (default 9)
  --only TEXT      only contestants whose name contains TEXT, such as 'marginfc'; may be repeated
  --no-phases      not the phases of the cpu engine
  --json FILE      where the results go (default marginfc-bench.json)
  --html FILE      where the report goes (default marginfc-bench.html)
  --help

Contestants that are not installed are shown as such. MARGINFC_BENCH_PYTHON names a Python with torch,
pytorch-metric-learning or numpy; @tensorflow/tfjs-core with a backend is found where this command is run.

plot draws the course of a loss search from its state (default marginfc-search.html).

compare says of each row whether the second file is FASTER, SLOWER or the SAME, or UNSURE.
`;

const quickSizes = '128,512,1000;64,128,10000;128,512,10000;128,512,100000';
const fullSizes = `${quickSizes};512,512,100000;1024,512,100000;128,512,1000000`;

export interface RunOptions {
  readonly kind: 'run';
  readonly quick: boolean;
  readonly sizes: readonly Size[];
  /** By its name of lossNamed(). */
  readonly loss: string;
  /** For each contestant at each size; undefined: shared out. */
  readonly seconds: number | undefined;
  /** For all. */
  readonly totalSeconds: number;
  readonly samples: number;
  readonly sampleSeconds: number;
  readonly only: readonly string[];
  readonly phaseSizes: readonly Size[];
  readonly phaseSeconds: number;
  readonly json: string;
  readonly html: string;
  /** The command as it was typed, but for the files that it writes. */
  readonly typed: string;
}

export interface CompareOptions {
  readonly kind: 'compare';
  readonly before: string;
  readonly after: string;
}

export type Command =
  | RunOptions
  | CompareOptions
  | { readonly kind: 'report' | 'plot'; readonly file: string; readonly html: string }
  | { readonly kind: 'help' };

const defaultPages = { report: 'marginfc-bench.html', plot: 'marginfc-search.html' } as const;

/** Less than ten minutes, also when the last answer before the end is waited for. */
const quickSeconds = 540;

/** Throws with what is wrong. */
export function readCommand(args: string[]): Command {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    allowNegative: true,
    options: {
      quick: { type: 'boolean', default: false },
      sizes: { type: 'string' },
      loss: { type: 'string', default: usualLoss },
      seconds: { type: 'string' },
      samples: { type: 'string' },
      only: { type: 'string', multiple: true, default: [] },
      phases: { type: 'boolean', default: true },
      json: { type: 'string', default: 'marginfc-bench.json' },
      html: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return { kind: 'help' };
  const [name, ...files] = positionals;
  if (name === 'compare') {
    const [before, after, ...rest] = files;
    if (before === undefined || after === undefined || rest.length > 0)
      throw new Error(`compare takes two files, received ${files.length}`);
    return { kind: 'compare', before, after };
  }
  if (name === 'report' || name === 'plot') {
    const [file, ...rest] = files;
    if (file === undefined || rest.length > 0)
      throw new Error(`${name} takes one file, received ${files.length}`);
    return { kind: name, file, html: values.html ?? defaultPages[name] };
  }
  if (name !== undefined) throw new Error(`no command '${name}'`);
  const { quick, only, json, html = defaultPages.report } = values;
  const sizes = (values.sizes ?? (quick ? quickSizes : fullSizes)).split(';').map(parseSize);
  const seconds = values.seconds === undefined ? undefined : positive('--seconds', values.seconds);
  const loss = timedLoss(values.loss);
  const phaseSizes = values.phases && loss === usualLoss ? sizes.filter(({ C }) => C <= 1e5).slice(-2) : [];
  return {
    kind: 'run',
    quick,
    sizes,
    loss,
    seconds: seconds ?? (quick ? undefined : 60),
    totalSeconds: quick ? quickSeconds : Number.POSITIVE_INFINITY,
    samples:
      values.samples === undefined ? (quick ? 7 : 9) : Math.round(positive('--samples', values.samples)),
    sampleSeconds: quick ? 0.05 : 0.1,
    only,
    phaseSizes,
    phaseSeconds: quick ? 4 : 20,
    json,
    html,
    typed: ['npx marginfc bench', ...withoutOutputs(args).map(quoted)].join(' '),
  };
}

/** What has a bearing on the results: not where they go. */
function withoutOutputs(args: readonly string[]): readonly string[] {
  const outputs = ['--json', '--html'];
  return args.filter(
    (arg, i) =>
      !outputs.includes(arg) &&
      !outputs.includes(args[i - 1] ?? '') &&
      !outputs.some((output) => arg.startsWith(`${output}=`)),
  );
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value))
    throw new Error(`${name} must be a positive number, received ${text}`);
  return value;
}

/** As a shell takes it. */
function quoted(text: string): string {
  return /^[\w.,=/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Exit status 1 if anything became slower. */
export function compareFiles(
  { before, after }: CompareOptions,
  print: (differences: Differences) => void,
): number {
  const differences = compare(readResults(before), readResults(after));
  print(differences);
  return differences.compared.some(({ verdict }) => verdict === 'SLOWER') ? 1 : 0;
}

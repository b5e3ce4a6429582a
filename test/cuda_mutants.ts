/**
 * Mutants of compiled CUDA kernels: one barrier, wait, commit or fence is deleted, or waits for less. On the software device
 * the check of the kernel must then fail.
 */
import { type Kernel, type Module, shape } from './cuda_kernels.js';

export interface Mutant {
  readonly kernel: string;
  /** The instruction, and which of its like in the kernel, from 1: `bar.sync 0; #3`. */
  readonly site: string;
  readonly change: 'delete' | 'wait for less';
  /** Counted from 1. */
  readonly line: number;
  readonly replacement: string;
}

const synchronises = new RegExp(
  `^(${[
    /bar(rier)?(\.cta|\.cluster|\.warp)?\.(sync|arrive|wait|red)/,
    /cp\.async(\.bulk)?\.(commit_group|wait_group|wait_all)/,
    /cp\.async\.mbarrier\.arrive/,
    /wgmma\.(fence|commit_group|wait_group)/,
    /mbarrier\.(arrive|expect_tx|try_wait|test_wait)/,
    /(fence|membar)\./,
    /griddepcontrol\.wait/,
  ]
    .map(({ source }) => source)
    .join('|')})`,
);
const waitsForAllBut = /^((?:cp\.async(?:\.bulk)?|wgmma)\.wait_group\S*\s+)(\d+)/;
const triesToWait = /^mbarrier\.(?:try|test)_wait\S*\s+(%\w+)/;

/** All mutants of a kernel, in the order of its text. */
export function mutantsOf(module: Module, { name, first, last }: Kernel): Mutant[] {
  const mutants: Mutant[] = [];
  const seen = new Map<string, number>();
  for (let line = first; line <= last; line++) {
    const text = module.lines[line - 1] ?? '';
    const [, guard = '', statement = ''] = /^[\s{]*(@!?%\w+\s+)?(.*)$/.exec(text) ?? [];
    if (!synchronises.test(statement)) continue;
    const like = shape(statement);
    const number = (seen.get(like) ?? 0) + 1;
    seen.set(like, number);
    const add = (change: Mutant['change'], replaced: string) =>
      mutants.push({
        ...{ kernel: name, site: `${like} #${number}`, change, line },
        replacement: text.replace(`${guard}${statement}`, replaced),
      });
    // A loop around a wait must still come to its end.
    const [, done] = triesToWait.exec(statement) ?? [];
    add('delete', done === undefined ? '' : `setp.eq.u32 ${done}, 0, 0;`);
    const [all, opcode = '', groups] = waitsForAllBut.exec(statement) ?? [];
    if (all !== undefined) {
      const less = `${opcode}${Number(groups) + 1}`;
      add('wait for less', `${guard}${statement.replace(all, less)}`);
    }
  }
  return mutants;
}

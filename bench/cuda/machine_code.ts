/** What a disassembler says of the kernels' main loops: `cuobjdump` of the CUDA toolkit, where it is found. */

import { spawnSync } from 'node:child_process';

/** Instructions that follow each other whenever the first one runs. */
interface Block {
  readonly instructions: readonly string[];
  /** Indices of blocks that may run next. */
  readonly next: readonly number[];
}

/** Machine instructions of a warp for each 16 x 8 x 16 product in the innermost loop that multiplies, by kernel. */
export type LoopInstructions = ReadonlyMap<string, number>;

/** Undefined where there is no disassembler. `image` is a fatbin. */
export function disassemble(image: string, architecture: string): LoopInstructions | undefined {
  const program = process.env.MARGINFC_CUOBJDUMP ?? 'cuobjdump';
  const { error, status, stdout, stderr } = spawnSync(
    program,
    ['-sass', '-arch', `sm_${architecture}`, image],
    { encoding: 'utf8', maxBuffer: 1 << 28 },
  );
  if (error) {
    if (process.env.MARGINFC_CUOBJDUMP === undefined && 'code' in error && error.code === 'ENOENT') return;
    throw error;
  }
  if (status !== 0) throw new Error(`${program} ended with ${status}: ${stderr.trim()}`);
  return loopInstructions(stdout);
}

/** Of a listing as `cuobjdump -sass` prints it. */
export function loopInstructions(listing: string): LoopInstructions {
  const found = new Map<string, number>();
  for (const part of listing.split(/^\s*Function : /m).slice(1)) {
    const kernel = part.slice(0, part.search(/\s/));
    const ratios = naturalLoops(blocksOf(part))
      .map((loop) => loop.flatMap(({ instructions }) => instructions))
      .map((instructions) => ({ instructions, mma: sum(instructions.map(products)) }))
      .filter(({ mma }) => mma > 0)
      .sort((a, b) => a.instructions.length - b.instructions.length)
      .map(({ instructions, mma }) => instructions.length / mma);
    if (ratios[0] !== undefined) found.set(kernel, ratios[0]);
  }
  return found;
}

function blocksOf(listing: string): Block[] {
  const code = [...listing.matchAll(/^\s*\/\*([0-9a-f]{4,})\*\/\s+(.*?)\s*;/gm)].map(([, address, text]) => ({
    address: Number.parseInt(address as string, 16),
    text: text as string,
    target: Number.parseInt(/\bBRA\b.*?\b0x([0-9a-f]+)$/.exec(text as string)?.[1] ?? '', 16),
  }));
  const ends = (text: string) => /\b(BRA|EXIT)\b/.test(text);
  const targets = new Set(code.map(({ target }) => target));
  const first = code.flatMap(({ address }, k) =>
    k === 0 || targets.has(address) || ends(code[k - 1]?.text ?? '') ? [k] : [],
  );
  const blockAt = new Map(first.map((k, index) => [code[k]?.address, index]));
  return first.map((from, index) => {
    const inside = code.slice(from, first[index + 1]);
    const { text = '', target } = inside.at(-1) ?? {};
    const branch = blockAt.get(target);
    const falls = !ends(text) || /^@|\bBRA\.(U|DIV)\b/.test(text);
    return {
      instructions: inside.map((one) => one.text),
      next: [
        ...(branch === undefined ? [] : [branch]),
        ...(falls && index + 1 < first.length ? [index + 1] : []),
      ],
    };
  });
}

/** For each branch back to a block that dominates it, the blocks from which it is reached without that one, and that one. */
function naturalLoops(blocks: readonly Block[]): Block[][] {
  const before: number[][] = blocks.map(() => []);
  blocks.forEach(({ next }, from) => {
    for (const to of next) before[to]?.push(from);
  });
  const dominators = dominatorsOf(blocks, before);
  return blocks.flatMap(({ next }, from) =>
    next
      .filter((header) => dominators[from]?.has(header))
      .map((header) => {
        const loop = new Set([header]);
        const waiting = [from];
        for (let block = waiting.pop(); block !== undefined; block = waiting.pop()) {
          if (loop.has(block)) continue;
          loop.add(block);
          waiting.push(...(before[block] ?? []));
        }
        return [...loop].map((block) => blocks[block] as Block);
      }),
  );
}

/** The blocks through which each block is always reached; of blocks that are not reached, all. */
function dominatorsOf(blocks: readonly Block[], before: readonly number[][]): Set<number>[] {
  const all = blocks.map((_, block) => block);
  const dominators = blocks.map((_, block) => new Set(block === 0 ? [0] : all));
  for (let changed = true; changed; ) {
    changed = false;
    for (const block of all.slice(1)) {
      const [first, ...rest] = (before[block] ?? []).map((one) => dominators[one] as Set<number>);
      const now = new Set([...(first ?? all)].filter((one) => rest.every((other) => other.has(one)))).add(
        block,
      );
      changed ||= now.size !== dominators[block]?.size;
      dominators[block] = now;
    }
  }
  return dominators;
}

/** 16 x 8 x 16 products that an instruction stands for, for each warp of those that share it. */
function products(text: string): number {
  const [, depth, columns, groupDepth] = /\bH(?:MMA\.168(8|16)|GMMA\.64x(\d+)x(\d+))\b/.exec(text) ?? [];
  if (depth !== undefined) return Number(depth) / 16;
  // The 64 rows are of four warps.
  return columns === undefined ? 0 : (Number(columns) * Number(groupDepth)) / (8 * 16);
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

/**
 * What the software device cannot see and PTX must have all the same: fences between proxies, and barriers that lockstep
 * warps or waits for wgmma happen to stand in for. Reads a kernel's text from top to bottom, without following branches,
 * so it speaks of what stands between two instructions, and of one order only.
 */

export interface Finding {
  /** Counted from 1. */
  readonly line: number;
  readonly message: string;
}

interface Rule {
  /** Begins what must be ended before `use`. */
  readonly begin: RegExp;
  readonly end: RegExp;
  readonly use: RegExp;
  readonly message: string;
}

const blockBarrier = 'bar(rier)?(\\.cta)?\\.(sync|red|arrive)';

const rules: readonly Rule[] = [
  {
    // PTX ISA 9.7.13.13, "membar/fence": writes through the generic proxy are not visible to the async proxy by themselves.
    begin: /^(st\.(volatile\.|relaxed\.\S*?)?shared|stmatrix|cp\.async\.c[ag]|mbarrier\.init)/,
    end: /^fence\.(proxy\.async|mbarrier_init)/,
    use: /^(wgmma\.mma_async|cp\.async\.bulk\.(tensor\.\dd\.)?(shared|global\.shared))/,
    message:
      'reads or writes shared memory through the async proxy; fence.proxy.async must follow the generic writes',
  },
  {
    // PTX ISA 9.7.13.13: a tensor map that was written needs an acquire in the tensormap proxy.
    begin: /^tensormap\.cp_fenceproxy/,
    end: /^fence\.proxy\.tensormap\S*acquire/,
    use: new RegExp(`^(cp\\.async\\.bulk\\.tensor|${blockBarrier})`),
    message:
      'may use a tensor map that was just copied; fence.proxy.tensormap with acquire must follow the copy',
  },
  {
    // Lanes need not run in step: PTX ISA 9.7.13.2, "bar.warp.sync".
    begin: /^st\.shared/,
    end: new RegExp(`^(bar\\.warp\\.sync|${blockBarrier})`),
    use: /^tensormap\.replace\S*\.shared/,
    message: 'edits a tensor map that other lanes have just written; bar.warp.sync must stand between',
  },
  {
    // wgmma.wait_group is each thread's own: PTX ISA 9.7.15.7.3.
    begin: /^wgmma\.wait_group/,
    end: new RegExp(`^(${blockBarrier}|mbarrier\\.(try_wait|test_wait|arrive))`),
    use: /^(cp\.async\.(c[ag]|bulk\.(tensor\.\dd\.)?shared)|st\.shared|stmatrix)/,
    message:
      'refills shared memory that other warps may still multiply; a barrier must follow wgmma.wait_group',
  },
];

/** Findings in the order of the text. */
export function lintPtx(text: string): Finding[] {
  const findings: Finding[] = [];
  const open = new Set<Rule>();
  for (const [index, raw] of text.split('\n').entries()) {
    const statement = raw
      .replace(/\/\/.*/, '')
      .trim()
      .replace(/^(\{\s*)?(@!?\S+\s+)?/, '');
    if (/^\.(visible|entry|func)/.test(statement)) open.clear();
    for (const rule of rules) {
      if (rule.end.test(statement)) open.delete(rule);
      if (open.has(rule) && rule.use.test(statement)) {
        findings.push({ line: index + 1, message: `${statement.split(/\s/)[0]} ${rule.message}` });
        open.delete(rule);
      }
      if (rule.begin.test(statement)) open.add(rule);
    }
  }
  return findings;
}

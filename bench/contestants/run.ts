/** A contestant's process in Node, by the kind that contestants/list.ts gives it. */

import { serve } from '../serve.js';
import { type CpuJob, marginfcCpu } from './marginfc_cpu.js';
import { type CudaJob, marginfcCuda } from './marginfc_cuda.js';
import { plain } from './plain.js';
import { type TfjsBackend, tfjs } from './tfjs.js';
import { unfused } from './unfused.js';

export function runContestant(kind: string): Promise<void> {
  switch (kind) {
    case 'marginfc cpu':
      return serve<CpuJob>(marginfcCpu);
    case 'marginfc cuda':
      return serve<CudaJob>(marginfcCuda);
    case 'tfjs':
      return serve<TfjsBackend>(tfjs);
    case 'plain':
      return serve(plain);
    case 'unfused':
      return serve(unfused);
    default:
      throw new Error(`no contestant ${kind}`);
  }
}

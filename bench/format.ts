/** Numbers and reasons as they are shown, in the terminal, the report and README.md alike. */

import { type Gap, reached } from './goals.js';
import type { ResultRow } from './results.js';
import { sizeName } from './size.js';

/** Three digits that count. */
export function msText(ms: number): string {
  if (ms >= 99.95) return groups(Math.round(ms));
  return ms >= 9.995 ? ms.toFixed(1) : ms >= 0.9995 ? ms.toFixed(2) : ms.toPrecision(2);
}

function groups(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ' ');
}

export function bytesText(bytes: number | null): string {
  if (bytes === null) return '-';
  const mib = bytes / 2 ** 20;
  return `${mib < 9.95 ? mib.toFixed(1) : groups(Math.round(mib))} MiB`;
}

/** Why a row has no time. */
export function statusText({ status, reason, extrapolatedMs, extrapolatedFrom }: ResultRow): string {
  const guess =
    extrapolatedMs !== null && extrapolatedFrom
      ? `; extrapolated from ${sizeName(extrapolatedFrom)}: about ${msText(extrapolatedMs)} ms`
      : '';
  return `${status}${reason === undefined ? '' : `: ${reason}`}${guess}`;
}

export function timesText(times: number): string {
  return times >= 99.5 ? groups(Math.round(times)) : times >= 9.95 ? times.toFixed(1) : times.toFixed(2);
}

export function gapText({ times, extrapolated, reason }: Gap): string {
  if (times === null) return reason ?? '-';
  return extrapolated ? `about ${timesText(times)} (extrapolated)` : timesText(times);
}

export function verdictText(gap: Gap): string {
  if (gap.goal === undefined) return '';
  const verdict = reached(gap);
  return verdict === undefined ? 'not measured' : verdict ? 'reached' : 'not reached';
}

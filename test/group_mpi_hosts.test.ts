/**
 * mpi() between two hosts: two network namespaces of this machine, joined by a cable of their own, where ranks meet over TCP
 * and mpirun reaches the other host through an agent, as it would through ssh.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { mpiMissing, mpirun } from './mpirun.js';

const scenarios = fileURLToPath(new URL('./group/scenarios.mjs', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'marginfc-hosts-'));
const agent = join(folder, 'agent.sh');
/** Names of their own, so that tests may run beside each other. */
const hosts = ['a', 'b'].map((host) => `mfc${process.pid}${host}`);
const [first = '', second = ''] = hosts;
const cable = 'mfc0';

/** A command that runs the one after it on a host, which may then be given a name. */
const on = (host: string) => ['ip', 'netns', 'exec', host, 'unshare', '--uts'];
const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: 'pipe' });

/** Lays the cable; returns why that is not possible. */
function connectHosts(): string | undefined {
  try {
    for (const host of hosts) ip('netns', 'add', host);
    ip('link', 'add', cable, 'netns', first, 'type', 'veth', 'peer', 'name', cable, 'netns', second);
    for (const [i, host] of hosts.entries()) {
      ip('-n', host, 'addr', 'add', `10.213.77.${i + 1}/24`, 'dev', cable);
      for (const device of ['lo', cable]) ip('-n', host, 'link', 'set', device, 'up');
    }
    execFileSync('ip', [...on(first).slice(1), 'hostname', first], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    return `no network namespaces: ${error instanceof Error ? error.message.trim() : error}`;
  }
}

const missing = mpiMissing ?? connectHosts();
if (missing !== undefined) console.log(`mpi() between two hosts is not tested: ${missing}`);

afterAll(() => {
  rmSync(folder, { recursive: true });
  for (const host of hosts) {
    try {
      ip('netns', 'del', host);
    } catch {
      // It was never made.
    }
  }
});

test.skipIf(missing !== undefined)('two hosts exchange arrays over the network', async () => {
  // mpirun's agent HOST COMMAND...: as ssh, on a host with a name of its own.
  const text = `#!/bin/sh\nhost=$1\nshift\nexec ${on('$host').join(' ')} sh -c "hostname $host && $*"\n`;
  writeFileSync(agent, text, { mode: 0o755 });
  const { code, said, stderr } = await mpirun(4, scenarios, ['short collectives'], {
    flags: ['--host', hosts.map((host) => `${host}:2`).join()],
    through: [...on(first), 'sh', '-c', 'hostname $0 && exec "$@"', first],
    environment: {
      OMPI_MCA_plm_rsh_agent: agent,
      OMPI_MCA_btl: 'tcp,self',
      OMPI_MCA_btl_tcp_if_include: cable,
      OMPI_MCA_oob_tcp_if_include: cable,
    },
  });
  const host = (rank: number) => hosts[rank >> 1];
  expect({ code, said }, stderr).toEqual({
    code: 0,
    said: [0, 1, 2, 3].map((rank) => `${rank}: right on 4, here ${host(rank)}`),
  });
  const { stats64 } = JSON.parse(ip('-n', second, '-s', '-j', 'link', 'show', cable))[0];
  expect(stats64.rx.bytes).toBeGreaterThan(1e6);
});

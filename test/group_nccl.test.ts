/**
 * nccl(): processes with a GPU each, on the software CUDA device and the stand-in for NCCL of test/gpusim/. What it has in common with
 * other groups is in test/group.test.ts.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type NcclOptions, nccl } from '../src/index.js';
import { expectFailure } from './failures.js';
import { softwareDriver } from './gpus.js';
import { expectEnd, onEach, scenarios } from './group/launch.js';
import { freePort, ncclEnvironment, softwareNccl, type TorchrunOptions, torchrun } from './torchrun.js';

const run = (ranks: number, scenario: string, options: NcclOptions = {}, more: TorchrunOptions = {}) =>
  torchrun(ranks, scenarios, [scenario, JSON.stringify(options)], {
    ...more,
    environment: { MARGINFC_TEST_GROUP: 'nccl', ...more.environment },
  });

describe('a group over NCCL', () => {
  test('ends calls by their deadline where a rank is killed, and lets the others go on', () => {
    const message = (rank: number) =>
      `${rank}: ERR_GROUP_TIMEOUT: allReduce on rank ${rank} of 3 was not done after 8 seconds: another rank has stopped or has not called it; this group cannot be used any more`;
    return expectEnd(run(3, 'a rank is killed in the middle, and nobody ends the others'), 0, [
      message(0),
      message(2),
    ]);
  });

  test('meets over another group, whose ranks all hear of one that cannot', () => {
    const others =
      'ERR_ENGINE_UNAVAILABLE: nccl() is not available: another rank of the group cannot use NCCL, and says why';
    const own =
      'ERR_ENGINE_UNAVAILABLE: nccl() is not available: there is no cuda:9: the driver has 3 GPUs, counted from 0';
    const said = [`0: ${others}`, `1: ${own}`, `2: ${others}`, ...onEach(3, 'right on 3')];
    return expectEnd(run(3, 'over another group'), 0, said.sort());
  });

  test('does not start with two ranks on one GPU', async () => {
    const { said } = await run(2, 'opens', { device: 'cuda:0' });
    expect(said).toEqual(
      [0, 1].map((rank) =>
        expect.stringMatching(
          `^${rank}: ERR_GROUP: NCCL failed: ncclCommGetAsyncError said invalid usage \\(5\\): duplicate GPU`,
        ),
      ),
    );
  });

  test('meets at a port that is given, or beside the store of torchrun', async () => {
    const environment = { TORCHELASTIC_USE_AGENT_STORE: 'True' };
    for (const ended of [
      run(2, 'opens', { port: await freePort() }, { environment: { MASTER_PORT: undefined } }),
      run(2, 'opens', {}, { environment }),
    ])
      await expectEnd(ended, 0, onEach(2, 'no error'));
  });

  test.each([
    [
      'no NCCL',
      { MARGINFC_LIBNCCL: '/nowhere/libnccl.so.2' },
      /NCCL could not be loaded: \/nowhere\/libnccl\.so\.2/,
    ],
    ['another library', { MARGINFC_LIBNCCL: softwareDriver }, /has no ncclGetVersion: it is no NCCL/],
    ['an old NCCL', { GPUSIM_NCCL_VERSION: '21304' }, /NCCL is too old: 2\.13\.4 .*needed is 2\.14\.0/],
    ['a very old NCCL', { GPUSIM_NCCL_VERSION: '2708' }, /NCCL is too old: 2\.7\.8/],
    ['no driver', { MARGINFC_LIBCUDA: '/nowhere/libcuda.so.1' }, /the NVIDIA driver could not be loaded/],
    ['no such GPU', { LOCAL_RANK: '3' }, /there is no cuda:3: the driver has 1 GPU, counted from 0/],
  ])('says why it cannot be with %s', async (_, environment, reason) => {
    const { said } = await run(1, 'opens', {}, { rankEnvironment: () => environment });
    expect(said).toEqual([
      expect.stringMatching(`^0: ERR_ENGINE_UNAVAILABLE: nccl\\(\\) is not available: .*${reason.source}`),
    ]);
  });

  test.each([
    ['an option that does not exist', { gpu: 0 }, 'ERR_OPTION', /^a name in options/],
    ['a device that is none', { device: 'cpu' }, 'ERR_OPTION', /^device must be 'cuda:N', received 'cpu'/],
    ['a device by number', { device: 0 }, 'ERR_TYPE', /^device must be/],
    ['no time', { timeout: 0 }, 'ERR_OPTION', /^timeout must be/],
    ['port 0', { port: 0 }, 'ERR_OPTION', /^port must be an integer in \[1, 65535\], received 0/],
    ['a group that is none', { over: { rank: 0, size: 1 } }, 'ERR_TYPE', /^over must be a ProcessGroup/],
    [
      'a port and a group',
      { port: 1, over: { rank: 0, size: 1, allReduce() {}, broadcast() {} } },
      'ERR_OPTION',
      /^port must be left out/,
    ],
    [
      'no launcher',
      {},
      'ERR_OPTION',
      /^the environment variable LOCAL_RANK must be an integer .*received nothing/,
    ],
  ])('refuses %s', (_, options, code, message) =>
    expectFailure(() => nccl(options as NcclOptions), code, message),
  );
});

test.each([
  ['the version', softwareNccl, /^nccl +2\.21\.5$/m],
  ['why there is none', '/nowhere', /^nccl +not available: NCCL could not be loaded: \/nowhere/m],
])('the doctor shows %s', (_, path, line) => {
  const cli = join(import.meta.dirname, '..', 'dist', 'cli.js');
  const env = { ...process.env, ...ncclEnvironment(1), MARGINFC_LIBNCCL: path };
  expect(spawnSync(process.execPath, [cli, 'doctor'], { encoding: 'utf8', env }).stdout).toMatch(line);
});

'use strict';
// Which machines marginfc runs on. The install script asks before compiling, the loader after a failure.

/** The C library of this process: `glibc 2.36`, or `musl` when the process reports no glibc. */
function libc() {
  const report = /** @type {{ header: { glibcVersionRuntime?: string } }} */ (process.report.getReport());
  const version = report.header.glibcVersionRuntime;
  return version === undefined ? 'musl' : `glibc ${version}`;
}

/** For example `linux-x64 (glibc 2.36), Node 20.20.2`. */
function describePlatform() {
  const detail = process.platform === 'linux' ? ` (${libc()})` : '';
  return `${process.platform}-${process.arch}${detail}, Node ${process.versions.node}`;
}

/**
 * Why marginfc cannot run here, or undefined where it can.
 * @param {{ platform?: string, arch?: string, libc?: string }} [machine] this process's, unless a test says otherwise
 * @returns {string | undefined}
 */
function unsupportedPlatform(machine = {}) {
  const { platform = process.platform, arch = process.arch } = machine;
  const supported = 'marginfc runs on Linux, x64 and arm64, with glibc';
  if (platform !== 'linux') return `${supported}; this is ${platform}-${arch}`;
  if (arch !== 'x64' && arch !== 'arm64') return `${supported}; this is linux-${arch}`;
  const library = machine.libc ?? libc();
  if (!library.startsWith('glibc')) return `${supported}; this is linux-${arch} with ${library} (Alpine?)`;
  return undefined;
}

module.exports = { describePlatform, unsupportedPlatform };

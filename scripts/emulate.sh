#!/usr/bin/env bash
# Builds engine/ and cpu/ for a processor that this machine is not and runs test/native/engine_check.cc under qemu.
#   scripts/emulate.sh arm64     needs Debian's g++-aarch64-linux-gnu and qemu-user
#   scripts/emulate.sh old-x64   an x86-64 without AVX; needs g++-x86-64-linux-gnu (g++, on x86-64) and qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  arm64) processor=aarch64 emulator=(qemu-aarch64) ;;
  old-x64) processor=x86_64 emulator=(qemu-x86_64 -cpu Opteron_G1) ;;
  *) echo "usage: scripts/emulate.sh arm64|old-x64" >&2; exit 2 ;;
esac
compiler=$processor-linux-gnu-g++
for tool in "$compiler" "${emulator[0]}"; do
  command -v "$tool" >/dev/null && continue
  echo "$tool is missing: sudo apt-get install -y g++-${processor/_/-}-linux-gnu qemu-user" >&2
  exit 1
done
folder=build/$1
mkdir -p build
# Static, so that the emulator needs no libraries of that processor.
cmake -S . -B "$folder" -DMARGINFC_ADDON=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR="$processor" \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_EXE_LINKER_FLAGS=-static >"$folder.log" 2>&1 ||
  { cat "$folder.log" >&2; exit 1; }
cmake --build "$folder" --target engine_check --parallel 2 >>"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
"${emulator[@]}" "$folder/engine_check"

#!/usr/bin/env bash
# Builds the software CUDA device and runs its checks (test/gpusim/).
#   scripts/gpusim.sh check [part]...   as built for the tests; `speed` measures
#   scripts/gpusim.sh asan              under the address and undefined-behaviour sanitizers
#   scripts/gpusim.sh fuzz [seconds]    malformed PTX and fatbins, under the sanitizers; a minute by default
set -euo pipefail
cd "$(dirname "$0")/.."
export GPUSIM_SOURCE=$PWD/test/gpusim
mode=${1:-}
shift || true
sanitized() {
  local folder=build/gpusim-asan
  mkdir -p build
  cmake -S test/gpusim -B "$folder" -DGPUSIM_SANITIZE=address,undefined -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
    >"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
  cmake --build "$folder" --parallel 2 --target gpusim_check nccl_check >>"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
  "$folder/gpusim_check" "$@"
  [ $# -gt 0 ] || "$folder/nccl_check"
}
case "$mode" in
  check) node scripts/build.mjs gpusim && build/gpusim/gpusim_check "$@" ;;
  asan) sanitized "$@" ;;
  fuzz) sanitized fuzz "${1:-60}" ;;
  *) echo "usage: scripts/gpusim.sh check|asan|fuzz" >&2; exit 2 ;;
esac

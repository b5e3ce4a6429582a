#!/usr/bin/env bash
# Builds engine/, cpu/ and group/ with a sanitizer and runs test/native/engine_check.cc on every instruction set, and
# group_check.cc.
#   scripts/sanitize.sh asan     address and undefined behaviour
#   scripts/sanitize.sh tsan     data races
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  asan) sanitizers=address,undefined ;;
  tsan) sanitizers=thread ;;
  *) echo "usage: scripts/sanitize.sh asan|tsan" >&2; exit 2 ;;
esac
folder=build/$1
cmake -S . -B "$folder" -DMARGINFC_ADDON=OFF -DMARGINFC_SANITIZE="$sanitizers" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS_RELEASE=-O1 >"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
cmake --build "$folder" --target engine_check group_check --parallel 2 >>"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
# ThreadSanitizer needs the address space that older kernels randomise away.
runner=()
if [ "$1" = tsan ] && command -v setarch >/dev/null; then runner=(setarch "$(uname -m)" -R); fi
"${runner[@]}" "$folder/group_check"
"${runner[@]}" "$folder/engine_check"

#!/usr/bin/env bash
# Builds engine/, cpu/ and cuda/ without Node and runs test/native/cuda_check.cc, cuda_drops_check.cc and
# cuda_kernels_check.cc on the software device: each compute capability with several devices and schedules, with a driver that
# fails, and with one that leaves each call out once. Needs what
# scripts/build.mjs makes. Ends with "N passed, N failed".
#   scripts/cuda_check.sh
#   scripts/cuda_check.sh asan     address and undefined behaviour
#   scripts/cuda_check.sh tsan     data races
#   scripts/cuda_check.sh gpu      on the GPUs that this environment has
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizers=
case "${1:-}" in
  asan) sanitizers=address,undefined ;;
  tsan) sanitizers=thread ;;
  gpu | "") ;;
  *) echo "usage: scripts/cuda_check.sh [asan|tsan|gpu]" >&2; exit 2 ;;
esac
node scripts/build.mjs native gpusim
folder=build/cuda-check${sanitizers:+-$1}
cmake -S . -B "$folder" -DMARGINFC_ADDON=OFF -DMARGINFC_KERNELS="$PWD/build/kernels" \
  -DMARGINFC_SANITIZE="$sanitizers" -DCMAKE_BUILD_TYPE=Release ${sanitizers:+-DCMAKE_CXX_FLAGS_RELEASE=-O1} \
  >"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
cmake --build "$folder" --parallel 2 --target cuda_check cuda_drops_check cuda_kernels_check \
  failing_driver dropping_driver >>"$folder.log" 2>&1 ||
  { cat "$folder.log" >&2; exit 1; }
# ThreadSanitizer needs the address space that older kernels randomise away.
runner=()
if [ "${1:-}" = tsan ] && command -v setarch >/dev/null; then runner=(setarch "$(uname -m)" -R); fi
image=$(sed -n 's/^#define MARGINFC_KERNELS_IMAGE "\(.*\)"$/\1/p' build/kernels/embedded.h)
passed=0
failed=0
# run TITLE PROGRAM...: counts what it prints as its own last line.
run() {
  echo "== $1"
  shift
  local output counts
  output=$("${runner[@]}" "$@") || true
  counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' <<<"$output" | tail -n 1) || counts="0 passed, 1 failed"
  grep -vxF "$counts" <<<"$output" || true
  echo "  $counts"
  read -r p _ f _ <<<"$counts"
  passed=$((passed + p))
  failed=$((failed + f))
}
if [ "${1:-}" = gpu ]; then
  run "engine" "$folder/cuda_check"
  run "kernels" "$folder/cuda_kernels_check" "$image"
else
  driver=build/gpusim/libcuda.so.1
  for setting in "75 1 0 1 $driver" "80 3 7 1 $driver" "90 2 3 1 $driver" "90 1 4 0 $driver" \
    "80 1 0 1 $folder/libfailing_driver.so"; do
    read -r sm devices seed hopper library <<<"$setting"
    export GPUSIM_SM=$sm GPUSIM_DEVICES=$devices GPUSIM_SEED=$seed MARGINFC_HOPPER=$hopper MARGINFC_LIBCUDA=$library
    run "sm_$sm, $devices device(s), seed $seed, MARGINFC_HOPPER=$hopper, $library" "$folder/cuda_check"
  done
  # Kernels that read poison are what this wants: results decide, and faults are not printed.
  export GPUSIM_SM=80 GPUSIM_DEVICES=1 GPUSIM_SEED=0 MARGINFC_LIBCUDA=$folder/libdropping_driver.so
  GPUSIM_CHECKS=0 GPUSIM_LOG=/dev/null run "calls left out" "$folder/cuda_drops_check"
  for sm in 75 80 90; do
    export GPUSIM_SM=$sm GPUSIM_DEVICES=1 GPUSIM_SEED=1 MARGINFC_LIBCUDA=$driver
    run "kernels on sm_$sm" "$folder/cuda_kernels_check" "$image"
  done
  hopper=$("$folder/cuda_kernels_check" "$image" --list | cut -d' ' -f1 | grep '^hopper_') || true
  # Under sanitizers an order of blocks and warps is much like another.
  for seed in $([ -n "$sanitizers" ] && echo 2 || echo 2 3 4 5); do
    export GPUSIM_SEED=$seed
    # shellcheck disable=SC2086
    run "kernels of sm_90 alone, seed $seed" "$folder/cuda_kernels_check" "$image" $hopper
  done
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]

#!/usr/bin/env bash
# Builds engine/, cpu/ and cuda/ without Node and runs test/native/cuda_check.cc on the software device: each compute
# capability with several devices and schedules, and with a driver that fails. Needs what scripts/build.mjs makes.
#   scripts/cuda_check.sh
#   scripts/cuda_check.sh asan     address and undefined behaviour
#   scripts/cuda_check.sh tsan     data races
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  asan) sanitizers=address,undefined ;;
  tsan) sanitizers=thread ;;
  "") sanitizers= ;;
  *) echo "usage: scripts/cuda_check.sh [asan|tsan]" >&2; exit 2 ;;
esac
node scripts/build.mjs native gpusim
folder=build/cuda-check${1:+-$1}
cmake -S . -B "$folder" -DMARGINFC_ADDON=OFF -DMARGINFC_KERNELS="$PWD/build/kernels" \
  -DMARGINFC_SANITIZE="$sanitizers" -DCMAKE_BUILD_TYPE=Release ${1:+-DCMAKE_CXX_FLAGS_RELEASE=-O1} \
  >"$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
cmake --build "$folder" --parallel 2 --target cuda_check failing_driver >>"$folder.log" 2>&1 ||
  { cat "$folder.log" >&2; exit 1; }
# ThreadSanitizer needs the address space that older kernels randomise away.
runner=()
if [ "${1:-}" = tsan ] && command -v setarch >/dev/null; then runner=(setarch "$(uname -m)" -R); fi
driver=build/gpusim/libcuda.so.1
for setting in "75 1 0 $driver" "80 3 7 $driver" "90 2 3 $driver" "80 1 0 $folder/libfailing_driver.so"; do
  read -r sm devices seed library <<<"$setting"
  echo "== sm_$sm, $devices device(s), seed $seed, $library"
  GPUSIM_SM=$sm GPUSIM_DEVICES=$devices GPUSIM_SEED=$seed MARGINFC_LIBCUDA=$library "${runner[@]}" "$folder/cuda_check"
done

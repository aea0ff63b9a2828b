#!/usr/bin/env bash
# Everything that only a GPU can show, in one go: the device below TensorRT on any NVIDIA GPU; with a TensorRT that can build for
# it, a tiny engine built, verified against the processor and measured; with --model, that model too.
# usage: tests/gpu/run.sh [--out DIR] [--model DIR] [--precision P] [--groups N] [--tensorrt DIR] [--sage FILE] [--rounds N]
#   --out        where results go (default out/gpu)
#   --model      checkpoint to build, verify and measure too, such as Qwen2.5-14B-Instruct
#   --precision  of its engine (default: the checkpoint's own)
#   --groups     its layer groups (default 4)
#   --tensorrt   folder with TensorRT's libraries, where the system does not find them
#   --sage       the program, already built (default: cargo build --release)
# A step that cannot be done here is reported with the exact answer and does not stop the others; the exit code is 1 if one
# that was done found something wrong.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=out/gpu model= precision= groups=4 tensorrt= sage= rounds=200
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2 ;; --model) model=$2 ;; --precision) precision=$2 ;; --groups) groups=$2 ;;
    --tensorrt) tensorrt=$2 ;; --sage) sage=$2 ;; --rounds) rounds=$2 ;;
    *) sed -n 2,13p "$0"; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$out"
if [ -z "$sage" ]; then
  cargo build --release --bin sage || exit 3
  sage=target/release/sage
fi
[ -n "$tensorrt" ] && export SAGE_TENSORRT="$tensorrt"
failed=0 any_gpu=
step() { printf '\n== %s\n' "$*"; }

step "the device below TensorRT"
"$sage" bench gpu --rounds "$rounds" --out "$out/device.json"
case $? in
  0) ;;
  *) echo "without a device nothing else can be done"; exit 3 ;;
esac
"$sage" engine libraries 2>&1 | tee "$out/libraries.txt"

# build NAME MODEL args...: an engine, checked and measured; its own answers are kept.
engine() {
  local name=$1 from=$2; shift 2
  local folder="$out/$name"
  step "$name: build"
  if ! "$sage" engine build "$from" --out "$folder" "$@" > "$out/$name.build.txt" 2>&1; then
    sed 's/.*\r//' "$out/$name.build.txt" | tail -3
    return 0
  fi
  tail -3 "$out/$name.build.txt"
  step "$name: against the processor"
  "$sage" engine verify "$folder" --model "$from" ${any_gpu:+--any-gpu} 2>&1 | tee "$out/$name.verify.txt"
  [ "${PIPESTATUS[0]}" = 0 ] || { [ -n "$any_gpu" ] || failed=1; return; }
  [ -z "$any_gpu" ] || return 0
  step "$name: speed"
  "$sage" engine bench "$folder" --json --write "$out/$name.profile.toml" 2>&1 | tee "$out/$name.bench.json"
  [ "${PIPESTATUS[0]}" = 0 ] || failed=1
}

step "a tiny model with random weights"
tiny="$out/tiny-model"
[ -d "$tiny" ] || "$sage" bench llm --write "$tiny" --shape tiny || failed=1
for form in fused primitive; do
  engine "tiny-$form" "$tiny" --target this --form $form --capacity 1024 --chunk 64 --groups 2
done
# Where TensorRT-RTX knows the GPU's architecture only through an older one: does the device take such a plan?
any_gpu=1
engine tiny-sm80 "$tiny" --target sm80 --capacity 1024 --chunk 64
any_gpu=

if [ -n "$model" ]; then
  engine model "$model" --target this --groups "$groups" ${precision:+--precision "$precision"}
fi
step "results are in $out"
exit $failed

#!/usr/bin/env bash
# sage against llama.cpp on the same random weights in Qwen2.5-0.5B's shape, on this machine, in turn: prints the table of ratios
# and writes it as JSON. Needs cmake, a C++ compiler and libclang, which sage itself never does; llama.cpp builds for minutes.
#   benches/peers/run.sh [ROUNDS=5] [FOLDER=out/peers]
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5} folder=${2:-out/peers}
cargo build --release
(cd benches/peers && cargo build --release)
sage=target/release/sage peers=benches/peers/target/release/peers lines=$folder/lines.jsonl
mkdir -p "$folder"
declare -A gguf=([bf16]=bf16 [8bit]=q8_0 [4bit]=q4_0)
[ -e "$folder/bf16/model.safetensors" ] || "$sage" bench llm --write "$folder/bf16"
# What sage made of them is its own matter and may change with it: always anew.
for bits in 8 4; do "$sage" engine quantize --model "$folder/bf16" --out "$folder/${bits}bit" --bits $bits; done
for weights in bf16 8bit 4bit; do
  [ -e "$folder/$weights.gguf" ] || "$peers" gguf "$folder/bf16" "$folder/$weights.gguf" "${gguf[$weights]}"
done

# Lines of the two programs, with who printed them.
own() { # round weights mode threads
  local name=$2
  if [ "$2" = bf16 ]; then name="bf16 $3"; fi
  "$sage" bench llm --model "$folder/$2" --threads "$4" --parts speed --repeat 2 --modes "$3" --json |
    sed -E "s/.*\"runs\":\[\{(.*)\}\].*/{\"who\":\"sage\",\"round\":$1,\1}/; s/\"weights\":\"[^\"]*\"/\"weights\":\"$name\"/" >>"$lines"
}
peer() { # round weights threads
  "$peers" speed "$folder/$2.gguf" "$3" 2 | sed "s/^{/{\"who\":\"llama.cpp\",\"round\":$1,\"weights\":\"$2\",/" >>"$lines"
}

: >"$lines"
# Where a file's pages happen to lie in memory makes a decoder a tenth faster or slower: every round reads all files anew.
anew() {
  for file in "$folder"/{bf16,8bit,4bit}/model.safetensors "$folder"/*.gguf; do
    dd of="$file" oflag=nocache conv=notrunc,fdatasync count=0 status=none
    cat "$file" >/dev/null
  done
}

for round in $(seq "$rounds"); do
  anew
  echo "round $round of $rounds, load $(cut -d' ' -f1-3 /proc/loadavg)" >&2
  for threads in 1 2; do
    for weights in bf16 8bit 4bit; do
      own "$round" $weights exact $threads
      peer "$round" $weights $threads
      if [ $weights = bf16 ]; then own "$round" bf16 fast $threads; fi
    done
  done
done
for threads in 1 2; do
  "$peers" stop "$folder/bf16.gguf" $threads | sed 's/^{/{"who":"llama.cpp","weights":"bf16",/' >>"$lines"
done
"$peers" table "$lines" "$folder/peers.json"

#!/usr/bin/env bash
# Wake-up lateness of the ticker against cyclictest (Debian: rt-tests), same priority and interval, in turns A B A B.
# Usage, as root: [RATES="100 1000"] benches/lateness.sh [ROUNDS] [SECONDS] [PRIORITY]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-60} priority=${3:-80}
sage=${SAGE:-target/release/sage}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# p99.9 of cyclictest's histogram (µs a line, count), in µs.
cyclic() {
  cyclictest -q -m -p "$priority" -i "$1" -l "$2" -t 1 -h 20000 --policy=fifo 2>/dev/null |
    awk '/^[0-9]+ [0-9]+/ { n += $2; count[$1 + 0] = $2; if ($1 + 0 > top) top = $1 + 0 }
         /^# Histogram Overflows:/ { over = $4 }
         END { n += over; for (us = 0; us <= top; us++) { seen += count[us]; if (seen >= 0.999 * n) { print us; exit } } print 20000 }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

for rate in ${RATES:-100 1000}; do
  for round in $(seq "$rounds"); do
    ours=$("$sage" bench lateness --rate "$rate" --seconds "$seconds" --priority "$priority" | sed -n 's/.*p99.9 \([0-9.]*\),.*/\1/p')
    theirs=$(cyclic $((1000000 / rate)) $((rate * seconds)))
    echo "$ours" >> "$work/ours.$rate"; echo "$theirs" >> "$work/theirs.$rate"
    echo "$rate Hz, round $round: sage p99.9 $ours µs, cyclictest p99.9 $theirs µs"
  done
  a=$(median < "$work/ours.$rate") b=$(median < "$work/theirs.$rate")
  echo "$rate Hz, median of $rounds rounds of $seconds s: sage $a µs, cyclictest $b µs, ratio $(awk "BEGIN { printf \"%.2f\", $a / $b }")"
done

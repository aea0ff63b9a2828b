#!/usr/bin/env bash
# The live sound parts against a real sound server without a sound card: a private PulseAudio with a null sink whose
# monitor is the microphone. Everything lives in a temporary folder; the user's own server is not touched.
#   tests/live_sound.sh                  runs the test
#   tests/live_sound.sh server start|stop  used by the test to let the server die and return
set -euo pipefail
cd "$(dirname "$0")/.."

for program in pulseaudio paplay espeak-ng; do
  command -v "$program" >/dev/null || { echo "skipped: $program is not installed"; exit 0; }
done

server() {
  case "$1" in
    start)
      pulseaudio -n --daemonize=yes --exit-idle-time=-1 --disallow-exit=true --use-pid-file=yes \
        --load=module-native-protocol-unix \
        --load="module-null-sink sink_name=v rate=48000 channels=1" \
        --load="module-remap-source master=v.monitor source_name=mic" 2>/dev/null
      ;;
    stop)
      [ -f "$XDG_RUNTIME_DIR/pulse/pid" ] || return 0
      pid=$(cat "$XDG_RUNTIME_DIR/pulse/pid")
      kill "$pid" 2>/dev/null || true
      while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
      rm -f "$XDG_RUNTIME_DIR/pulse/pid"
      ;;
  esac
}

if [ "${1:-}" = server ]; then
  server "$2"
  exit 0
fi

# The tests are built with the real home; only running them happens in the private one.
cargo test "${SAGE_CARGO_PROFILE:---release}" --features live --test live_sound --no-run
binary=$(cargo test "${SAGE_CARGO_PROFILE:---release}" --features live --test live_sound --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*live_sound[^"]*\)".*/\1/p' | tail -1)

work=$(mktemp -d)
export HOME="$work" XDG_RUNTIME_DIR="$work/run" SAGE_LIVE_SOUND=1
mkdir -m 700 -p "$XDG_RUNTIME_DIR"
cat >"$HOME/.asoundrc" <<'A'
pcm.!default { type asym playback.pcm { type pulse device v } capture.pcm { type pulse device mic } }
ctl.!default { type pulse }
A
trap 'server stop; rm -rf "$work"' EXIT
server start
espeak-ng -w "$work/speech.wav" "the robot went down the long corridor and found a small green door"
export SAGE_SPEECH="$work/speech.wav"
"$binary" --test-threads=1 --nocapture

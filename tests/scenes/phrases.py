"""Makes src/sense/scene/phrases.bin: what people say in synthetic scenes, spoken by espeak-ng.

Layout: one line of JSON {"rate_hz", "phrases": [{"text", "voice", "start", "samples"}]}, newline, then 8-bit mu-law samples.
Needs espeak-ng, numpy and scipy. Run: python tests/scenes/phrases.py
"""
import json, pathlib, subprocess, tempfile
import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

RATE = 16_000
VOICES = {"ann": ("en-us+f3", 150, 55), "ben": ("en-gb-scotland+m2", 150, 42)}
LINES = """stop|stop now|wait here|hello robot|good morning|what do you see|who is there|is my hand raised|where is the charger|where is the obstacle|
how far is the person|how is your battery|is the way clear|come here|come closer|follow me|go to the charger|find the charger|turn left|turn right|
turn around|go forward|move back|what is your name|thanks robot|tell me your story|give me the full report|continue|help me|go home""".replace("\n", "").split("|")


def mu_law(x):
    """ITU-T G.711 companding of floats in [-1, 1] to bytes (continuous form)."""
    y = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
    return np.round((y + 1) * 127.5).astype(np.uint8)


def speak(voice, text):
    name, rate, pitch = VOICES[voice]
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["espeak-ng", "-v", name, "-s", str(rate), "-p", str(pitch), "-w", file.name, text], check=True)
        hz, pcm = wavfile.read(file.name)
    x = resample_poly(pcm.astype(np.float64) / 32768, RATE, hz)
    loud = np.flatnonzero(np.abs(x) > 0.01)
    x = x[max(0, loud[0] - 320): loud[-1] + 800]
    return 0.5 * x / np.max(np.abs(x))


def main():
    index, data, start = [], [], 0
    for voice in VOICES:
        for text in LINES:
            samples = mu_law(speak(voice, text))
            index.append({"text": text, "voice": voice, "start": start, "samples": len(samples)})
            data.append(samples)
            start += len(samples)
    out = pathlib.Path(__file__).parents[2] / "src/sense/scene/phrases.bin"
    out.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"rate_hz": RATE, "phrases": index}).encode() + b"\n"
    out.write_bytes(head + np.concatenate(data).tobytes())
    print(f"{out}: {len(index)} phrases, {start / RATE:.1f} s, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

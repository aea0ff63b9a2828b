"""Makes the sets that figures are taken from: python mix.py TESTS_DIR SETS_DIR

In: dry sets of generate.py tests. Out, per set: NAME.pcm (16 kHz, 16 bit little endian) and NAME.json, a list of
{off, len, text, voice, words, ends}; ends are the samples, counted from off, at which the words end.
evaluate.py reads them, and so does tests/ear.rs through SAGE_EAR_SETS.
"""
import json
import os
import sys

import numpy as np

from acoustics import Set, heard, noise_bank, piece
from model import RATE_HZ

SETS = [  # name, dry set, SNR, seed
    ("held_15", "held", 15, 11), ("held_5", "held", 5, 12), ("held_clean", "held", None, 13), ("voices_15", "voices", 15, 14),
    ("seen_15", "seen", 15, 15), ("single_15", "single", 15, 16), ("festival_15", "festival", 15, 17),
    ("festival_clean", "festival", None, 18), ("stop_15", "stop", 15, 19), ("stop_5", "stop", 5, 20), ("stop_clean", "stop", None, 21),
    ("dense_15", "dense", 15, 22), ("hostile_15", "hostile", 15, 27), ("hostile_clean", "hostile", None, 23), ("festival_stop_15", "festival_stop", 15, 24),
    ("festival_hostile_15", "festival_hostile", 15, 25), ("val_stop_15", "val_stop", 15, 31), ("val_dense_15", "val_dense", 15, 32), ("val_hostile_15", "val_hostile", 15, 34),
    ("val_stop_5", "val_stop", 5, 33),
]


def write(folder, name, items):
    """items: (signal, lead, meta); writes one set, the json last."""
    meta, offset = [], 0
    with open(os.path.join(folder, name + ".pcm"), "wb") as out:
        for signal, lead, m in items:
            out.write((np.clip(signal, -1, 1) * 32767).astype("<i2").tobytes())
            meta.append(dict(off=offset, len=len(signal), text=m["text"], voice=m["voice"], words=m["words"],
                             ends=[lead + e for _, e in m["spans"]]))
            offset += len(signal)
    with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as out:
        json.dump(meta, out)
    print(f"{name}: {len(meta)} items, {offset / RATE_HZ / 60:.1f} min", flush=True)


def spoken(dry, bank, snr_db, seed):
    rng = np.random.default_rng(seed)
    for i, m in enumerate(dry.meta):
        signal, lead = heard(dry.samples(i), rng, bank, snr_db, reverb=.3, lead_s=.3, tail_s=.6, gain_db=rng.uniform(-24, 0))
        yield signal, lead, m


def noises(bank, minutes, seed):
    """Noise of every kind from -60 to -12 dB full scale, and digital silence; no words."""
    rng = np.random.default_rng(seed)
    kinds = sorted(bank) + ["silence"]
    for i in range(int(minutes * 3)):
        kind = kinds[i % len(kinds)]
        count = 20 * RATE_HZ
        level = [-60, -40, -25, -12][i // len(kinds) % 4]
        signal = np.zeros(count, np.float32) if kind == "silence" else piece(rng, bank, count, [kind]) * 10 ** (level / 20)
        yield signal, 0, dict(text=f"{kind} {level} dB", voice="", words=[], spans=[])


def main():
    tests, sets = sys.argv[1:3]
    os.makedirs(sets, exist_ok=True)
    bank = noise_bank(77, Set(os.path.join(tests, "babble")).wave, 30)
    for name, dry, snr_db, seed in SETS:
        write(sets, name, spoken(Set(os.path.join(tests, dry)), bank, snr_db, seed))
    write(sets, "noise", noises(bank, 30, 26))


if __name__ == "__main__":
    main()

"""Makes the training shards and the test sets.

python generate.py train DIR shards of speech, the first ones soon
python generate.py tests DIR                                     every set that evaluate.py and tests/ear.rs read
Out, per set: NAME.wav.npy (int16, 16 kHz, utterances end to end) and NAME.json (off, len, voice, text, words, spans).
Every set has a fixed seed, so a second run gives the same bytes with the same synthesiser packages.
"""
import argparse
import json
import os
import random
import time

import numpy as np

import text
from synth import Espeak, Flite, festival

ESPEAK = Espeak()
FLITE = None


def _sounds(words):
    return {ESPEAK.phonemes(w, v) for w in words for v in ("en-us", "en")}


KNOWN_SOUNDS = _sounds(text.KNOWN)


def sounds_known(word):
    """Whether a word sounds like a vocabulary word in either main accent."""
    return ESPEAK.phonemes(word, "en-us") in KNOWN_SOUNDS or ESPEAK.phonemes(word, "en") in KNOWN_SOUNDS


def line(rng, kind, split):
    """One line of text of the asked kind."""
    if kind == "mix":
        pick = rng.random()
        if pick < .40:
            return text.sentence(rng)
        if pick < .70:
            return text.scramble(rng)
        return text.filler(rng, "train", sounds_known)
    if kind == "focus":                      # "stop" among its neighbours and among everything else
        pick = rng.random()
        if pick < .3:
            return text.sentence(rng, intent="stop")
        words = (text.scramble(rng) if pick < .55 else text.filler(rng, "train", sounds_known, hostile=.6)).split()
        if pick < .8:
            words.insert(rng.randint(0, len(words)), "stop")
        return " ".join(words)
    if kind == "grammar":
        return text.sentence(rng, held_out=True)
    if kind == "single":
        return text.scramble(rng, 1)
    if kind == "stop":
        while True:
            out = text.sentence(rng, held_out=True, intent="stop")
            if "stop" in out:
                return out
    if kind == "hostile":                    # a neighbour of "stop" in about one word of seven
        return text.filler(rng, split, sounds_known, hostile=.15)
    if kind == "dense":                      # in two words of five
        return text.filler(rng, split, sounds_known)
    raise ValueError(kind)


def espeak_utterance(rng, words, split, accent):
    variants = {"train": text.VARIANTS_TRAIN, "val": text.VARIANTS_VAL, "test": text.VARIANTS_TEST}[split]
    variant = rng.choice(variants)
    voice = rng.choice(text.ACCENTS_HELD if accent == "held" else text.ACCENTS) + ("" if variant == "-" else "+" + variant)
    rate = min(270, max(95, int(rng.gauss(162, 32))))
    out = ESPEAK.say(words, voice, rate, rng.randint(20, 85), rng.randint(20, 90))
    return voice, out


def flite_utterance(rng, words, voice=None):
    global FLITE
    FLITE = FLITE or Flite()
    voice = voice or rng.choice(Flite.VOICES)
    return "flite-" + voice, FLITE.say(words, voice, rng.uniform(.72, 1.3), rng.uniform(75, 240), rng.uniform(.7, 1.6))


def write(path, utterances):
    """Writes one set; the json comes last, so a reader that finds it finds all."""
    meta, parts, offset = [], [], 0
    for voice, line_, (wave, spans) in utterances:
        wave = wave * (.5 / np.abs(wave).max())
        meta.append(dict(off=offset, len=len(wave), voice=voice, text=line_, words=[text.symbol(w) for w in line_.split()], spans=spans))
        offset += len(wave)
        parts.append((wave * 32767).astype(np.int16))
    np.save(path + ".wav.npy", np.concatenate(parts))
    with open(path + ".part", "w", encoding="utf-8") as out:
        json.dump(meta, out)
    os.replace(path + ".part", path + ".json")
    print(f"{path}: {len(meta)} utterances, {offset / 960000:.1f} min, {len({m['voice'] for m in meta})} voices, "
          f"{sum(len(m['words']) for m in meta)} words", flush=True)


def make(path, count, kind, seed, split="train", accent="trained", engine="espeak"):
    """Makes one set of count utterances."""
    rng, out = random.Random(seed), []
    while len(out) < count:
        words = line(rng, kind, split)
        voice, spoken = espeak_utterance(rng, words, split, accent) if engine == "espeak" else flite_utterance(rng, words)
        if spoken is not None:
            out.append((voice, words, spoken))
    write(path, out)


def make_festival(path, count, kind, seed, split="test"):
    """The third synthesiser, never trained on."""
    rng = random.Random(seed)
    lines = [line(rng, kind, split) for _ in range(count)]
    spoken = festival(lines, stretches=[rng.uniform(.85, 1.2) for _ in lines])
    write(path, [("festival-kdlpc", words, out) for words, out in zip(lines, spoken) if out is not None])


TESTS = [  # name, count, kind, seed, split, accent
    ("held", 600, "grammar", 101, "test", "held"), ("voices", 400, "grammar", 102, "test", "trained"),
    ("single", 400, "single", 103, "test", "held"), ("stop", 500, "stop", 107, "test", "held"),
    ("dense", 900, "dense", 104, "test", "held"), ("hostile", 900, "hostile", 108, "test", "held"),
    ("babble", 80, "dense", 105, "test", "trained"),
    ("seen", 300, "grammar", 106, "train", "trained"),
    ("val_stop", 400, "stop", 207, "val", "trained"), ("val_dense", 700, "dense", 204, "val", "trained"),
    ("val_hostile", 900, "hostile", 208, "val", "trained"),
    ("val_grammar", 150, "grammar", 201, "val", "trained"),
]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("what", choices=["train", "tests"])
    args.add_argument("dir")
    args.add_argument("--espeak", type=int, default=36000)
    args.add_argument("--flite", type=int, default=7200)
    args.add_argument("--focus", type=int, default=8000)
    a = args.parse_args()
    os.makedirs(a.dir, exist_ok=True)
    start = time.time()
    if a.what == "tests":
        for name, count, kind, seed, split, accent in TESTS:
            make(os.path.join(a.dir, name), count, kind, seed, split, accent)
        make_festival(os.path.join(a.dir, "festival"), 300, "grammar", 301)
        make_festival(os.path.join(a.dir, "festival_stop"), 150, "stop", 302)
        make_festival(os.path.join(a.dir, "festival_hostile"), 200, "hostile", 303)
    else:
        espeak, flite, shard = a.espeak, a.flite, 0
        while espeak > 0 or flite > 0:       # alternate, so that training may start on the first shards
            if espeak > 0:
                make(os.path.join(a.dir, f"e{shard:03}"), min(4000, espeak), "mix", 1000 + shard)
                espeak -= 4000
            if flite > 0:
                make(os.path.join(a.dir, f"f{shard:03}"), min(1200, flite), "mix", 5000 + shard, engine="flite")
                flite -= 1200
            shard += 1
        for k in range(a.focus // 4000):
            make(os.path.join(a.dir, f"s{k:03}"), 3000, "focus", 7000 + k)
            make(os.path.join(a.dir, f"t{k:03}"), 1000, "focus", 8000 + k, engine="flite")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

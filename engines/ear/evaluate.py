"""Figures of a net.

python evaluate.py ear.safetensors SETS_DIR sweep        choose the stop rule (validation sets only)
python evaluate.py ear.safetensors SETS_DIR STOP AMID    all figures with that rule
"""
import json
import os
import sys

import numpy as np
import torch

import text
from acoustics import heard, noise_bank
from model import features


def align(ref, hyp):
    """Edit-distance alignment: list of (index in ref or None, index in hyp or None)."""
    n, m = len(ref), len(hyp)
    cost = np.zeros((n + 1, m + 1), int)
    cost[:, 0], cost[0] = range(n + 1), range(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            cost[i, j] = min(cost[i - 1, j - 1] + (ref[i - 1] != hyp[j - 1]), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    out, i, j = [], n, m
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (ref[i - 1] != hyp[j - 1]):
            i, j = i - 1, j - 1
            out.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            out.append((i, None))
        else:
            j -= 1
            out.append((None, j))
    return out[::-1]


@torch.no_grad()
def posteriors(net, signal):
    return net(features(signal))[0].softmax(-1).numpy()


def words_of(p, stop_enough=.3, amid_enough=.8, enough=.4, frames=3, release=.1, after_frames=40):
    """List of (word, frame at which it is known), as src/engine/cpu/ear/decode.rs: a word is heard when its probability,
    summed over the last frames, is the largest of all words and large enough; "stop" has bars of its own, the higher
    one for 1.6 s after an unknown word."""
    sums = np.cumsum(np.vstack([np.zeros((frames, p.shape[1])), p]), 0)
    sums = sums[frames:] - sums[:-frames]
    out, held, stop, unknown, last = [], set(), text.SYMBOLS.index("stop"), len(text.SYMBOLS) - 1, -after_frames - 1
    for j, now in enumerate(sums):
        held = {s for s in held if now[s] >= release}
        if now[stop] >= (amid_enough if j - last <= after_frames else stop_enough) and stop not in held:
            held.add(stop)
            out.append(("stop", j))
        others = now.copy()
        others[[0, stop]] = 0
        best = int(others.argmax())
        if now[best] >= enough and best not in held and not (stop in held and now[stop] > now[best]):
            held.add(best)
            out.append((text.SYMBOLS[best], j))
            if best == unknown:
                last = j
    return out


def errors(ref, hyp):
    return sum(i is None or j is None or ref[i] != hyp[j] for i, j in align(ref, hyp))


_BANKS = {}


def word_errors(net, data, snr_db, count=10 ** 9):
    """Word error rate over a set in mixed noises."""
    key = id(data)
    if key not in _BANKS:
        _BANKS[key] = noise_bank(77, data.wave, 20)
    rng = np.random.default_rng(5)
    wrong = total = 0
    for i in range(min(count, len(data.meta))):
        signal, _ = heard(data.samples(i), rng, _BANKS[key], snr_db, reverb=.3, lead_s=.3, tail_s=.6, gain_db=-10)
        ref = data.meta[i]["words"]
        wrong += errors(ref, [w for w, _ in words_of(posteriors(net, signal))])
        total += len(ref)
    return wrong / total


def load(path):
    """A net from its weight file, so that the 16-bit rounding is part of every figure."""
    from safetensors import safe_open

    from model import Ear
    with safe_open(path, "pt") as source:
        state = {k: source.get_tensor(k).float() for k in source.keys()}
        looks = tuple(map(int, source.metadata()["looks"].split()))
    net = Ear(state["head.bias"].shape[0], channels=state["c2.bias"].shape[0], front=state["c1.bias"].shape[0], looks=looks)
    net.load_state_dict(state)
    return net.eval()


def mixed(folder, name):
    """Items (signal, meta) of a set of mix.py."""
    pcm = np.memmap(os.path.join(folder, name + ".pcm"), dtype="<i2", mode="r")
    with open(os.path.join(folder, name + ".json"), encoding="utf-8") as source:
        for m in json.load(source):
            yield np.asarray(pcm[m["off"]:m["off"] + m["len"]], np.float32) / 32768, m


def stops(p, net, *rule):
    """Milliseconds at which "stop" is known."""
    return [net.first_ms + net.FRAME_MS * j for w, j in words_of(p, *rule) if w == "stop"]


def caught(times, ends):
    """How many ends (samples) have a stop from 400 ms before to 250 ms after."""
    return sum(any(-400 <= t - e / 16 <= 250 for t in times) for e in ends)


def speech_minutes(x, m):
    """Minutes without the quiet that mix.py puts around speech."""
    return (len(x) - (14400 if m["words"] else 0)) / 960000


def stop_ends(m):
    return [e for w, e in zip(m["words"], m["ends"]) if w == "stop"]


def sweep(net, folder, stop_sets=("val_stop_15", "val_stop_5"), hostile="val_hostile_15"):
    """The stop rule's two bars against catches and false alarms, on validation voices and words only."""
    spoken = [[(posteriors(net, x), stop_ends(m)) for x, m in mixed(folder, n)] for n in stop_sets]
    other = [(posteriors(net, x), speech_minutes(x, m), "stop" in m["text"]) for x, m in mixed(folder, hostile)]
    minutes = sum(o[1] for o in other)
    for bar in (.2, .25, .3, .35, .4, .45, .5):
        for amid in (.6, .8, 1.0):
            shares = []
            for group in spoken:
                total = sum(len(e) for _, e in group)
                shares.append(sum(caught(stops(p, net, bar, amid), e) for p, e in group) / total)
            false = [sum(len(stops(p, net, bar, amid)) for p, _, inside in other if inside == which) for which in (False, True)]
            print(f"{bar} {amid}: " + " ".join(f"{n} {100 * s:.1f} %" for n, s in zip(stop_sets, shares))
                  + f", false {false[0] / minutes:.2f}/min, inside other words {false[1] / minutes:.2f}/min", flush=True)


def figures(net, folder, *rule):
    """Prints every figure of README.md."""
    for name in ("held_15", "held_5", "held_clean", "voices_15", "seen_15", "single_15", "festival_15", "festival_clean"):
        wrong = total = 0
        lags = []
        for x, m in mixed(folder, name):
            found = words_of(posteriors(net, x), *rule)
            for i, j in align(m["words"], [w for w, _ in found]):
                same = i is not None and j is not None and m["words"][i] == found[j][0]
                wrong += not same
                if same:
                    lags.append(net.first_ms + net.FRAME_MS * found[j][1] - m["ends"][i] / 16)
            total += len(m["words"])
        print(f"{name}: WER {100 * wrong / total:.2f} % of {total} words; delay median {np.median(lags):.0f} p95 {np.percentile(lags, 95):.0f} ms", flush=True)
    for name in ("stop_15", "stop_5", "stop_clean", "festival_stop_15"):
        hit = total = 0
        for x, m in mixed(folder, name):
            ends = stop_ends(m)
            hit += caught(stops(posteriors(net, x), net, *rule), ends)
            total += len(ends)
        print(f"{name}: caught within 250 ms {100 * hit / total:.2f} % of {total}", flush=True)
    for name in ("hostile_15", "hostile_clean", "dense_15", "festival_hostile_15", "noise"):
        count = inside = minutes = 0
        for x, m in mixed(folder, name):
            n = len(stops(posteriors(net, x), net, *rule))
            count += n
            inside += n if "stop" in m["text"] else 0
            minutes += speech_minutes(x, m)
        print(f"{name}: {count - inside} false stops in {minutes:.1f} min = {(count - inside) / minutes:.2f}/min; besides, {inside} in "
              "lines with stopwatch, nonstop, stopgap ...", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    ear = load(sys.argv[1])
    if sys.argv[3] == "sweep":
        sweep(ear, sys.argv[2])
    else:
        figures(ear, sys.argv[2], *map(float, sys.argv[3:]))

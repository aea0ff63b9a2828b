"""Rooms, noises and levels: one dry utterance in, what a microphone might hear out. All chance comes from the given generator."""
import json

import numpy as np
import scipy.fft

from model import RATE_HZ


class Set:
    """One generated set on disk."""

    def __init__(self, path):
        self.wave = np.load(path + ".wav.npy", mmap_mode="r")
        with open(path + ".json", encoding="utf-8") as source:
            self.meta = json.load(source)

    def samples(self, i):
        m = self.meta[i]
        return np.asarray(self.wave[m["off"]:m["off"] + m["len"]], np.float32) / 32768


def coloured(rng, count, slope):
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.maximum(np.arange(len(spectrum)) * RATE_HZ / count, 30)
    out = np.fft.irfft(spectrum * hz ** slope, count)
    return out / out.std()


def noise_bank(seed, speech, seconds=40):
    """White, pink, brown, babble of 3 to 8 voices, mains hum, motor whine, clicks, chords; each of unit rms."""
    rng = np.random.default_rng(seed)
    n = seconds * RATE_HZ
    t = np.arange(n) / RATE_HZ

    def babble(voices):
        out = np.zeros(n)
        for _ in range(voices):
            at = rng.integers(0, len(speech))
            out += np.take(speech, np.arange(at, at + n), mode="wrap").astype(np.float64)
        return out

    def hum(base):
        return sum(rng.uniform(.1, 1) / h * np.sin(2 * np.pi * base * h * t + rng.uniform(0, 6)) for h in range(1, 20)) + .05 * coloured(rng, n, -.5)

    def motor():
        wobble = np.interp(t, np.arange(seconds + 1), rng.standard_normal(seconds + 1))
        phase = 2 * np.pi * np.cumsum(rng.uniform(90, 400) * (1 + .08 * wobble)) / RATE_HZ
        return sum(rng.uniform(.2, 1) / h ** .7 * np.sin(h * phase) for h in range(1, 16)) + .4 * coloured(rng, n, -.3)

    def clicks():
        at = np.zeros(n)
        at[rng.integers(0, n, seconds * 6)] = rng.standard_normal(seconds * 6) * 20
        return np.convolve(at, rng.standard_normal(200) * np.exp(-np.arange(200) / 40), "same") + .1 * coloured(rng, n, -.5) * 10

    def chords():
        out = np.zeros(n)
        for start in range(0, n, RATE_HZ // 2):
            root = 110 * 2 ** (rng.integers(0, 24) / 12)
            length = min(n - start, RATE_HZ)
            tau = np.arange(length) / RATE_HZ
            for step in (0, rng.integers(3, 5), 7):
                for h in range(1, 6):
                    out[start:start + length] += np.sin(2 * np.pi * root * 2 ** (step / 12) * h * tau) / h * np.exp(-3 * tau)
        return out

    bank = {
        "white": [coloured(rng, n, 0)], "pink": [coloured(rng, n, -.5)], "brown": [coloured(rng, n, -1)],
        "babble": [babble(k) for k in (3, 5, 8)], "hum": [hum(f) for f in (50, 60, 100)],
        "motor": [motor() for _ in range(4)], "clicks": [clicks()], "chords": [chords()],
    }
    return {k: [(v / v.std()).astype(np.float32) for v in vs] for k, vs in bank.items()}


def room(rng):
    """An impulse response of T60 0.1 to 0.7 s: the direct sound and a decaying tail."""
    t60 = rng.uniform(.1, .7)
    n = int(t60 * RATE_HZ)
    out = rng.standard_normal(n, np.float32) * np.exp(-6.9 / n * np.arange(n, dtype=np.float32))
    out[:int(.002 * RATE_HZ)] = 0
    out *= 10 ** (-rng.uniform(0, 12) / 20) / max(1e-9, np.sqrt((out ** 2).sum()))
    out[0] = 1
    return out.astype(np.float32)


def piece(rng, bank, count, kinds=None):
    kind = bank[rng.choice(kinds or sorted(bank))]
    noise = kind[rng.integers(len(kind))]
    at = rng.integers(0, max(1, len(noise) - count))
    return np.take(noise, np.arange(at, at + count), mode="wrap")


def heard(speech, rng, bank, snr_db, kinds=None, reverb=.4, lead_s=None, tail_s=None, gain_db=None):
    """Pads, reverberates, adds noise at snr_db (None: clean) and sets the level. Returns (signal, samples of lead)."""
    lead = int((rng.uniform(.05, .5) if lead_s is None else lead_s) * RATE_HZ)
    tail = int((rng.uniform(.3, .6) if tail_s is None else tail_s) * RATE_HZ)
    out = np.zeros(lead + len(speech) + tail, np.float32)
    rms = np.sqrt((speech ** 2).mean()) + 1e-6
    out[lead:lead + len(speech)] = speech
    if rng.random() < reverb:
        tail_ = room(rng)
        n = scipy.fft.next_fast_len(len(out) + len(tail_) - 1, real=True)
        out = scipy.fft.irfft(scipy.fft.rfft(out, n) * scipy.fft.rfft(tail_, n), n)[:len(out)]
    if snr_db is not None:
        noise = piece(rng, bank, len(out), kinds)
        out = out + noise * (rms * 10 ** (-snr_db / 20) / (np.sqrt((noise ** 2).mean()) + 1e-9))
    gain = 10 ** ((rng.uniform(-32, 4) if gain_db is None else gain_db) / 20)
    return np.clip(out * gain, -1, 1), lead

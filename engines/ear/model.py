"""The log-mel front end and the net, as the Rust engine runs them.

In: 16 kHz samples in [-1, 1]. Out: one row of logits every 40 ms (blank, words, <unk>).
"""
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

RATE_HZ, HOP, WINDOW, FFT, BANDS = 16000, 160, 400, 512, 40
FLOOR, MEAN, SCALE = 1e-6, -1.5, 4.0


def mel_matrix(warp=1.0, low_hz=60.0, high_hz=7600.0):
    """(257, 40): triangles of peak 1, linear in Hz, edges equally spaced in mel = 2595 log10(1 + f / 700), times warp."""
    def mel(f):
        return 2595 * np.log10(1 + f / 700)
    edges = 700 * (10 ** (np.linspace(mel(low_hz), mel(high_hz), BANDS + 2) / 2595) - 1)
    edges = np.minimum(edges * warp, 7990.0)
    hz = np.arange(FFT // 2 + 1) * RATE_HZ / FFT
    out = np.zeros((len(hz), BANDS), np.float32)
    for m in range(BANDS):
        a, b, c = edges[m:m + 3]
        out[:, m] = np.maximum(0, np.minimum((hz - a) / max(b - a, 1e-3), (c - hz) / max(c - b, 1e-3)))
    return torch.from_numpy(out)


HANN = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(WINDOW) / WINDOW)
MEL = mel_matrix()


def power(samples):
    """(B, N) -> (B, T, 257); frame f covers samples [160 f, 160 f + 400)."""
    spectrum = torch.fft.rfft(samples.unfold(1, WINDOW, HOP) * HANN, FFT)
    return spectrum.real ** 2 + spectrum.imag ** 2


def log_mel(power_, matrix=None):
    """Fixed normalisation: no statistics to follow while streaming."""
    return (torch.log(power_ @ (MEL if matrix is None else matrix) + FLOOR) - MEAN) / SCALE


def features(samples):
    """A whole signal (numpy) -> (1, T, 40), T a multiple of 4."""
    out = log_mel(power(torch.from_numpy(np.asarray(samples, np.float32))[None]))
    return out[:, :out.shape[1] // 4 * 4]


class Block(nn.Module):
    """x + B relu(A depthwise(LayerNorm(x))); look frames of right context."""

    def __init__(self, channels, kernel, look):
        super().__init__()
        self.kernel, self.look = kernel, look
        self.ln = nn.LayerNorm(channels)
        self.dw = nn.Parameter(torch.randn(channels, 1, kernel) / kernel ** .5)
        self.db = nn.Parameter(torch.zeros(channels))
        self.a = nn.Linear(channels, 2 * channels)
        self.b = nn.Linear(2 * channels, channels)

    def forward(self, x):
        h = self.ln(x).transpose(1, 2)
        h = F.conv1d(F.pad(h, (self.kernel - 1 - self.look, self.look)), self.dw, self.db, groups=h.shape[1]).transpose(1, 2)
        return x + self.b(F.relu(self.a(h))).float()


class Ear(nn.Module):
    """log-mel at 100/s -> conv k5 s2 -> conv k5 s2 -> residual depthwise blocks at 25/s -> logits."""

    FRAME_MS = 40

    def __init__(self, symbols, channels=192, front=96, kernel=7, looks=(1, 1, 0, 0, 0)):
        super().__init__()
        self.shape = dict(symbols=symbols, channels=channels, front=front, kernel=kernel, looks=tuple(looks))
        self.c1 = nn.Conv1d(BANDS, front, 5, 2)
        self.c2 = nn.Conv1d(front, channels, 5, 2)
        self.blocks = nn.ModuleList(Block(channels, kernel, look) for look in looks)
        self.ln = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, symbols)
        # output j needs mel frames up to 4 (j + looks) + 3: the time in ms at which output 0 can be computed
        self.first_ms = 30 + 25 + 40 * sum(looks)

    @staticmethod
    def _strided(x, conv):
        """A causal k5 s2 convolution of (B, T, C) as one matrix product (faster than conv1d in bf16)."""
        return F.linear(F.pad(x, (0, 0, 3, 0)).unfold(1, 5, 2).flatten(2), conv.weight.flatten(1), conv.bias)

    def forward(self, x):
        h = F.relu(self._strided(x, self.c1))
        h = F.relu(self._strided(h, self.c2)).float()
        for block in self.blocks:
            h = block(h)
        return self.head(self.ln(h)).float()

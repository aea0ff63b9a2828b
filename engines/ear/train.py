"""Trains the ear on one thread: python train.py TRAIN_DIR DEV_SET OUT.pt --minutes 58

New shards that appear in TRAIN_DIR while it runs are taken up at the next pass. A checkpoint (running mean of the
weights) is written every two minutes. Windowed CTC: a word may only be emitted in a window after its known end.
"""
import argparse
import copy
import glob
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import text
from acoustics import Set, heard, noise_bank, piece
from evaluate import word_errors
from model import BANDS, HOP, RATE_HZ, WINDOW, Ear, log_mel, mel_matrix, power

# the window in which a word may be emitted: milliseconds from its end to the instant its frame can be computed
WINDOW_MS = (-30, 225)
STOP_WINDOW_MS = (0, 200)

args = argparse.ArgumentParser()
args.add_argument("train")
args.add_argument("dev")
args.add_argument("out")
args.add_argument("--minutes", type=float, default=58)
args.add_argument("--batch", type=int, default=32)
args.add_argument("--lr", type=float, default=3e-3)
args.add_argument("--seed", type=int, default=1)
args.add_argument("--init", help="go on from this checkpoint")
args.add_argument("--warm", type=int, default=200, help="steps of warm-up")
args.add_argument("--mean", type=float, default=.9985, help="share of the running mean of the weights kept at each step")
args.add_argument("--focus", type=int, default=1, help="how often a pass sees each utterance of the stop shards")
a = args.parse_args()

torch.set_num_threads(1)
torch.manual_seed(a.seed)
rng = np.random.default_rng(a.seed)
IDS = {s: i for i, s in enumerate(text.SYMBOLS)}
STOP = IDS["stop"]
WARPS = torch.stack([mel_matrix(w) for w in np.linspace(.80, 1.25, 19)])
net = Ear(len(text.SYMBOLS))
if a.init:
    net.load_state_dict(torch.load(a.init)["state"])
mean = copy.deepcopy(net).eval()
dev = Set(a.dev)
print("parameters", sum(p.numel() for p in net.parameters()), "first frame ms", net.first_ms, flush=True)
shards = {}


def refresh():
    """Takes up new shards; returns (shard, index) of every utterance."""
    for path in sorted(glob.glob(os.path.join(a.train, "*.json"))):
        name = path[:-5]
        if name not in shards:
            shards[name] = Set(name)
    return [(n, i) for n, s in shards.items() for i in range(len(s.meta)) for _ in range(a.focus if os.path.basename(n)[0] in "st" else 1)]


refresh()
first = shards[sorted(shards)[0]]
quiet = np.concatenate([first.wave[m["off"]:m["off"] + m["len"]] for m in first.meta[:1500] if "stop" not in m["words"]])
bank = noise_bank(1, quiet)


def stretch(f, count):
    """A smooth local time warp that keeps the length; returns the map of old to new milliseconds."""
    kx = np.linspace(0, count, max(3, count // 15))
    ky = np.cumsum(np.r_[0, np.exp(.25 * rng.standard_normal(len(kx) - 1))])
    ky *= count / ky[-1]
    at = torch.from_numpy(np.interp(np.arange(count), ky, kx).clip(0, count - 1.001).astype(np.float32))
    k = at.long()
    w = (at - k)[:, None]
    f[:count] = f[k] * (1 - w) + f[(k + 1).clamp(max=count - 1)] * w
    return kx * 10, ky * 10


def batch(picks):
    """Augmented features, frame counts, targets, emission mask."""
    signals, metas = [], []
    for name, i in picks:
        if rng.random() < .04:               # noise alone: nothing may be heard
            length = int(rng.uniform(.8, 2.5) * RATE_HZ)
            signals.append(piece(rng, bank, length) * 10 ** (rng.uniform(-70, -8) / 20) if rng.random() < .9 else np.zeros(length, np.float32))
            metas.append((0, dict(words=[], spans=[])))
            continue
        signal, lead = heard(shards[name].samples(i), rng, bank, None if rng.random() < .08 else rng.uniform(-2, 28))
        signals.append(signal)
        metas.append((lead, shards[name].meta[i]))
    step = HOP * 4
    n = (max(map(len, signals)) - (WINDOW - HOP)) // step * step + step + WINDOW - HOP
    x = torch.zeros(len(signals), n)
    for b, s in enumerate(signals):
        x[b, :len(s)] = torch.from_numpy(s)
    f = log_mel(power(x), WARPS[torch.from_numpy(rng.integers(0, len(WARPS), len(signals)))])
    maps = [None] * len(signals)
    for b, s in enumerate(signals):
        if rng.random() < .6:
            maps[b] = stretch(f[b], (len(s) - WINDOW) // HOP + 1)
    blur = torch.from_numpy(rng.uniform(-.15, .25, (len(signals), 1, 1)).astype(np.float32))
    p = F.pad(f, (1, 1), mode="replicate")
    f = (1 - 2 * blur) * f + blur * (p[..., :-2] + p[..., 2:])
    u = torch.linspace(-1, 1, BANDS)
    c = torch.from_numpy(rng.standard_normal((len(signals), 3)).astype(np.float32)) * .2
    f = f + (c[:, :1] * u + c[:, 1:2] * torch.cos(2 * u) + c[:, 2:] * torch.sin(4 * u))[:, None]
    for b in range(len(signals)):
        for _ in range(2):
            if rng.random() < .4:
                k = rng.integers(0, BANDS - 5)
                f[b, :, k:k + rng.integers(1, 6)] = f[b].mean()
    frames = f.shape[1] // 4
    lens = [min(frames, (len(s) - WINDOW) // HOP // 4) for s in signals]
    targets = [[IDS[w] for w in m["words"]] for _, m in metas]
    mask = torch.full((len(signals), frames, len(text.SYMBOLS)), -12.0)
    mask[:, :, 0] = 0
    for b, (lead, m) in enumerate(metas):
        for w, (_, end) in zip(m["words"], m["spans"]):
            ms = (lead + end) / 16
            if maps[b]:
                ms = np.interp(ms, *maps[b])
            low, high = STOP_WINDOW_MS if IDS[w] == STOP else WINDOW_MS
            j0 = math.ceil((ms + low - net.first_ms) / net.FRAME_MS)
            j1 = math.floor((ms + high - net.first_ms) / net.FRAME_MS)
            mask[b, max(0, j0):max(0, j1 + 1), IDS[w]] = 0
    return f, lens, targets, mask


def loss_of(logits, lens, targets, mask):
    """Windowed CTC. Torch's gradient is wrong for scores that are not normalised, so the state posteriors are read
    out of it (it returns exp(score) - posterior) and -sum posterior log p is minimised instead."""
    logp = logits.log_softmax(-1)
    counts = torch.tensor([len(t) for t in targets])
    frames = torch.tensor(lens)
    flat = torch.tensor(sum(targets, []))
    score = (logp + mask).detach().requires_grad_()
    value = F.ctc_loss(score.transpose(0, 1), flat, frames, counts, zero_infinity=True, reduction="sum")
    grad, = torch.autograd.grad(value, score)
    inside = (torch.arange(score.shape[1])[None] < frames[:, None])[:, :, None]
    posterior = (score.detach().exp() - grad) * inside
    surrogate = -(posterior * logp).sum() / len(targets)
    return surrogate + (value.detach() / len(targets) - surrogate.detach())


def save():
    torch.save(dict(shape=mean.shape, state=mean.state_dict()), a.out + ".part")
    os.replace(a.out + ".part", a.out)


decay = [p for n, p in net.named_parameters() if p.ndim > 1 and "dw" not in n]
plain = [p for n, p in net.named_parameters() if not (p.ndim > 1 and "dw" not in n)]
opt = torch.optim.AdamW([dict(params=decay, weight_decay=.02), dict(params=plain, weight_decay=0)], lr=a.lr, betas=(.9, .98))
start, step, seen, losses, last_check, away, making = time.time(), 0, 0, [], 0.0, 0.0, 0.0
done = False
while not done:
    pool = refresh()
    order = rng.permutation(len(pool))[:24000]           # look for new shards at least every 24,000 utterances
    lengths = np.array([shards[n].meta[i]["len"] for n, i in pool])
    chunks = []
    for c in range(0, len(order), a.batch * 20):
        block = order[c:c + a.batch * 20]
        block = block[np.argsort(lengths[block])]
        chunks += [block[k:k + a.batch] for k in range(0, len(block), a.batch)]
    for k in rng.permutation(len(chunks)):
        spent = (time.time() - start - away) / (a.minutes * 60)
        if spent >= 1:
            done = True
            break
        lr = a.lr * min(1, (step + 1) / a.warm) * (.5 + .5 * math.cos(math.pi * min(1, spent))) + 1e-5
        for g in opt.param_groups:
            g["lr"] = lr
        t = time.time()
        f, lens, targets, mask = batch([pool[i] for i in chunks[k]])
        making += time.time() - t
        net.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(f)
        loss = loss_of(logits, lens, targets, mask)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        opt.step()
        step += 1
        seen += len(chunks[k])
        losses.append(loss.item())
        keep = min(a.mean, (1 + step) / (20 + step))
        with torch.no_grad():
            for p, q in zip(mean.parameters(), net.parameters()):
                p.lerp_(q, 1 - keep)
        if step % 200 == 0:
            print(f"step {step} seen {seen} of {len(pool)} t {time.time() - start - away:.0f} s (making {making:.0f} s) "
                  f"loss {np.mean(losses[-200:]):.3f} lr {lr:.5f}", flush=True)
        if time.time() - start - away - last_check > 300:
            t = time.time()
            wer = word_errors(mean, dev, 15, 100)
            save()
            away += time.time() - t
            last_check = time.time() - start - away
            print(f"== {last_check:.0f} s: validation WER at 15 dB {100 * wer:.1f} %", flush=True)
save()
print(f"done: {step} steps, {seen} utterances, {time.time() - start - away:.0f} s, validation WER "
      f"15 dB {100 * word_errors(mean, dev, 15):.1f} %, 5 dB {100 * word_errors(mean, dev, 5):.1f} %")

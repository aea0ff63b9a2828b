"""Trains the eye on pictures made by `cargo run --release --example eye_dataset`. One thread.

    train.py DATA --out FOLDER --minutes 14

DATA holds train, held and new (`.rgb`, `.boxes`). Writes log.jsonl, eye.safetensors (f16, batch norms folded) and eye.pt.
"""
import argparse
import io
import json
import os
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
import numpy as np
import torch
from PIL import Image

import network as N


def load(folder, name):
    pictures = np.memmap(os.path.join(folder, name + ".rgb"), np.uint8, "r").reshape(-1, 120, 160, 3)
    rows = np.fromfile(os.path.join(folder, name + ".boxes"), np.float32).reshape(-1, 8)
    cut = np.searchsorted(rows[:, 0], np.arange(len(pictures) + 1))
    return pictures, [rows[a:b, 1:] for a, b in zip(cut[:-1], cut[1:])]


def augment(r, picture, boxes):
    """Flip, JPEG, gain, offset, tint, a little noise. Distances stay true: nothing is scaled or moved."""
    if r.random() < 0.5:
        picture = picture[:, ::-1]
        boxes = boxes.copy()
        boxes[:, [1, 3]] = 160 - boxes[:, [3, 1]]
    if r.random() < 0.35:
        f = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(f, "JPEG", quality=int(r.integers(30, 95)))
        picture = np.asarray(Image.open(f))
    x = picture.astype(np.float32) * np.float32(1 / 255)
    x = x * (r.uniform(0.7, 1.3) * r.uniform(0.86, 1.14, 3)).astype(np.float32) + np.float32(r.uniform(-0.08, 0.08))
    if r.random() < 0.3:
        x += r.normal(0, 0.03, x.shape).astype(np.float32)
    if r.random() < 0.3:  # another hue for everything: a turn about the grey axis
        x = x @ hue_turn(r.uniform(-3.14, 3.14) if r.random() < 0.3 else r.uniform(-0.4, 0.4))
    return np.clip(x, 0, 1), boxes


def hue_turn(a):
    c, s, k = np.cos(a), np.sin(a), np.sqrt(1 / 3)
    m = np.full((3, 3), (1 - c) / 3)
    return (m + np.eye(3) * c + np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * (k * s)).astype(np.float32)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data")
    a.add_argument("--out", required=True)
    a.add_argument("--minutes", type=float, default=14, help="processor time to spend")
    a.add_argument("--wall-minutes", type=float, default=60, help="give up the rest of the processor time after this long")
    a.add_argument("--batch", type=int, default=16)
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--eval-every", type=float, default=100)
    a = a.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    os.makedirs(a.out, exist_ok=True)
    log = open(os.path.join(a.out, "log.jsonl"), "w")

    def say(**k):
        log.write(json.dumps(k) + "\n")
        log.flush()
        print(json.dumps(k), flush=True)

    pictures, truths = load(a.data, "train")
    held, new = load(a.data, "held"), load(a.data, "new")
    m = N.Eye().to(memory_format=torch.channels_last)
    decay = [p for p in m.parameters() if p.dim() > 1]
    rest = [p for p in m.parameters() if p.dim() <= 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0}], lr=a.lr)
    say(pictures=len(pictures), parameters=sum(p.numel() for p in m.parameters()), args=vars(a))
    average = {k: v.clone() for k, v in m.state_dict().items()}
    class_weight = torch.tensor([1.0, 1.0, 1.0, 1.6])  # the hand is the weak class

    def test(state, data, n):
        e = N.Eye()
        e.load_state_dict(state)
        e.eval()
        found = []
        for i in range(0, n, 50):
            x = torch.from_numpy(np.array(data[0][i:min(n, i + 50)])).permute(0, 3, 1, 2).float() / 255
            found += N.detect(e, x)
        return N.score(found, data[1][:n])

    r = np.random.default_rng(a.seed)
    spent, step, last, mean, order = 0.0, 0, 0.0, None, []
    start, done = time.time(), 0.0
    while done < 1:
        t = time.process_time()
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1, (step + 1) / 150) * min(1, (1 - min(done, 1)) / 0.65 + 0.003)
        if len(order) < a.batch:
            order = r.permutation(len(pictures)).tolist()
        pick, order = order[:a.batch], order[a.batch:]
        xs, ts = [], []
        for i in pick:
            x, b = augment(r, pictures[i], truths[i])
            xs.append(x)
            ts.append(N.targets(b))
        x = torch.from_numpy(np.stack(xs)).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16):  # 1.7 times the speed on a CPU with AVX512_BF16; the weights stay f32
            out = m(x)
        losses = N.loss([o.float() for o in out], [torch.from_numpy(np.stack(z)) for z in zip(*ts)], class_weight)
        total = losses[0] + 2.0 * losses[1] + 0.7 * losses[2]
        opt.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 10.0)
        opt.step()
        step += 1
        with torch.no_grad():  # an average of the weights over about the last 300 steps is what ships
            keep = min(0.997, step / (step + 10))
            for k, v in m.state_dict().items():
                if v.dtype.is_floating_point:
                    average[k].lerp_(v, 1 - keep)
                else:
                    average[k].copy_(v)
        v = np.array([float(z.detach()) for z in losses])
        mean = v if mean is None else 0.98 * mean + 0.02 * v
        spent += time.process_time() - t
        done = max(spent / (a.minutes * 60), (time.time() - start) / (a.wall_minutes * 60))
        if step == 30 or spent - last >= a.eval_every:
            res = {}
            if step > 30:
                last = spent
                res = test(average, held, 200)
                torch.save(average, os.path.join(a.out, "eye.pt"))
            say(step=step, s=round(spent), wall_s=round(time.time() - start), img_s=round(step * a.batch / spent, 1), losses=[round(float(q), 3) for q in mean], **res)
    torch.save(average, os.path.join(a.out, "eye.pt"))
    e = N.Eye()
    e.load_state_dict(average)
    from safetensors.torch import save_file
    folded = {k: v.half().contiguous() for k, v in N.fold(e).items()}
    save_file(folded, os.path.join(a.out, "eye.safetensors"), metadata={"format": "pt"})
    say(final="new seeds, trained families", **test(average, new, len(new[0])))
    say(final="held-out families and hues", **test(average, held, len(held[0])))
    say(steps=step, processor_s=round(spent), wall_s=round(time.time() - start), epochs=round(step * a.batch / len(pictures), 1))


if __name__ == "__main__":
    main()

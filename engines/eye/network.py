"""The eye's network, its targets and its loss: centre points on a stride-4 grid (after CenterNet, Zhou et al. 2019, and FCOS).

Input: 160x120 RGB, (u8 / 255 - 0.45) * 4. Output a cell: 4 heatmaps (person, obstacle, charger, hand), 4 distances to the box's
sides (exp, in cells) and the logarithm of the distance in metres. All convolutions are plain; batch norms are folded for use.
"""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

CLASSES = ["person", "obstacle", "charger", "hand"]
STRIDE, GRID_H, GRID_W = 4, 30, 40
WIDTHS, NECK, HEAD = (16, 32, 64, 96, 128), 32, 48


class Conv(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, i, o, stride=1):
        super().__init__()
        self.c = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.n = nn.BatchNorm2d(o)

    def forward(self, x):
        return F.relu(self.n(self.c(x)), inplace=True)


class Residual(nn.Module):
    """x + two convolutions, then ReLU."""

    def __init__(self, c):
        super().__init__()
        self.a, self.c, self.n = Conv(c, c), nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(x + self.n(self.c(self.a(x))), inplace=True)


class Eye(nn.Module):
    def __init__(self):
        super().__init__()
        a, b, c, d, e = WIDTHS
        self.stem = Conv(3, a, 2)
        self.d4, self.r4 = Conv(a, b, 2), Residual(b)
        self.d8, self.r8 = Conv(b, c, 2), Residual(c)
        self.d16, self.r16 = Conv(c, d, 2), Residual(d)
        self.d32, self.r32 = Conv(d, e, 2), Residual(e)
        self.l4, self.l8, self.l16, self.l32 = (nn.Conv2d(i, NECK, 1) for i in (b, c, d, e))
        self.m16, self.m8 = Conv(NECK, NECK), Conv(NECK, NECK)
        self.head = Conv(NECK, HEAD)
        self.out = nn.Conv2d(HEAD, 9, 1)
        with torch.no_grad():
            self.out.bias[:4] = -4.6
            self.out.bias[4:8] = 1.5
            self.out.bias[8] = 0.8

    def forward(self, x):
        """x: pixels in 0..1. Returns heat logits [n, 4], distances to the sides in cells [n, 4], log metres [n, 1]."""
        x = (x - 0.45) * 4
        f4 = self.r4(self.d4(self.stem(x)))
        f8 = self.r8(self.d8(f4))
        f16 = self.r16(self.d16(f8))
        f32 = self.r32(self.d32(f16))

        def up(y, like):
            return F.interpolate(y, size=like.shape[-2:], mode="nearest")

        y = self.m16(self.l16(f16) + up(self.l32(f32), f16))
        y = self.m8(self.l8(f8) + up(y, f8))
        o = self.out(self.head(self.l4(f4) + up(y, f4)))
        return o[:, :4], torch.exp(o[:, 4:8].clamp(-4, 4)), o[:, 8:]


def fold(model):
    """Name -> tensor with the batch norms folded into the convolutions: `d4.weight`, `d4.bias`, `r4.a.weight`, `r4.b.weight`, ..."""
    m, out = copy.deepcopy(model).eval(), {}

    def fused(conv, norm, name):
        f = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
        out[name + ".weight"], out[name + ".bias"] = f.weight.detach(), f.bias.detach()

    for name, x in m.named_children():
        if isinstance(x, Conv):
            fused(x.c, x.n, name)
        elif isinstance(x, Residual):
            fused(x.a.c, x.a.n, name + ".a")
            fused(x.c, x.n, name + ".b")
        else:
            out[name + ".weight"], out[name + ".bias"] = x.weight.detach(), x.bias.detach()
    return out


def targets(boxes):
    """Heat [4, h, w], sides [4, h, w], log metres [h, w], weight of the box loss [h, w], weight of the heat loss [4, h, w].

    boxes: rows (class, x0, y0, x1, y1, metres, hard), pixels of the 160x120 picture, nearest last. Hard ones teach nothing:
    their cells are left out of the heat loss.
    """
    import numpy as np
    heat, sides = np.zeros((4, GRID_H, GRID_W), np.float32), np.zeros((4, GRID_H, GRID_W), np.float32)
    metres, weight, care = np.zeros((GRID_H, GRID_W), np.float32), np.zeros((GRID_H, GRID_W), np.float32), np.ones((4, GRID_H, GRID_W), np.float32)
    xs, ys = np.arange(GRID_W, dtype=np.float32)[None], np.arange(GRID_H, dtype=np.float32)[:, None]
    for c, x0, y0, x1, y1, d, hard in sorted(boxes.tolist(), key=lambda b: -(b[3] - b[1]) * (b[4] - b[2])):  # small ones on top
        c, x0, y0, x1, y1 = int(c), x0 / STRIDE, y0 / STRIDE, x1 / STRIDE, y1 / STRIDE
        cx, cy, bw, bh = (x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5, x1 - x0, y1 - y0
        if hard:
            care[c, max(0, int(y0)):int(y1) + 1, max(0, int(x0)):int(x1) + 1] = 0
            continue
        ix, iy = int(np.clip(np.rint(cx), 0, GRID_W - 1)), int(np.clip(np.rint(cy), 0, GRID_H - 1))
        sx, sy = max(0.5, bw * 0.11), max(0.5, bh * 0.11)
        g = np.exp(-((xs - ix) ** 2 / (2 * sx * sx) + (ys - iy) ** 2 / (2 * sy * sy)))
        np.maximum(heat[c], g, out=heat[c])
        care[c, iy, ix] = 1
        near = (g > 0.55) & (xs + 0.5 - x0 > 0.02) & (x1 - xs - 0.5 > 0.02) & (ys + 0.5 - y0 > 0.02) & (y1 - ys - 0.5 > 0.02)
        j, i = np.nonzero(near)
        sides[:, j, i] = i + 0.5 - x0, j + 0.5 - y0, x1 - i - 0.5, y1 - j - 0.5
        metres[j, i], weight[j, i] = np.log(d), g[j, i]
    return heat, sides, metres, weight, care


def loss(out, target, class_weight):
    """Focal loss on the heat (alpha 2, beta 4), GIoU on the boxes, absolute error of log metres."""
    heat, sides, log_m = out
    t_heat, t_sides, t_metres, weight, care = target
    p = torch.sigmoid(heat).clamp(1e-4, 1 - 1e-4)
    pos = (t_heat > 0.999).float()
    w = care * class_weight.view(1, 4, 1, 1)
    n = pos.sum().clamp(min=1)
    focal = -((pos * (1 - p) ** 2 * p.log() + (1 - pos) * (1 - t_heat) ** 4 * p ** 2 * (1 - p).log()) * w).sum() / n
    on = weight > 0
    a, b, k = sides.permute(0, 2, 3, 1)[on], t_sides.permute(0, 2, 3, 1)[on], weight[on]
    total = k.sum().clamp(min=1e-6)

    def rect(f):
        return (f(a[:, 0], b[:, 0]) + f(a[:, 2], b[:, 2])) * (f(a[:, 1], b[:, 1]) + f(a[:, 3], b[:, 3]))

    def area(q):
        return (q[:, 0] + q[:, 2]) * (q[:, 1] + q[:, 3])

    inter, hull = rect(torch.min), rect(torch.max)
    union = area(a) + area(b) - inter
    box = ((1 - inter / union + (hull - union) / hull) * k).sum() / total
    dist = ((log_m[:, 0][on] - t_metres[on]).abs() * k).sum() / total
    return focal, box, dist


@torch.no_grad()
def detect(model, x, top=60):
    """Boxes of each picture, [n, 7]: class, score, x0, y0, x1, y1 (160x120 pixels), metres; best first, no class twice on one spot."""
    import numpy as np
    heat, sides, log_m = model(x)
    p = torch.sigmoid(heat)
    p = p * (F.max_pool2d(p, 3, 1, 1) == p)
    n, _, h, w = p.shape
    v, i = p.flatten(1).topk(top)
    c, j = i // (h * w), i % (h * w)
    d = sides.flatten(2).gather(2, j[:, None].expand(-1, 4, -1))
    m = torch.exp(log_m.flatten(1).gather(1, j))
    cx, cy = (j % w) + 0.5, torch.div(j, w, rounding_mode="floor") + 0.5
    box = torch.stack([(cx - d[:, 0]).clamp(min=0), (cy - d[:, 1]).clamp(min=0), (cx + d[:, 2]).clamp(max=w), (cy + d[:, 3]).clamp(max=h)], -1) * STRIDE
    out = []
    for k in range(n):
        rows, keep = torch.cat([c[k, :, None].float(), v[k, :, None], box[k], m[k, :, None]], 1).numpy(), []
        for q in rows:
            if q[1] < 0.02:
                break
            if all(o[0] != q[0] or iou(q[2:6], o[2:6]) < 0.6 for o in keep):
                keep.append(q)
        out.append(np.array(keep).reshape(-1, 7))
    return out


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return 0.0 if w <= 0 or h <= 0 else w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def score(found, truths):
    """AP at IoU 0.5 a class (area under the interpolated curve), their mean, and the median relative error of the distance.
    Detections of hard things count neither way (VOC)."""
    import numpy as np
    res, errors = {}, []
    for c, name in enumerate(CLASSES):
        total = sum(int(((t[:, 0] == c) & (t[:, 6] == 0)).sum()) for t in truths)
        ranked = sorted(((d[1], k, d) for k, ds in enumerate(found) for d in ds if d[0] == c), key=lambda z: -z[0])
        used, hits = set(), []
        for _, k, d in ranked:
            best = max(((iou(d[2:6], t[1:5]), j) for j, t in enumerate(truths[k]) if t[0] == c), default=(0, -1))
            if best[0] >= 0.5 and truths[k][best[1]][6]:
                continue
            good = best[0] >= 0.5 and (k, best[1]) not in used
            hits.append(good)
            if good:
                used.add((k, best[1]))
                if d[1] > 0.3:
                    errors.append(abs(d[6] / truths[k][best[1]][5] - 1))
        tp = np.cumsum(hits) if hits else np.zeros(1)
        recall, precision = tp / max(1, total), np.maximum.accumulate((tp / np.arange(1, len(tp) + 1))[::-1])[::-1]
        res[name] = round(float(np.sum(np.diff(np.concatenate([[0], recall])) * precision)), 4)
    res["mAP50"] = round(float(np.mean([res[c] for c in CLASSES])), 4)
    res["distance_error"] = round(float(np.median(errors)), 4) if errors else None
    return res

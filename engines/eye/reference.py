"""Writes what the Rust engine is compared with: one reduced picture and torch's output for it with the shipped (f16) weights.

    reference.py DATA eye.safetensors FOLDER

FOLDER gets picture.rgb (u8, 120 x 160 x 3) and grid.f16 (30 x 40 x 9: 4 heat logits, 4 log sides in cells, log metres).
"""
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

PICTURE = 12  # of the held-out set


def grid(w, x):
    """The folded network, written out a second time from the file alone."""
    w = {k: v.float() for k, v in w.items()}

    def conv(x, name, stride=1, relu=True, add=None):
        y = F.conv2d(x, w[name + ".weight"], w[name + ".bias"], stride, w[name + ".weight"].shape[-1] // 2)
        y = y if add is None else y + add
        return F.relu(y) if relu else y

    def stage(x, n):
        x = conv(x, "d" + n, 2)
        return conv(conv(x, f"r{n}.a"), f"r{n}.b", add=x)

    f4 = stage(conv((x - 0.45) * 4, "stem", 2), "4")
    f8 = stage(f4, "8")
    f16 = stage(f8, "16")
    y = conv(stage(f16, "32"), "l32", relu=False)
    for lateral, f, merge in (("l16", f16, "m16"), ("l8", f8, "m8"), ("l4", f4, None)):
        y = conv(f, lateral, relu=False) + F.interpolate(y, size=f.shape[-2:], mode="nearest")
        y = conv(y, merge) if merge else y
    return conv(conv(y, "head"), "out", relu=False)


def main():
    data, weights, out = sys.argv[1:4]
    os.makedirs(out, exist_ok=True)
    picture = np.array(np.memmap(os.path.join(data, "held.rgb"), np.uint8, "r").reshape(-1, 120, 160, 3)[PICTURE])
    with torch.no_grad():
        g = grid(load_file(weights), torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
    picture.tofile(os.path.join(out, "picture.rgb"))
    g[0].permute(1, 2, 0).contiguous().numpy().astype(np.float16).tofile(os.path.join(out, "grid.f16"))
    print("heat", float(torch.sigmoid(g[0, :4]).max()))


if __name__ == "__main__":
    main()

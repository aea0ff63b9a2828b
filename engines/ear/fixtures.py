"""The small sets that tests/ear.rs carries: python fixtures.py ear.safetensors SETS_DIR TESTS_EAR_DIR

reference.safetensors: two seconds of sound and this net's logits in batch form.
heard.adpcm, heard.json: items of every kind, IMA ADPCM of 4 bits a sample, each item starting afresh, two samples a
byte, low half first.
"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import save_file

import evaluate
from model import features

STEPS = [7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 21, 23, 25, 28, 31, 34, 37, 41, 45, 50, 55, 60, 66, 73, 80, 88, 97, 107, 118, 130, 143,
         157, 173, 190, 209, 230, 253, 279, 307, 337, 371, 408, 449, 494, 544, 598, 658, 724, 796, 876, 963, 1060, 1166, 1282, 1411,
         1552, 1707, 1878, 2066, 2272, 2499, 2749, 3024, 3327, 3660, 4026, 4428, 4871, 5358, 5894, 6484, 7132, 7845, 8630, 9493,
         10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794, 32767]
TURN = [-1, -1, -1, -1, 2, 4, 6, 8]
KINDS = [("held_15", 24), ("held_5", 16), ("festival_15", 10), ("stop_15", 20), ("hostile_15", 14)]


def adpcm(samples):
    """IMA ADPCM: predictor and index start at 0."""
    value, index, codes = 0, 0, []
    for sample in samples.tolist():
        step = STEPS[index]
        diff, code = sample - value, 0
        if diff < 0:
            code, diff = 8, -diff
        change = step >> 3
        for bit, part in ((4, step), (2, step >> 1), (1, step >> 2)):
            if diff >= part:
                code, diff, change = code | bit, diff - part, change + part
        value = max(-32768, min(32767, value - change if code & 8 else value + change))
        index = max(0, min(88, index + TURN[code & 7]))
        codes.append(code)
    if len(codes) % 2:
        codes.append(0)
    codes = np.array(codes, np.uint8)
    return (codes[::2] | codes[1::2] << 4).tobytes()


def main():
    net, sets, out = evaluate.load(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.makedirs(out, exist_ok=True)
    signal, _ = next(iter(evaluate.mixed(sets, "held_15")))
    signal = signal[:32000]
    with torch.no_grad():
        logits = net(features(signal))[0]
    tensors = {"samples": torch.from_numpy((signal * 32768).astype(np.int16)), "logits": logits.contiguous()}
    save_file(tensors, os.path.join(out, "reference.safetensors"))
    meta, offset = [], 0
    with open(os.path.join(out, "heard.adpcm"), "wb") as target:
        for name, count in KINDS:
            items = list(evaluate.mixed(sets, name))
            for x, m in [items[i * len(items) // count] for i in range(count)]:
                data = adpcm((x * 32768).astype(np.int16))
                target.write(data)
                meta.append(dict(kind=name, off=offset, len=len(x), text=m["text"], voice=m["voice"], words=m["words"], ends=m["ends"]))
                offset += len(data)
    with open(os.path.join(out, "heard.json"), "w", encoding="utf-8") as target:
        target.write("[\n" + ",\n".join(json.dumps(m) for m in meta) + "\n]\n")
    print(f"{len(meta)} items, {offset} bytes, {offset / 8000:.0f} s")


if __name__ == "__main__":
    main()

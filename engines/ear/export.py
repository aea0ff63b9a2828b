"""Writes a checkpoint as 16-bit safetensors for the Rust engine: python export.py OUT.pt ear.safetensors STOP STOP_AMID WORD END_LAG_MS

The four numbers are the decoder's rule (src/engine/cpu/ear/decode.rs), chosen with evaluate.py sweep.
"""
import sys

import torch
from safetensors.torch import save_file

import text


def export(checkpoint, path, stop_enough, stop_amid_enough, word_enough, end_lag_ms):
    saved = torch.load(checkpoint)
    tensors = {k: v.to(torch.float16).contiguous() for k, v in saved["state"].items()}
    looks = " ".join(map(str, saved["shape"]["looks"]))
    save_file(tensors, path, metadata={"symbols": " ".join(text.SYMBOLS), "looks": looks, "stop_enough": stop_enough, "stop_amid_enough": stop_amid_enough,
                                      "word_enough": word_enough, "end_lag_ms": end_lag_ms, "recipe": "engines/ear/README.md"})


if __name__ == "__main__":
    export(*sys.argv[1:7])

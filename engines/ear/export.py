"""Writes a checkpoint as 16-bit safetensors for the Rust engine: python export.py OUT.pt ear.safetensors"""
import sys

import torch
from safetensors.torch import save_file

import text


def export(checkpoint, path):
    saved = torch.load(checkpoint)
    tensors = {k: v.to(torch.float16).contiguous() for k, v in saved["state"].items()}
    looks = " ".join(map(str, saved["shape"]["looks"]))
    save_file(tensors, path, metadata={"symbols": " ".join(text.SYMBOLS), "looks": looks, "recipe": "engines/ear/README.md"})


if __name__ == "__main__":
    export(*sys.argv[1:3])

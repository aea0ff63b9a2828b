"""References for tests/qwen2.rs: greedy tokens and logits of transformers' Qwen2ForCausalLM in float32.

Nothing large is stored: weights and prompts come from an integer hash that tests/support/checkpoint.rs repeats.
Needs torch and transformers from PyPI.  python tests/reference/qwen2.py  writes tests/reference/qwen2.json
"""
import json, pathlib
import numpy as np, torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SEED, STEPS, SAMPLED = 20260101, 64, 32
# hidden, inner, layers, heads, kv heads, head_dim, vocabulary, tied, dtype, theta, prompt length
SHAPES = [
    (64, 128, 2, 4, 2, 16, 300, True, "bf16", 1e6, 1),
    (96, 200, 3, 6, 2, 16, 301, True, "bf16", 1e6, 2),
    (80, 130, 2, 5, 1, 16, 257, False, "bf16", 1e4, 3),
    (128, 352, 4, 4, 4, 32, 512, True, "f16", 1e6, 17),
    (100, 171, 2, 4, 2, 26, 333, False, "f16", 1e6, 31),
    (72, 90, 3, 3, 3, 24, 200, True, "f32", 1e6, 64),
    (128, 256, 2, 14, 2, 64, 1000, True, "bf16", 1e6, 100),
    (60, 77, 5, 6, 3, 10, 123, False, "f32", 5e5, 129),
    (192, 512, 3, 8, 2, 24, 700, True, "bf16", 1e6, 257),
    (112, 300, 2, 7, 1, 16, 400, False, "bf16", 1e6, 512),
    (64, 160, 2, 2, 1, 128, 256, True, "bf16", 1e6, 777),
    (90, 222, 3, 9, 3, 8, 350, True, "f16", 1e6, 1000),
    (160, 320, 2, 5, 5, 32, 600, False, "bf16", 1e6, 1500),
    (56, 104, 6, 4, 1, 14, 150, True, "f32", 1e4, 1499),
]
MASK = (1 << 64) - 1

def hashed(name, count):
    """SplitMix64 of (FNV-1a of the name, plus the seed) and the index."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    base = np.uint64((state + SEED) & MASK)
    with np.errstate(over="ignore"):
        z = base + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

def tensor(name, shape, dtype):
    """Values that the stored type holds exactly: whole numbers of 8, 11 or 24 bits times a power of two."""
    count = int(np.prod(shape))
    bits = {"bf16": 8, "f16": 11, "f32": 24}[dtype]
    whole = (hashed(name, count) >> np.uint64(64 - bits)).astype(np.int64) - (1 << (bits - 1))
    if "norm" in name:
        values = 1 + np.floor_divide(whole, 1 << (bits - 6)) / 128
    else:
        # Standard deviation near 1 / sqrt(inputs); biases near 0.07.
        shift = 10 if name.endswith("bias") else round(float(np.log2(73.9 * np.sqrt(shape[1]))))
        shift -= 3 * ("o_proj" in name or "down_proj" in name)  # let layers outweigh the embedding: answers that vary
        values = whole * 2.0 ** -(shift + bits - 8)
    return torch.tensor(values.astype(np.float32).reshape(shape))

def reference(index, shape):
    hidden, inner, layers, heads, kv, head_dim, vocabulary, tied, dtype, theta, length = shape
    config = Qwen2Config(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv, head_dim=head_dim, vocab_size=vocabulary, tie_word_embeddings=tied,
                         rope_parameters={"rope_theta": theta, "rope_type": "default"}, rms_norm_eps=1e-6,
                         max_position_embeddings=2048, use_sliding_window=False)
    config._attn_implementation = "eager"
    model = Qwen2ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensor(f"{index}.{name}", tuple(parameter.shape), dtype))
    prompt = (hashed(f"{index}.prompt", length) % np.uint64(vocabulary)).astype(np.int64).tolist()
    at = [i * vocabulary // SAMPLED for i in range(SAMPLED)]
    tokens, margins, first = [], [], None
    with torch.no_grad():
        out = model(torch.tensor([prompt]), use_cache=True)
        for _ in range(STEPS):
            logits = out.logits[0, -1]
            first = logits if first is None else first
            top = logits.topk(2)
            tokens.append(top.indices[0].item())
            margins.append(round((top.values[0] - top.values[1]).item(), 6))
            last = logits
            out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    shown = lambda logits: [round(logits[i].item(), 7) for i in at]
    return dict(hidden=hidden, inner=inner, layers=layers, heads=heads, kv_heads=kv, head_dim=head_dim, vocabulary=vocabulary,
                tied=tied, dtype=dtype, theta=theta, prompt=length, tokens=tokens, margins=margins, first=shown(first), last=shown(last))

if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = [reference(i, shape) for i, shape in enumerate(SHAPES)]
    for case in cases:
        print(case["prompt"], case["tokens"][:8], "smallest margin", min(case["margins"]))
    lines = ",\n".join(json.dumps(case) for case in cases)
    pathlib.Path(__file__).with_name("qwen2.json").write_text(f'{{"seed": {SEED}, "cases": [\n{lines}\n]}}\n')

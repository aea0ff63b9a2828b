"""References for tests/lowbit.rs: logits of a tiny Qwen2 whose linear layers are in few bits, in ModelOpt's layout.

Written apart from the Rust code: numpy in float64, codes decoded by ml_dtypes, inputs rounded by ml_dtypes' casts. Weights are
not stored: codes and scales come from the integer hash of qwen2.py, which tests/lowbit.rs repeats. With `--modelopt` and
nvidia-modelopt from PyPI, the section "modelopt" is made: what ModelOpt itself packs and unpacks.

python tests/reference/lowbit.py [--modelopt]  writes tests/reference/lowbit.json
"""
import json, pathlib, sys
import ml_dtypes, numpy as np
from qwen2 import SHAPES, hashed, tensor

CASE, TOKENS, SAMPLED = 8, 40, 100
HERE = pathlib.Path(__file__)
hidden, inner, layers, heads, kv, head_dim, vocabulary, tied, dtype, theta, _ = SHAPES[CASE]
f32 = np.float32
# Scheme: weights, group, inputs rounded, FP8 cache, layers with pre_quant_scale.
SCHEMES = {
    "W4A16_AWQ": ("int4", 64, False, False, ("o_proj", "down_proj")),
    "W8A8_SQ_PER_CHANNEL": ("int8", 0, True, False, ("down_proj",)),
    "W8A16": ("int8", 0, False, False, ()),
    "FP8": ("fp8", 0, True, True, ()),
    "NVFP4": ("nvfp4", 16, True, False, ()),
    "NVFP4_AWQ": ("nvfp4", 16, True, False, ("o_proj",)),
    "W4A16_NVFP4": ("nvfp4", 16, False, False, ()),
}
INPUT_SCALE = {"int8": f32(0.03), "fp8": f32(0.016), "nvfp4": f32(0.0021)}
CACHE_SCALE = f32(0.011)

def number(name, count, size):
    """Positive numbers of 8 bits near `size`: 128 .. 255 times a power of two."""
    exponent = int(np.floor(np.log2(size))) - 7
    return ((128 + (hashed(name, count) >> np.uint64(57)).astype(np.int64)) * 2.0 ** exponent).astype(f32)

def low_bit(name, rows, columns, kind, group):
    """Codes and scales as stored, decoded to float32 as DequantizeLinear does."""
    top = lambda count: (hashed(name + ".weight", count) >> np.uint64(56)).astype(np.uint8)
    if kind == "int8":
        codes = top(rows * columns).view(np.int8).reshape(rows, columns)
        return codes.astype(f32) * number(name + ".weight_scale", rows, 1 / (74 * columns ** .5))[:, None]
    if kind == "fp8":
        codes = top(rows * columns)
        codes = np.where(codes & 0x7f == 0x7f, codes ^ 1, codes).astype(np.uint8)
        return codes.view(ml_dtypes.float8_e4m3fn).astype(f32).reshape(rows, columns) * number(name + ".weight_scale", 1, 1 / (110 * columns ** .5))
    if kind == "int4":
        packed = top(rows // 2 * columns).reshape(rows // 2, columns)
        codes = np.stack([packed & 15, packed >> 4], 1).reshape(rows, columns).astype(np.int8)
        codes = np.where(codes > 7, codes - 16, codes).astype(f32)
        scale = number(name + ".weight_scale", rows * columns // group, 1 / (4.6 * columns ** .5)).reshape(rows, -1)
        return codes * np.repeat(scale, group, 1)
    packed = top(rows * columns // 2).reshape(rows, columns // 2)
    codes = np.stack([packed & 15, packed >> 4], 2).reshape(rows, columns)
    values = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], f32)[codes]
    scale = (0x30 + (hashed(name + ".weight_scale", rows * columns // 16) >> np.uint64(60))).astype(np.uint8)
    scale = scale.view(ml_dtypes.float8_e4m3fn).astype(f32) * number(name + ".weight_scale_2", 1, 1 / (3 * columns ** .5))
    return values * np.repeat(scale.reshape(rows, -1), 16, 1)

def rounded(x, kind):
    """Inputs to the format and back."""
    x, s = x.astype(f32), INPUT_SCALE[kind]
    if kind == "int8":
        return np.clip(np.rint(x / s), -128, 127) * s
    if kind == "fp8":
        return np.clip(x / s, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(f32) * s
    blocks = x.reshape(x.shape[0], -1, 16)
    largest = np.abs(blocks).max(-1, keepdims=True)
    step = np.clip(largest / (f32(6) * s), 0, 448).astype(ml_dtypes.float8_e4m3fn).astype(f32) * s
    code = np.clip(np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0), -6, 6)
    return (code.astype(ml_dtypes.float4_e2m1fn).astype(f32) * step).reshape(x.shape)

def run(scheme, tokens, round_inputs=True):
    kind, group, inputs, cache, scaled = SCHEMES.get(scheme, (None,) * 3 + (False, ()))
    def plain(part, shape):
        return tensor(f"{CASE}.{part}", shape, dtype).numpy().astype(np.float64)
    def linear(x, module, rows, columns, bias=False):
        name = f"{scheme}.{module}"
        if kind is None:
            w = plain(module + ".weight", (rows, columns))
        else:
            w = low_bit(name, rows, columns, kind, group).astype(np.float64)
            if module.split(".")[-1] in scaled:
                x = (x.astype(f32) * number(name + ".pre_quant_scale", columns, .9)).astype(np.float64)
            if inputs and round_inputs:
                x = rounded(x, kind).astype(np.float64)
        y = x @ w.T
        return y + plain(module + ".bias", (rows,)) if bias else y
    def norm(x, part):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * plain(part, (hidden,))
    embedding = plain("model.embed_tokens.weight", (vocabulary, hidden))
    x, n, half = embedding[tokens], len(tokens), head_dim // 2
    angle = np.arange(n)[:, None] / theta ** (2 * np.arange(half) / head_dim)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    def rotate(h):
        a, b = h[..., :half], h[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    seen = np.tril(np.ones((n, n), bool))
    for layer in range(layers):
        at = f"model.layers.{layer}."
        h = norm(x, at + "input_layernorm.weight")
        q = rotate(linear(h, at + "self_attn.q_proj", heads * head_dim, hidden, True).reshape(n, heads, head_dim))
        k = rotate(linear(h, at + "self_attn.k_proj", kv * head_dim, hidden, True).reshape(n, kv, head_dim))
        v = linear(h, at + "self_attn.v_proj", kv * head_dim, hidden, True).reshape(n, kv, head_dim)
        if cache:
            fp8 = lambda a: np.clip(a.astype(f32) / CACHE_SCALE, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * CACHE_SCALE
            k, v = fp8(k), fp8(v)
        k, v = np.repeat(k, heads // kv, 1), np.repeat(v, heads // kv, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / head_dim ** .5
        scores = np.where(seen, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1), at + "self_attn.o_proj", hidden, heads * head_dim)
        h = norm(x, at + "post_attention_layernorm.weight")
        gate, up = (linear(h, at + f"mlp.{part}_proj", inner, hidden) for part in ("gate", "up"))
        x = x + linear(gate / (1 + np.exp(-gate)) * up, at + "mlp.down_proj", hidden, inner)
    return norm(x, "model.norm.weight") @ embedding.T

def modelopt():
    """What ModelOpt packs out of a small matrix, and what it unpacks again."""
    import torch, modelopt
    from modelopt.torch.export.quant_utils import get_scaling_factor_from_weight, pack_int4_in_uint8
    from modelopt.torch.quantization.qtensor import NVFP4QTensor
    w = torch.tensor((hashed("modelopt", 8 * 64) >> np.uint64(40)).astype(f32).reshape(8, 64) / 2 ** 23 - 1) * torch.tensor([.02, 1, .3, 2, .001, 5, 1, .1])[:, None]
    out = {"version": modelopt.__version__, "weights": w.flatten().tolist()}
    codes, scale, scale_2 = NVFP4QTensor.quantize(w.clone(), 16)
    back = codes.dequantize(dtype=torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    out["nvfp4"] = {"weight": codes._quantized_data.flatten().tolist(), "weight_scale": scale.view(torch.uint8).flatten().tolist(),
                    "weight_scale_2": scale_2.item(), "values": back.flatten().tolist()}
    scale = get_scaling_factor_from_weight(w, 32)
    out["int4"] = {"weight": pack_int4_in_uint8(w, scale, 32).flatten().tolist(), "weight_scale": scale.flatten().tolist()}
    return out

if __name__ == "__main__":
    tokens = (hashed(f"{CASE}.prompt", TOKENS) % np.uint64(vocabulary)).astype(np.int64)
    target = HERE.with_name("lowbit.json")
    kept = json.loads(target.read_text()).get("modelopt") if target.exists() else None
    # The network itself, against transformers' answer to the whole prompt of this case.
    case = json.loads(HERE.with_name("qwen2.json").read_text())["cases"][CASE]
    prompt = (hashed(f"{CASE}.prompt", case["prompt"]) % np.uint64(vocabulary)).astype(np.int64)
    plain = run(None, prompt)[-1]
    error = max(abs(plain[i * vocabulary // 32] - want) for i, want in enumerate(case["first"]))
    assert error < 1e-4, error
    cases = {}
    for scheme, (_, _, inputs, _, _) in SCHEMES.items():
        logits = run(scheme, tokens)
        last, away = logits[-1], 0.0
        if inputs:
            without = run(scheme, tokens, False)[-1]
            away = float(np.linalg.norm(without - last) / np.linalg.norm(last))
        cases[scheme] = {"tokens": logits.argmax(-1).tolist(), "logits": [round(float(last[i * vocabulary // SAMPLED]), 6) for i in range(SAMPLED)],
                         "unrounded": away}
        print(f"{scheme:20} logits sd {last.std():.3f}  away without rounding inputs {away:.4f}")
    lines = ",\n".join(f'"{name}": {json.dumps(case)}' for name, case in cases.items())
    own = json.dumps(modelopt() if "--modelopt" in sys.argv else kept)
    target.write_text(f'{{"cases": {{\n{lines}\n}},\n"modelopt": {own}}}\n')

"""Writes a checkpoint in the shape of Qwen2.5-14B with few layers, all weights zero, as a sparse file: to see what a build of that
shape costs.  python3 tests/trt/slice.py FOLDER [LAYERS]   then   sage engine build FOLDER --out OUT --target sm89
"""
import json, pathlib, sys

folder, layers = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2
hidden, inner, keys, rows = 5120, 13824, 1024, 152064
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(json.dumps(dict(
    model_type="qwen2", hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=40,
    num_key_value_heads=8, vocab_size=rows, tie_word_embeddings=False, rope_theta=1e6, rms_norm_eps=1e-6,
    max_position_embeddings=32768)))
tensors = {"model.embed_tokens.weight": [rows, hidden], "lm_head.weight": [rows, hidden], "model.norm.weight": [hidden]}
for layer in range(layers):
    for part, shape in {
        "input_layernorm.weight": [hidden], "post_attention_layernorm.weight": [hidden],
        "self_attn.q_proj.weight": [hidden, hidden], "self_attn.q_proj.bias": [hidden],
        "self_attn.k_proj.weight": [keys, hidden], "self_attn.k_proj.bias": [keys],
        "self_attn.v_proj.weight": [keys, hidden], "self_attn.v_proj.bias": [keys],
        "self_attn.o_proj.weight": [hidden, hidden], "mlp.gate_proj.weight": [inner, hidden],
        "mlp.up_proj.weight": [inner, hidden], "mlp.down_proj.weight": [hidden, inner],
    }.items():
        tensors[f"model.layers.{layer}.{part}"] = shape
header, at = {}, 0
for name, shape in tensors.items():
    size = 2
    for n in shape:
        size *= n
    header[name] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + size])
    at += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(folder / "model.safetensors", "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + at)
print(f"{folder}: {layers} layers, {at / 1e9:.2f} GB")

"""Runs the emitted ONNX graphs on ONNX Runtime and records logits, tokens and a checksum of the files for tests/onnx.rs.

Needs numpy, onnx and onnxruntime from PyPI.  cargo test --test onnx -- --ignored write, then
python tests/reference/emitted_onnx.py  writes tests/reference/emitted_onnx.json. Graph optimisations are off: what is compared is the graph.
"""
import json, pathlib, sys, zlib
import numpy as np, onnx, onnxruntime as ort

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent / "target" / "onnx-reference"
CAPACITY, STEPS, SAMPLED, CHUNK = 320, 12, 16, 24
MASK, SEED = (1 << 64) - 1, json.loads((HERE / "qwen2.json").read_text())["seed"]
CASES = json.loads((HERE / "qwen2.json").read_text())["cases"]

def prompt(index):
    """The prompt of tests/support/checkpoint.rs: SplitMix64 of FNV-1a of the name."""
    state = 0xCBF29CE484222325
    for byte in f"{index}.prompt".encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    case, out = CASES[index], []
    for i in range(case["prompt"]):
        z = (state + SEED + (i + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(int((z ^ (z >> 31)) % case["vocabulary"]))
    return out

class Network:
    """All layer groups in a row, and their caches."""
    def __init__(self, folder, case):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self.files = sorted(folder.glob("out/*.onnx"))
        for file in self.files:
            # onnx.checker of 1.23 refuses weights that are hard links, which these are; types and shapes are checked here.
            onnx.shape_inference.infer_shapes(onnx.load(str(file), load_external_data=False), check_type=True, strict_mode=True)
        self.parts = [ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]) for file in self.files]
        shape = (1, case["kv_heads"], CAPACITY, case["head_dim"])
        names = [i.name for part in self.parts for i in part.get_inputs() if "_cache_" in i.name]
        self.cache = {name: np.zeros(shape, np.float32) for name in names}
        self.length = 0

    def read(self, tokens):
        start, count = self.length, len(tokens)
        feed = {"input_ids": np.array([tokens]), "position_ids": np.arange(start, start + count)[None],
                "key_positions": np.arange(CAPACITY), "write_index": np.array([start]), "last": np.array([count - 1])}
        for part in self.parts:
            wanted = {i.name for i in part.get_inputs()}
            given = {name: value for name, value in {**feed, **self.cache}.items() if name in wanted}
            got = dict(zip([o.name for o in part.get_outputs()], part.run(None, given)))
            for name, value in got.items():
                if "_out_" in name and name != "hidden_out":
                    self.cache[name.replace("_out_", "_cache_")] = value
                elif "_new_" in name:
                    self.cache[name.replace("_new_", "_cache_")][:, :, start:start + count] = value
            feed["hidden"] = got.get("hidden_out")
        self.length += count
        assert int(got["next_token"][0]) == int(got["logits"][0].argmax())
        return got["logits"][0]

runs, worst = {}, 0.0
for folder in sorted(ROOT.iterdir(), key=lambda path: (int(path.name.split("-")[0]), path.name)):
    index = int(folder.name.split("-")[0])
    case, asked = CASES[index], prompt(int(folder.name.split("-")[0]))
    network = Network(folder, case)
    whole = network.read(asked)
    pieces = Network(folder, case)
    for at in range(0, len(asked), CHUNK):
        chunked = pieces.read(asked[at:at + CHUNK])
    difference = float(np.abs(chunked - whole).max())
    logits, tokens = whole, []
    rows = []
    for step in range(STEPS):
        rows.append([round(float(logits[i * len(logits) // SAMPLED]), 7) for i in range(SAMPLED)])
        tokens.append(int(logits.argmax()))
        if step + 1 < STEPS:
            logits = network.read(tokens[-1:])
    first = np.array(case["first"])
    mine = np.array([whole[i * len(whole) // len(first)] for i in range(len(first))])
    worst = max(worst, float(np.abs(first - mine).max()))
    assert tokens == case["tokens"][:STEPS], (folder.name, tokens, case["tokens"][:STEPS])
    crc = 0
    for file in network.files:
        crc = zlib.crc32(file.read_bytes(), crc)
    runs[folder.name] = dict(crc32=crc, chunked_difference=difference, tokens=tokens)
    if folder.name.endswith("-1"):
        runs[folder.name]["logits"] = rows
    print(f"{folder.name:<16} against transformers {np.abs(first - mine).max():.1e}, chunked against whole {difference:.1e}")
print(f"{len(runs)} networks, largest difference to transformers {worst:.1e}")
lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items())
(HERE / "emitted_onnx.json").write_text(f'{{"onnxruntime": {json.dumps(ort.__version__)}, "runs": {{\n{lines}\n}}}}\n')

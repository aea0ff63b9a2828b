"""Runs the emitted ONNX graphs on ONNX Runtime and records logits, tokens and a checksum of the files for tests/onnx.rs and
tests/onnx_lowbit.rs.

Needs numpy, onnx, onnxruntime and ml_dtypes from PyPI.  cargo test --test onnx --test onnx_lowbit -- --ignored write, then
python tests/reference/emitted_onnx.py [plain|lowbit]  writes tests/reference/emitted_onnx.json and emitted_lowbit.json.
Graph optimisations are off: what is compared is the graph.
"""
import json, pathlib, sys, zlib
import ml_dtypes, numpy as np, onnx, onnx.reference, onnxruntime as ort

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent / "target" / "onnx-reference"
LOWBIT = HERE.parent.parent / "target" / "onnx-lowbit"
CAPACITY, STEPS, SAMPLED, CHUNK, ROWS = 320, 12, 16, 24, 24
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

def chunked(folder, case, asked):
    """The logits after the prompt, read in one go and in chunks, and the network that read it in one go."""
    network, pieces = Network(folder, case), Network(folder, case)
    whole = network.read(asked)
    for at in range(0, len(asked), CHUNK):
        last = pieces.read(asked[at:at + CHUNK])
    return whole, float(np.abs(last - whole).max()), network

def crc_of(files):
    crc = 0
    for file in files:
        crc = zlib.crc32(file.read_bytes(), crc)
    return crc

def write(name, head, runs):
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items())
    (HERE / name).write_text(f'{{"onnxruntime": {json.dumps(ort.__version__)}, {head}"runs": {{\n{lines}\n}}}}\n')

def plain():
    runs, worst = {}, 0.0
    for folder in sorted(ROOT.iterdir(), key=lambda path: (int(path.name.split("-")[0]), path.name)):
        index = int(folder.name.split("-")[0])
        case = CASES[index]
        whole, difference, network = chunked(folder, case, prompt(index))
        logits, tokens, rows = whole, [], []
        for step in range(STEPS):
            rows.append([round(float(logits[i * len(logits) // SAMPLED]), 7) for i in range(SAMPLED)])
            tokens.append(int(logits.argmax()))
            if step + 1 < STEPS:
                logits = network.read(tokens[-1:])
        first = np.array(case["first"])
        mine = np.array([whole[i * len(whole) // len(first)] for i in range(len(first))])
        worst = max(worst, float(np.abs(first - mine).max()))
        assert tokens == case["tokens"][:STEPS], (folder.name, tokens, case["tokens"][:STEPS])
        runs[folder.name] = dict(crc32=crc_of(network.files), chunked_difference=difference, tokens=tokens)
        if folder.name.endswith("-1"):
            runs[folder.name]["logits"] = rows
        print(f"{folder.name:<16} against transformers {np.abs(first - mine).max():.1e}, chunked against whole {difference:.1e}")
    print(f"{len(runs)} networks, largest difference to transformers {worst:.1e}")
    write("emitted_onnx.json", "", runs)

def external(folder, model, name):
    """Type, shape and bytes of an initialiser of the graph in `folder`."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    if not tensor.external_data:
        return tensor.data_type, list(tensor.dims), tensor.raw_data
    at = {entry.key: entry.value for entry in tensor.external_data}
    with open(folder / at["location"], "rb") as file:
        file.seek(int(at["offset"]))
        return tensor.data_type, list(tensor.dims), file.read(int(at["length"]))

def decoded(folder):
    """CRC-32 of the NVFP4 weights as ml_dtypes decodes them and as ONNX's reference evaluator runs their nodes."""
    model, out = onnx.load(str(folder / "model.onnx"), load_external_data=False), {}
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT4E2M1:
            continue
        module = tensor.name.removesuffix(".weight")
        _, shape, codes = external(folder, model, tensor.name)
        _, blocks, scales = external(folder, model, f"{module}.weight_scale")
        factor = np.frombuffer(external(folder, model, f"{module}.factor")[2], np.float32)[0]
        pairs = np.frombuffer(codes, np.uint8)
        codes4 = np.stack([pairs & 15, pairs >> 4], -1).reshape(shape)
        values = codes4.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
        scale = np.frombuffer(scales, ml_dtypes.float8_e4m3fn).reshape(blocks).astype(np.float32) * factor
        weights = values * np.repeat(scale, shape[1] // blocks[1], axis=1)
        nodes = [n for n in model.graph.node if n.input[0] == f"{module}.weight_scale"]
        nodes += [n for n in model.graph.node if n.input[0] == tensor.name]
        kinds = {tensor.name: codes, f"{module}.weight_scale": scales, f"{module}.factor": factor.tobytes()}
        constants = []
        for name, raw in kinds.items():
            kind, sizes, _ = external(folder, model, name)
            constants.append(onnx.helper.make_tensor(name, kind, sizes, raw, raw=True))
        result = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, shape)
        part = onnx.helper.make_model(onnx.helper.make_graph(nodes, "weight", [], [result], constants), opset_imports=model.opset_import)
        evaluated = onnx.reference.ReferenceEvaluator(part).run(None, {})[0]
        assert evaluated.dtype == np.float32 and evaluated.tobytes() == weights.tobytes(), module
        out[module] = zlib.crc32(weights.tobytes())
    return out

def lowbit():
    about = json.loads((LOWBIT / "case.json").read_text())
    case, tokens, length = about["case"], about["tokens"], about["prompt"]
    runs, fused = {}, None
    for folder in sorted(path for path in LOWBIT.iterdir() if path.is_dir()):
        files = [folder / "out" / "model.onnx", folder / "out" / "rewritten.weights"]
        runs[folder.name] = dict(crc32=crc_of(file for file in files if file.exists()))
        if folder.name.startswith("nvfp4"):
            continue
        whole, difference, network = chunked(folder, case, tokens[:length])
        rows = np.stack([whole] + [network.read([token]) for token in tokens[length:]])
        runs[folder.name] |= dict(chunked_difference=difference, tokens=[int(best) for best in rows.argmax(1)])
        if folder.name.endswith("-fused"):
            fused = rows
            runs[folder.name]["logits"] = [[round(float(x), 4) for x in row] for row in rows[:ROWS]]
        apart = float(np.abs(rows - fused).max())
        print(f"{folder.name:<24} chunked against whole {difference:.1e}, against the fused form {apart:.1e}")
    nvfp4 = decoded(LOWBIT / "nvfp4-fused" / "out")
    print(f"{len(nvfp4)} NVFP4 weights decoded")
    write("emitted_lowbit.json", f'"nvfp4": {json.dumps(nvfp4)}, ', runs)

if __name__ == "__main__":
    for what in sys.argv[1:] or ["plain", "lowbit"]:
        {"plain": plain, "lowbit": lowbit}[what]()

"""Runs the graphs of the calibrated mind and records what they compute, for tests/onnx_calibrated.rs.

Needs numpy, onnx, onnxruntime and ml_dtypes from PyPI.  cargo test --test onnx_calibrated -- --ignored write, then
python tests/reference/calibrated_onnx.py  writes tests/reference/calibrated_onnx.json.

INT4, INT8 and FP8 run on ONNX Runtime with graph optimisations off. It has no kernel for FP4, so NVFP4 runs on ONNX's reference
evaluator, with `TRT_FP4DynamicQuantize` as `DynamicQuantize` below: written from NVIDIA's page on the operator DynamicQuantize
(blocks of 16 along the last axis, FP4 out, scales in FP8, a build-time constant that the scales are quantised with) and the golden
reference of it in TensorRT-Edge-LLM (`tensorrt_edgellm/models/ops.py`: amax / 6, over that constant, at most 448, to E4M3), with
casts that round halves to even, as TensorRT's page on quantisation schemes says and as the hardware does.
"""
import json, pathlib, zlib
import ml_dtypes, numpy as np, onnx, onnxruntime as ort
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from emitted_onnx import MASK, external

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent / "target" / "onnx-calibrated"
ROWS, OUTPUTS, BLOCK = 6, 24, 16
f32, e4m3, e2m1 = np.float32, ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn

def quantise(x, constant, divide_once=False):
    """Codes and scales. The order of the two divisions is not documented: `divide_once` is ModelOpt's, the other Edge-LLM's."""
    blocks = np.asarray(x, f32).reshape(*x.shape[:-1], -1, BLOCK)
    amax = np.abs(blocks).max(-1, keepdims=True)
    scale = amax / (f32(6) * f32(constant)) if divide_once else amax / f32(6) / f32(constant)
    scale = np.minimum(scale, f32(448)).astype(e4m3)
    step = scale.astype(f32) * f32(constant)
    codes = np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0)
    return np.clip(codes, -6, 6).astype(e2m1).reshape(x.shape), scale[..., 0]

class TRT_FP4DynamicQuantize(OpRun):
    op_domain = "trt"
    def _run(self, x, constant, axis=None, block_size=None, scale_type=None):
        assert axis == -1 and block_size == BLOCK and scale_type == onnx.TensorProto.FLOAT8E4M3FN
        return quantise(x, np.asarray(constant).reshape(()), divide_once=True)

def evaluator(folder):
    """The graph with its weights inside: onnx refuses external data that are hard links, which these are."""
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            raw = external(folder, model, tensor.name)[2]
            del tensor.external_data[:]
            tensor.data_location, tensor.raw_data = onnx.TensorProto.DEFAULT, raw
    return ReferenceEvaluator(model, new_ops=[TRT_FP4DynamicQuantize])

class Network:
    def __init__(self, folder, reference):
        if reference:
            self.part = evaluator(folder)
            self.inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in self.part.proto_.graph.input}
            self.outputs = self.part.output_names
        else:
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level, options.intra_op_num_threads = 3, 1
            self.part = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
            self.inputs = {i.name: i.shape for i in self.part.get_inputs()}
            self.outputs = [o.name for o in self.part.get_outputs()]
        self.start()

    def start(self):
        self.cache = {name: np.zeros(shape, f32) for name, shape in self.inputs.items() if "_cache_" in name}
        self.length = 0

    def read(self, token):
        start = self.length
        feed = {"input_ids": np.array([[token]]), "position_ids": np.array([[start]]), "key_positions": np.arange(CASE["capacity"]),
                "write_index": np.array([start]), "last": np.array([0])}
        given = {name: value for name, value in {**feed, **self.cache}.items() if name in self.inputs}
        got = dict(zip(self.outputs, self.part.run(None, given)))
        for name, value in got.items():
            if "_out_" in name:
                self.cache[name.replace("_out_", "_cache_")] = value
            elif "_new_" in name:
                self.cache[name.replace("_new_", "_cache_")][:, :, start:start + 1] = value
        self.length += 1
        return got["logits"][0]

def crc_of(folder):
    crc = 0
    for file in ("model.onnx", "rewritten.weights", "model.safetensors"):
        if (folder / file).exists():
            crc = zlib.crc32((folder / file).read_bytes(), crc)
    return crc

def logs(rows):
    rows = rows.astype(np.float64)
    most = rows.max(-1, keepdims=True)
    return rows - most - np.log(np.exp(rows - most).sum(-1, keepdims=True))

def run(format, form, conversations, cpu):
    folder = ROOT / format / form
    network, tokens, logits, rows = Network(folder, format == "nvfp4"), [], [], []
    for number, conversation in enumerate(conversations):
        network.start()
        seen = np.stack([network.read(token) for token in conversation])
        tokens.append([int(best) for best in seen.argmax(1)])
        logits.append(seen)
        if number < ROWS:
            rows.append([round(float(x), 3) for x in seen[CASE["questions"][number] - 1]])
    seen = np.concatenate(logits)
    p, q = logs(seen), logs(cpu)
    kl, same = float((np.exp(p) * (p - q)).sum(1).mean()), int((seen.argmax(1) == cpu.argmax(1)).sum())
    print(f"{format:<6} {form:<10} {same} of {len(seen)} tokens, KL {kl:.1e}, largest difference {np.abs(seen - cpu).max():.1e}")
    out = dict(crc32=crc_of(folder), kl=kl, tokens=tokens)
    return out | (dict(logits=rows) if form == "fused" else {})

def weights():
    """NVFP4 weights by name, as ml_dtypes decodes them out of the graph's external data; and the inputs' constants."""
    folder = ROOT / "nvfp4" / "fused"
    model, out = onnx.load(str(folder / "model.onnx"), load_external_data=False), {}
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT4E2M1:
            continue
        module = tensor.name.removesuffix(".weight")
        of = lambda name: external(folder, model, f"{module}.{name}")
        _, shape, codes = of("weight")
        _, blocks, scales = of("weight_scale")
        factor, constant = (np.frombuffer(of(name)[2], f32)[0] for name in ("factor", "input_scale"))
        pairs = np.frombuffer(codes, np.uint8)
        values = np.stack([pairs & 15, pairs >> 4], -1).reshape(shape).view(e2m1).astype(f32)
        scale = np.frombuffer(scales, e4m3).reshape(blocks).astype(f32) * factor
        out[module] = (values * np.repeat(scale, BLOCK, axis=1), constant)
    return out

def inputs(rows, columns, scale):
    """The same numbers as in tests/onnx_calibrated.rs."""
    state = 0xCBF29CE484222325
    for byte in b"nvfp4.product":
        state = ((state ^ byte) * 0x100000001B3) & MASK
    z = np.uint64(state) + np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    whole = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.int64).reshape(rows, columns) - (1 << 23)
    x, column = np.zeros((rows, columns), f32), np.arange(columns)
    block = column // BLOCK
    for row in range(rows):
        w = whole[row]
        x[row] = {
            0: f32(scale) * np.where((row * columns + column) % 16 == 0, f32(6), ((w % 49) - 24).astype(f32) / f32(4)),
            1: np.where(block % 2 == 0, f32(0), w.astype(f32) / f32(1 << 23) * np.exp2((block % 9 - 5).astype(f32))),
            2: w.astype(f32) * f32(scale),
            3: w.astype(f32) * f32(scale) * f32(2.0 ** -30),
        }.get(row % 8, w.astype(f32) / f32(1 << 23) * np.exp2((block % 9 - 5).astype(f32)))
    return x

def products(decoded):
    """Inputs in FP4 and back, and the first outputs of the product, in float64."""
    out, blocks, apart = {}, 0, 0
    for part in ("0.self_attn.q_proj", "1.self_attn.o_proj", "2.mlp.gate_proj", "3.mlp.down_proj"):
        module = f"model.layers.{part}"
        weight, constant = decoded[module]
        x = inputs(64, weight.shape[1], constant)
        wide = []
        for divide_once in (True, False):
            codes, scale = quantise(x, constant, divide_once)
            wide.append(codes.astype(f32) * np.repeat(scale.astype(f32) * constant, BLOCK, axis=1))
        blocks += scale.size
        apart += int((wide[0] != wide[1]).reshape(len(x), -1, BLOCK).any(-1).sum())
        y = wide[0].astype(np.float64) @ weight.T.astype(np.float64)
        out[module] = dict(rows=len(x), inputs_crc32=zlib.crc32((wide[0] + f32(0)).tobytes()),
                           first_outputs=[[float(f"{v:.15g}") for v in row[:OUTPUTS]] for row in y[:8]])
    print(f"the two orders of division differ in {apart} of {blocks} blocks")
    return out

CASE = json.loads((ROOT / "case.json").read_text())
runs = {}
for format, conversations in CASE["conversations"].items():
    cpu = np.fromfile(ROOT / format / "cpu.f32", f32).reshape(sum(map(len, conversations)), -1)
    runs[format] = dict(conversations=conversations) | {form: run(format, form, conversations, cpu) for form in ("fused", "primitive")}
decoded = weights()
print(f"{len(decoded)} NVFP4 weights decoded")
record = dict(onnxruntime=ort.__version__, onnx=onnx.__version__, questions=CASE["questions"],
              nvfp4_weights={module: zlib.crc32(weight.tobytes()) for module, (weight, _) in decoded.items()},
              nvfp4_products=products(decoded), runs=runs)
(HERE / "calibrated_onnx.json").write_text(json.dumps(record, separators=(",", ":")).replace('"runs"', '\n"runs"') + "\n")

"""Writes a header with a class per interface of TensorRT 10.16 whose methods end the program: fake_nvinfer.cpp overrides those
that sage calls. The headers are those that slots.py finds; nothing of them is kept.   stubs.py OUT prints their folder."""
import pathlib, re, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import slots

place = slots.folder(*slots.SETS["V10"])
if place is None:
    sys.exit("skipped: the headers are not there; slots.py --fetch gets them")
headers = slots.Headers(place)
out = ["#include <NvInfer.h>", "#include <cstdio>", "#include <cstdlib>", "namespace nvinfer1 {"]
for name in ["VRuntime", "VCudaEngine", "VExecutionContext"]:
    out.append(f"struct Stub{name} : apiv::{name} {{")
    for method, declared in headers.virtuals(name):
        if declared.endswith("= 0"):
            body = f'{{ std::fprintf(stderr, "fake tensorrt: {name}.{method} is not expected\\n"); std::abort(); }}'
            out.append(f"    {re.sub('^TRT_NODISCARD ', '', declared[:-3]).strip()} {body}")
    out.append("};")
out.append("}")
pathlib.Path(sys.argv[1]).write_text("\n".join(out) + "\n")
print(place)

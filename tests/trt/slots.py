"""Makes src/engine/tensorrt/slots.rs from TensorRT's headers, and proves it with a C++ compiler.

The headers are those that the crates trtx-sys 0.5.0 (TensorRT 10.16) and 0.9.1 (11.4 and RTX 1.7) carry; nothing of them is
kept here.   slots.py --fetch ... has cargo fetch the crates first
             slots.py               writes the table: virtual methods counted in the order of their declaration
             slots.py --check       compiles a program per header set that prints each slot, and compares with the table
"""
import pathlib, re, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "src/engine/tensorrt/slots.rs"
SETS = {"V10": ("trtx-sys-0.5.0", "TRT-Enterprise-10.16"), "V11": ("trtx-sys-0.9.1+rtx1.7", "TRT-Enterprise-11.4"),
        "RTX": ("trtx-sys-0.9.1+rtx1.7", "TRT-RTX-1.7")}
# Class, methods. A method that a set lacks is ABSENT there. `name@text` picks the overload whose parameters contain text.
METHODS = {
    "VBuilder": "createNetworkV2 createBuilderConfig createOptimizationProfile buildSerializedNetwork setMaxThreads",
    "VBuilderConfig": "setFlag getFlag setMemoryPoolLimit addOptimizationProfile setProgressMonitor setNbComputeCapabilities "
                      "setComputeCapability createTimingCache setTimingCache getTimingCache setBuilderOptimizationLevel "
                      "setMaxAuxStreams setProfilingVerbosity",
    "VTimingCache": "serialize combine",
    "VOptimizationProfile": "setDimensions isValid setShapeValuesV2",
    "VNetworkDefinition": "getNbInputs getInput getNbOutputs getOutput getNbLayers setWeightsName",
    "VTensor": "getName getDimensions getType",
    "VHostMemory": "data size",
    "VRuntime": "deserializeCudaEngine@size_t getLogger setMaxThreads getMaxThreads setEngineHostCodeAllowed",
    "VCudaEngine": "getNbIOTensors getIOTensorName getTensorShape getTensorDataType getTensorIOMode getTensorLocation getNbOptimizationProfiles "
                   "getProfileShape getNbLayers getDeviceMemorySizeV2 getDeviceMemorySizeForProfileV2 isRefittable "
                   "createExecutionContext getNbAuxStreams getAliasedInputTensor",
    "VExecutionContext": "setTensorAddress getTensorAddress setInputShape getTensorShape setOptimizationProfileAsync enqueueV3 "
                         "setDeviceMemoryV2 setAuxStreams inferShapes setInputConsumedEvent getOptimizationProfile",
    "IParser": "parse@size_t parseFromFile getNbErrors getError clearErrors loadModelProto loadInitializer parseModelProto ~",
    "IParserError": "code desc file line node nodeName nodeOperator",
    "ILogger": "log ~",
    "IProgressMonitor": "phaseStart stepComplete phaseFinish ~",
}
ENUMS = {  # those that moved between versions, or are used by number
    "NetworkDefinitionCreationFlag": "kSTRONGLY_TYPED", "BuilderFlag": "kSTRIP_PLAN kREFIT kWEIGHT_STREAMING",
    "MemoryPoolType": "kWORKSPACE", "OptProfileSelector": "kMIN kOPT kMAX", "TensorIOMode": "kINPUT kOUTPUT",
    "DataType": "kFLOAT kHALF kBF16 kINT64", "TensorLocation": "kHOST", "ExecutionContextAllocationStrategy": "kUSER_MANAGED",
}
ABSENT = 65535

def folder(crate, name):
    found = sorted(pathlib.Path.home().glob(f".cargo/registry/src/*/{crate}/TensorRT-Headers/{name}"))
    return found[-1] if found else None

class Headers:
    def __init__(self, path):
        self.path, text = path, ""
        for name in ["NvInferRuntimeBase.h", "NvInferRuntime.h", "NvInferRuntimeCommon.h", "NvInferImpl.h", "NvInfer.h", "NvOnnxParser.h"]:
            text += (path / name).read_text()
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        self.text = re.sub(r"//[^\n]*", " ", text)
        self.major = re.search(r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE|TRT_MAJOR_RTX) (\d+)", (path / "NvInferVersion.h").read_text()).group(1)

    def body(self, kind, name):
        for found in re.finditer(rf"\b{kind}\s+{name}\b([^;{{(]*)\{{", self.text):
            start = depth = found.end()
            depth = 1
            at = start
            while depth:
                depth += {"{": 1, "}": -1}.get(self.text[at], 0)
                at += 1
            yield found.group(1), self.text[start:at - 1]

    def virtuals(self, name):
        """Slots of the class in order, its base first: (name, declaration)."""
        head, body = next(self.body("class", name))
        base = re.search(r"public\s+(?:\w+::)*(\w+)", head)
        # An alias such as `using ILogger = v_1_0::ILogger` has its body elsewhere under the same name.
        slots = self.virtuals(base.group(1)) if base else []
        for found in re.finditer(r"\bvirtual\b([^;{]*)", body):
            declared = " ".join(found.group(1).split())
            method = re.search(r"(~?\w+)\s*\(", declared).group(1)
            if method.startswith("~"):
                if not any(s[0] == "~" for s in slots):
                    slots += [("~", ""), ("~delete", "")]
            elif re.search(r"\boverride\b", declared) and any(s[0] == method for s in slots):
                continue
            else:
                slots.append((method, declared))
        return slots

    def slot(self, cls, method):
        name, _, text = method.partition("@")
        at = [i for i, (n, d) in enumerate(self.virtuals(cls)) if n == name and text in d]
        assert len(at) <= 1, f"{cls}.{method} is ambiguous: {at}"
        return at[0] if at else ABSENT

    def value(self, enum, name):
        for _, body in self.body("enum class", enum + r"\s*:\s*u?int32_t"):
            found = re.search(rf"\b{name}\b[^=,]*=\s*(\d+)", body)
            if found:
                return int(found.group(1))
        for _, body in self.body("enum class", enum):
            found = re.search(rf"\b{name}\b[^=,]*=\s*(\d+)", body)
            if found:
                return int(found.group(1))
        return ABSENT

def field(cls, method):
    name = method.partition("@")[0].replace("~", "destroy")
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().replace("v2", "_v2").replace("v3", "_v3").replace("__", "_")
    owner = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.lstrip("VI") if cls[0] in "VI" else cls).lower()
    return f"{owner}_{snake}"

def entries():
    for cls, methods in METHODS.items():
        for method in methods.split():
            yield field(cls, method), cls, method

def enum_entries():
    for enum, names in ENUMS.items():
        for name in names.split():
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum).lower()
            yield f"{words}_{name[1:].lower()}", enum, name

def table(sets):
    out = ["//! Slots of TensorRT's virtual methods and numbers of its enumerations, per version. Generated by tests/trt/slots.py from",
           "//! NVIDIA's headers (Apache-2.0) and proven by a C++ compiler; not to be edited. Only numbers flow in and out.", "",
           "#![allow(missing_docs)] // a field is a class and a method", "",
           "/// A method that this version does not have.", f"pub const ABSENT: u16 = u16::MAX;", "",
           "/// Where each method lies in its virtual table.", "#[derive(Debug, Clone, Copy, PartialEq, Eq)]", "pub struct Slots {"]
    names = [name for name, *_ in entries()] + [name for name, *_ in enum_entries()]
    assert len(set(names)) == len(names), [n for n in names if names.count(n) > 1]
    out += [f"    pub {name}: u16," for name in names] + ["}", ""]
    for key, headers in sets.items():
        out += [f"/// {SETS[key][1]}.", f"pub const {key}: Slots = Slots {{"]
        out += [f"    {name}: {headers.slot(cls, method)}," for name, cls, method in entries()]
        out += [f"    {name}: {headers.value(enum, value)}," for name, enum, value in enum_entries()]
        out += ["};", ""]
    return "\n".join(out).replace(f": {ABSENT},", ": ABSENT,").rstrip() + "\n"

def committed(key):
    body = TABLE.read_text().split(f"pub const {key}: Slots")[1].split("};")[0]
    return {name: ABSENT if value == "ABSENT" else int(value) for name, value in re.findall(r"(\w+): (\w+),", body)}

def proof(key, headers):
    """Slots as the compiler sees them: a pointer to a virtual member holds 1 + 8 * slot (Itanium C++ ABI, x86-64)."""
    lines, want = [], committed(key)
    for name, cls, method in entries():
        plain, _, text = method.partition("@")
        if want[name] == ABSENT:
            space = "nvonnxparser" if cls.startswith("IParser") else "nvinfer1::apiv" if cls[0] == "V" else "nvinfer1"
            lines.append(f'printf("{name} %d\\n", has_{name}<{space}::{cls}>(0) ? -1 : {ABSENT});')
            continue
        space = "nvonnxparser" if cls.startswith("IParser") else "nvinfer1::apiv" if cls[0] == "V" else "nvinfer1"
        owner = f"{space}::{cls}"
        if plain == "~":
            lines.append(f'printf("{name} %ld\\n", destroy_slot_{cls}());')
        elif text:
            declared = next(d for n, d in headers.virtuals(cls) if n == plain and text in d)
            returns = declared[:declared.index(plain + "(")] if plain + "(" in declared else declared[:declared.index(plain)]
            parameters = re.search(rf"{plain}\s*\((.*?)\)", declared, re.S).group(1)
            types = ", ".join(re.sub(r"\s*=.*$|\b(blob|size|serialized_onnx_model|serialized_onnx_model_size|serializedOnnxModel|serializedOnnxModelSize|model_path|modelPath)\b", "", p).strip() for p in parameters.split(","))
            lines.append(f'printf("{name} %ld\\n", slot(static_cast<{returns.strip()} ({owner}::*)({types}) noexcept>(&{owner}::{plain})));')
        else:
            lines.append(f'printf("{name} %ld\\n", slot(&{owner}::{plain}));')
    for name, enum, value in enum_entries():
        if want[name] != ABSENT:
            lines.append(f'printf("{name} %d\\n", static_cast<int>(nvinfer1::{enum}::{value}));')
    absent = [f"template<class T> auto has_{n}(int) -> decltype(&T::{m.partition('@')[0]}, true) {{ return true; }} template<class T> bool has_{n}(long) {{ return false; }}"
              for n, c, m in entries() if want[n] == ABSENT]
    # Destructors have no address: a class with exactly this destructor behind the same methods is called through the table.
    probe = """
static int hit;
struct Logger : nvinfer1::ILogger { void log(Severity, char const*) noexcept override {} ~Logger() { hit = 1; } static void operator delete(void*) {} };
struct Monitor : nvinfer1::IProgressMonitor { void phaseStart(char const*, char const*, int32_t) noexcept override {} bool stepComplete(char const*, int32_t) noexcept override { return true; }
  void phaseFinish(char const*) noexcept override {} ~Monitor() { hit = 1; } static void operator delete(void*) {} };
template<class T> long find(long count) { for (long i = 0; i < count; i++) { alignas(T) static char place[sizeof(T)]; T* t = new (place) T; hit = 0;
  if (SKIP(i)) continue; auto f = (*reinterpret_cast<void (***)(void*)>(t))[i]; f(t); if (hit) return i; } return -1; }
"""
    loggers = [i for i, (n, _) in enumerate(headers.virtuals("ILogger")) if not n.startswith("~")]
    monitors = [i for i, (n, _) in enumerate(headers.virtuals("IProgressMonitor")) if not n.startswith("~")]
    code = "#include \"NvInfer.h\"\n#include \"NvOnnxParser.h\"\n#include <cstdio>\n#include <cstring>\n#include <initializer_list>\n#include <new>\nusing namespace nvinfer1; using namespace nvonnxparser;\n"
    code += "template<class T> long slot(T p) { long x[2]; std::memcpy(x, &p, sizeof x); return (x[0] - 1) / 8; }\n" + "\n".join(absent)
    code += probe.replace("SKIP(i)", "skip(i, (T*)0)").replace("static int hit;", "static int hit;\nstruct Logger; struct Monitor;\n"
            f"bool skip(long i, Logger*) {{ for (long s : {{{','.join(map(str, loggers)) or -1}}}) if (s == i) return true; return false; }}\n"
            f"bool skip(long i, Monitor*) {{ for (long s : {{{','.join(map(str, monitors)) or -1}}}) if (s == i) return true; return false; }}")
    code += f"long destroy_slot_ILogger() {{ return find<Logger>({len(headers.virtuals('ILogger'))}); }}\n"
    code += f"long destroy_slot_IProgressMonitor() {{ return find<Monitor>({len(headers.virtuals('IProgressMonitor'))}); }}\n"
    # IParser: the slots on both sides of its destructor pin it down.
    around = [n for n, _ in headers.virtuals("IParser")]
    at = around.index("~")
    before, after = around[at - 1], around[at + 2]
    code += f"long destroy_slot_IParser() {{ long b = slot(&nvonnxparser::IParser::{before}), a = slot(&nvonnxparser::IParser::{after}); return a == b + 3 ? b + 1 : -1; }}\n"
    code += "int main() {\n" + "\n".join(lines) + "\n}\n"
    with tempfile.TemporaryDirectory() as place:
        source, program = pathlib.Path(place) / "slots.cpp", pathlib.Path(place) / "slots"
        source.write_text(code)
        made = subprocess.run(["g++", "-std=c++17", "-w", f"-I{headers.path}", f"-I{headers.path.parent}", str(source), "-o", str(program)], capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"{key}: {made.stderr[:3000]}")
        got = dict(line.split() for line in subprocess.run([str(program)], capture_output=True, text=True).stdout.splitlines())
    wrong = [(name, want[name], got.get(name)) for name in want if name in got and int(got[name]) != want[name]]
    unproven = [name for name in want if name not in got and want[name] != ABSENT]
    print(f"{key}: {len(got)} of {len(want)} numbers compared with {SETS[key][1]}, {len(wrong)} wrong {wrong or ''}{' unproven: ' + str(unproven) if unproven else ''}")
    return not wrong and not unproven

def fetch():
    for crate in sorted({crate for crate, _ in SETS.values()}):
        version = crate.split("-")[2].split("+")[0]
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            (place / "src").mkdir()
            (place / "src/main.rs").write_text("fn main() {}\n")
            (place / "Cargo.toml").write_text(f'[package]\nname = "headers"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\ntrtx-sys = {{ version = "={version}", default-features = false }}\n[workspace]\n')
            subprocess.run(["cargo", "fetch", "-q"], cwd=place, check=True)

if __name__ == "__main__":
    if "--fetch" in sys.argv:
        fetch()
    found = {key: folder(*where) for key, where in SETS.items()}
    if not all(found.values()):
        print("skipped: the headers are not there; slots.py --fetch gets them")
        sys.exit(0)
    sets = {key: Headers(path) for key, path in found.items()}
    if "--check" not in sys.argv:
        TABLE.write_text(table(sets))
        print(f"{TABLE.relative_to(ROOT)}: {sum(1 for _ in entries()) + sum(1 for _ in enum_entries())} numbers for {len(sets)} header sets")
    elif TABLE.read_text() != table(sets):
        sys.exit("slots.rs is not what these headers give; run tests/trt/slots.py")
    if not all([proof(key, headers) for key, headers in sets.items()]):
        sys.exit(1)

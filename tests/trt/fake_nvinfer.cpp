// A test double of TensorRT 10.16's runtime, made with NVIDIA's own headers, for the test double of the driver
// (tests/gpu/fake_libcuda.c): C++ sees every call that sage makes through its tables of slots, and checks it. A "plan" is a line of
// numbers; its network is integer arithmetic that depends on every token before, so that a lost row, a wrong position or a
// mixed-up buffer changes the answer (tests/double.rs has the same arithmetic). It is no TensorRT and knows no other network.
#include "stubs.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <sstream>
#include <string>
#include <vector>

using namespace nvinfer1;

static void require(bool good, char const* what) {
    if (!good) {
        std::fprintf(stderr, "fake tensorrt: %s\n", what);
        std::abort();
    }
}

static int runtimes, engines, contexts, enqueued;

// What a plan says: fused? group, groups, first layer, last + 1, hidden, heads, head, vocabulary, capacity, chunk.
struct Net {
    int fused, group, groups, first, end, hidden, heads, head, vocabulary, capacity, chunk;
};

struct Tensor {
    std::string name, alias;
    std::vector<int64_t> shape;
    DataType type;
    bool input;
};

static Dims dims(std::vector<int64_t> const& sizes) {
    Dims d{};
    d.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); i++) d.d[i] = sizes[i];
    return d;
}

struct Run {
    Net net;
    int64_t tokens, keys;
    std::map<std::string, char*> at;
};

static float* floats(Run& run, std::string const& name) { return reinterpret_cast<float*>(run.at.at(name)); }
static int64_t* longs(Run& run, std::string const& name) { return reinterpret_cast<int64_t*>(run.at.at(name)); }

static void compute(void* argument) {
    Run& run = *static_cast<Run*>(argument);
    Net const& n = run.net;
    int64_t const S = run.tokens, T = run.keys;
    int64_t* position = longs(run, "position_ids");
    int64_t* key = longs(run, "key_positions");
    for (int64_t t = 0; t < T; t++) require(key[t] == t, "key_positions are not 0 .. T-1");
    for (int64_t s = 0; s < S; s++) require(position[s] == position[0] + s && position[s] < T, "positions are not in a row below T");
    if (n.fused) require(longs(run, "write_index")[0] == position[0], "write_index is not the first position");
    std::vector<float> x(S);
    for (int64_t s = 0; s < S; s++) {
        if (n.group == 0) {
            int64_t id = longs(run, "input_ids")[s];
            require(id >= 0 && id < n.vocabulary, "a token outside the vocabulary");
            x[s] = static_cast<float>(id);
        } else {
            float const* row = floats(run, "hidden") + s * n.hidden;
            for (int i = 1; i < n.hidden; i++) require(row[i] == row[0] + i, "the residual stream is not that of the group before");
            x[s] = row[0];
        }
    }
    for (int layer = n.first; layer < n.end; layer++) {
        std::string const l = std::to_string(layer);
        for (char which : {'k', 'v'}) {
            std::string const w(1, which);
            float* cache = floats(run, w + "_cache_" + l);
            float* fresh = n.fused ? nullptr : floats(run, w + "_new_" + l);
            int const more = which == 'v';
            for (int h = 0; h < n.heads; h++)
                for (int64_t s = 0; s < S; s++)
                    for (int d = 0; d < n.head; d++) {
                        float value = x[s] + 2 * h + d + more;
                        if (n.fused) cache[(h * int64_t(n.capacity) + position[s]) * n.head + d] = value;
                        else fresh[(h * S + s) * n.head + d] = value;
                    }
        }
        std::vector<float> next(S);
        for (int64_t s = 0; s < S; s++) {
            double sum = 0;
            for (std::string w : {"k", "v"}) {
                int const h = n.heads - 1, d = n.head - 1;
                float const* cache = floats(run, w + "_cache_" + l);
                float const* fresh = n.fused ? nullptr : floats(run, w + "_new_" + l);
                for (int64_t q = 0; q <= position[s]; q++)
                    sum += n.fused || q < position[0] ? cache[(h * int64_t(n.capacity) + q) * n.head + d]
                                                      : fresh[(h * S + q - position[0]) * n.head + d];
            }
            next[s] = static_cast<float>(std::fmod(x[s] * 3 + sum + layer, 1009.0));
        }
        x = next;
    }
    if (n.group + 1 < n.groups) {
        for (int64_t s = 0; s < S; s++)
            for (int i = 0; i < n.hidden; i++) floats(run, "hidden_out")[s * n.hidden + i] = x[s] + i;
        return;
    }
    int64_t last = longs(run, "last")[0];
    require(last == S - 1, "last is not the last row");
    for (int v = 0; v < n.vocabulary; v++)
        floats(run, "logits")[v] = -static_cast<float>(std::fmod(v * 31.0 + x[last], double(n.vocabulary)));
    longs(run, "next_token")[0] = 0;
}

struct EngineImpl;

struct ContextImpl : StubVExecutionContext {
    EngineImpl* engine;
    IExecutionContext* self;
    int profile = -1;
    std::map<std::string, std::vector<int64_t>> sizes;
    std::map<std::string, char*> at;
    void* memory = nullptr;

    IExecutionContext* getPImpl() noexcept override { return self; }
    bool setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept override;
    void setDeviceMemoryV2(void* where, int64_t size) noexcept override;
    bool setTensorAddress(char const* name, void* data) noexcept override;
    bool setInputShape(char const* name, Dims const& d) noexcept override;
    Dims getTensorShape(char const* name) const noexcept override;
    int32_t inferShapes(int32_t most, char const** names) noexcept override;
    bool enqueueV3(cudaStream_t stream) noexcept override;
};

struct FakeContext final : IExecutionContext {
    ContextImpl impl;
    FakeContext() { mImpl = &impl; impl.self = this; contexts++; }
    ~FakeContext() override { contexts--; }
};

struct EngineImpl : StubVCudaEngine {
    Net net;
    ICudaEngine* self;
    std::vector<Tensor> tensors;

    Tensor const& find(char const* name) const {
        for (auto const& t : tensors)
            if (t.name == name) return t;
        require(false, "a tensor that does not exist");
        std::abort();
    }
    std::vector<int64_t> shape(Tensor const& t, int64_t S, int64_t T) const {
        std::vector<int64_t> s = t.shape;
        for (auto& size : s)
            if (size == -1) size = t.name == "key_positions" ? T : S;
        return s;
    }
    ICudaEngine* getPImpl() noexcept override { return self; }
    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(tensors.size()); }
    char const* getIOTensorName(int32_t i) const noexcept override { return tensors.at(i).name.c_str(); }
    Dims getTensorShape(char const* name) const noexcept override { return dims(find(name).shape); }
    DataType getTensorDataType(char const* name) const noexcept override { return find(name).type; }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override { return find(name).input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT; }
    TensorLocation getTensorLocation(char const*) const noexcept override { return TensorLocation::kDEVICE; }
    int32_t getNbOptimizationProfiles() const noexcept override { return 2; }
    Dims getProfileShape(char const* name, int32_t profile, OptProfileSelector which) const noexcept override {
        bool const least = which == OptProfileSelector::kMIN;
        return dims(shape(find(name), profile == 0 || least ? 1 : net.chunk, least ? 1 : net.capacity));
    }
    int64_t getDeviceMemorySizeForProfileV2(int32_t profile) const noexcept override { return profile == 0 ? 1000 : 5000; }
    char const* getAliasedInputTensor(char const* name) const noexcept override {
        auto const& alias = find(name).alias;
        return alias.empty() ? nullptr : alias.c_str();
    }
    IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
        require(strategy == ExecutionContextAllocationStrategy::kUSER_MANAGED, "contexts are to bring no memory of their own");
        auto* context = new FakeContext;
        context->impl.engine = this;
        return context;
    }
};

bool ContextImpl::setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept {
    require(stream != nullptr && (index == 0 || index == 1), "another profile or no stream");
    profile = index;
    return true;
}
void ContextImpl::setDeviceMemoryV2(void* where, int64_t size) noexcept {
    require(profile >= 0 && size >= engine->getDeviceMemorySizeForProfileV2(profile) && reinterpret_cast<uintptr_t>(where) % 256 == 0, "working memory");
    memory = where;
}
bool ContextImpl::setTensorAddress(char const* name, void* data) noexcept {
    require(reinterpret_cast<uintptr_t>(data) % 256 == 0, "an address that is not aligned");
    at[engine->find(name).name] = static_cast<char*>(data);
    return true;
}
bool ContextImpl::setInputShape(char const* name, Dims const& d) noexcept {
    auto const& t = engine->find(name);
    Dims const low = engine->getProfileShape(name, profile, OptProfileSelector::kMIN), high = engine->getProfileShape(name, profile, OptProfileSelector::kMAX);
    if (!t.input || d.nbDims != low.nbDims) return false;
    for (int i = 0; i < d.nbDims; i++)
        if (d.d[i] < low.d[i] || d.d[i] > high.d[i]) return false;
    sizes[name] = std::vector<int64_t>(d.d, d.d + d.nbDims);
    return true;
}
Dims ContextImpl::getTensorShape(char const* name) const noexcept {
    auto found = sizes.find(name);
    if (found != sizes.end()) return dims(found->second);
    auto positions = sizes.find("position_ids");
    auto const& t = engine->find(name);
    return dims(positions == sizes.end() ? t.shape : engine->shape(t, positions->second[1], 0));
}
int32_t ContextImpl::inferShapes(int32_t most, char const** names) noexcept {
    int32_t missing = 0;
    for (auto const& t : engine->tensors)
        for (auto size : t.shape)
            if (t.input && size == -1 && !sizes.count(t.name)) {
                if (missing < most) names[missing] = t.name.c_str();
                missing++;
                break;
            }
    return missing;
}
bool ContextImpl::enqueueV3(cudaStream_t stream) noexcept {
    require(memory != nullptr, "no working memory");
    for (auto const& t : engine->tensors) {
        require(at.count(t.name) && at[t.name], "a tensor without an address");
        require(t.alias.empty() || at[t.name] == at[t.alias], "an output that does not share its input's memory");
    }
    auto* run = new Run{engine->net, sizes.at("position_ids")[1], sizes.at("key_positions")[0], at};
    require(run->keys % 256 == 0 || run->keys == engine->net.capacity, "keys are not rounded up");
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    require(driver != nullptr, "the driver is not loaded");
    auto queue = reinterpret_cast<int (*)(void*, void (*)(void*), void*)>(dlsym(driver, "fake_cuda_queue"));
    require(queue != nullptr, "the driver is no test double");
    enqueued++;
    return queue(stream, compute, run) == 0;
}

struct FakeEngine final : ICudaEngine {
    EngineImpl impl;
    explicit FakeEngine(Net net) {
        mImpl = &impl;
        impl.net = net;
        impl.self = this;
        engines++;
        auto add = [&](std::string name, std::vector<int64_t> shape, DataType type, bool input, std::string alias = "") {
            impl.tensors.push_back({name, alias, shape, type, input});
        };
        if (net.group == 0) add("input_ids", {1, -1}, DataType::kINT64, true);
        else add("hidden", {-1, net.hidden}, DataType::kFLOAT, true);
        add("position_ids", {1, -1}, DataType::kINT64, true);
        add("key_positions", {-1}, DataType::kINT64, true);
        if (net.fused) add("write_index", {1}, DataType::kINT64, true);
        for (int layer = net.first; layer < net.end; layer++)
            for (std::string which : {"k", "v"}) {
                std::string const l = std::to_string(layer), cache = which + "_cache_" + l;
                add(cache, {1, net.heads, net.capacity, net.head}, DataType::kFLOAT, true);
                if (net.fused) add(which + "_out_" + l, {1, net.heads, net.capacity, net.head}, DataType::kFLOAT, false, cache);
                else add(which + "_new_" + l, {1, net.heads, -1, net.head}, DataType::kFLOAT, false);
            }
        if (net.group + 1 < net.groups) {
            add("hidden_out", {-1, net.hidden}, DataType::kFLOAT, false);
        } else {
            add("last", {1}, DataType::kINT64, true);
            add("logits", {1, net.vocabulary}, DataType::kFLOAT, false);
            add("next_token", {1}, DataType::kINT64, false);
        }
    }
    ~FakeEngine() override {
        require(contexts == 0 || engines > 1, "the last engine went before its contexts");
        engines--;
    }
};

struct RuntimeImpl : StubVRuntime {
    IRuntime* self;
    ILogger* logger;
    IRuntime* getPImpl() noexcept override { return self; }
    ILogger* getLogger() const noexcept override { return logger; }
    int32_t threads = 1;
    bool setMaxThreads(int32_t count) noexcept override { threads = count; return true; }
    int32_t getMaxThreads() const noexcept override { return threads; }
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
        std::istringstream words(std::string(static_cast<char const*>(blob), size));
        std::string magic;
        Net n{};
        words >> magic >> n.fused >> n.group >> n.groups >> n.first >> n.end >> n.hidden >> n.heads >> n.head >> n.vocabulary >> n.capacity >> n.chunk;
        if (magic != "double" || !words) {
            logger->log(ILogger::Severity::kERROR, "this is no plan of the test double");
            return nullptr;
        }
        return new FakeEngine(n);
    }
};

struct FakeRuntime final : IRuntime {
    RuntimeImpl impl;
    explicit FakeRuntime(ILogger* logger) { mImpl = &impl; impl.self = this; impl.logger = logger; runtimes++; }
    ~FakeRuntime() override { runtimes--; require(engines <= runtimes, "a runtime went before its engine"); }
};

extern "C" {
int32_t getInferLibMajorVersion() noexcept { return 10; }
int32_t getInferLibVersion() noexcept { return 101602; }
void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
    require(version == 101602, "another version");
    return static_cast<IRuntime*>(new FakeRuntime(static_cast<ILogger*>(logger)));
}
}

__attribute__((destructor)) static void ledger() {
    char const* path = std::getenv("FAKE_TENSORRT_LEDGER");
    std::FILE* file = path ? std::fopen(path, "w") : nullptr;
    if (!file) return;
    std::fprintf(file, "alive %d enqueued %d\n", runtimes + engines + contexts, enqueued);
    std::fclose(file);
}

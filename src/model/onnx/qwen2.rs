//! The Qwen2 decoder as an ONNX graph: one description for prefill, prefill in chunks and decode. A configuration and the
//! places of its weights flow in; a model flows out whose numbers are those of `engine::cpu::qwen2`.
//!
//! Inputs: `input_ids [1, S]` (or `hidden [S, H]` behind another layer group), `position_ids [1, S]`, `key_positions [T]` =
//! 0 .. T-1 (its length says how much of the cache is looked at: at least what is written plus S), `write_index [1]` (fused
//! form only: the first position of this call), `last [1]` (the row whose logits are wanted), and per layer `k_cache_i`, `v_cache_i [1, kv heads, capacity, head]`.
//! Outputs: `logits [1, V]` in f32 and `next_token [1]` (or `hidden_out`), and per layer either `k_out_i`, `v_out_i`, the
//! caches updated in place (fused form), or `k_new_i`, `v_new_i [1, kv heads, S, head]`, which the caller appends (primitive).
//!
//! The residual stream is `[S, H]` and every projection a `Gemm` with the weight transposed by its attribute, so weights are
//! used as Hugging Face stores them. The fused form needs TensorRT 10.15 or newer, the primitive one any 10.

use super::graph::{Builder, Dim, Location, Value};
use super::lowbit::Patterns;
use super::proto::{Attribute, DataType, Model};
use super::source::{HEAD, Source};
use super::{Form, Options};
use crate::model::lowbit::Format;
use crate::model::qwen2::Qwen2Config;
use std::ops::Range;

/// Added to the score of a key that must not be seen: finite, so that no row becomes NaN, and within f16.
const MASKED: f32 = -30_000.0;

/// A weight as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Element type in the file.
    pub kind: DataType,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub at: Location,
}

/// Which part of the network a graph holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its layers.
    pub layers: Range<usize>,
    /// Layers of the whole network.
    pub of: usize,
}

/// The names of weights that were asked for and are not there.
#[derive(Debug, thiserror::Error)]
#[error("tensor `{0}` is missing")]
pub struct Missing(pub String);

/// Emits the layers of `part`.
///
/// # Errors
/// A weight is missing.
pub fn decoder(config: &Qwen2Config, source: &Source<'_>, options: &Options, part: &Part) -> Result<Model, Missing> {
    let mut emitter = Emitter { b: Builder::default(), config, source, options, kind: options.precision.kind() };
    emitter.network(part)?;
    // Blocks of scales came with opset 21, numbers of 4 bits in floating point with 23.
    let (opset, ir) = match options.form {
        Form::Fused => (24, 11),
        Form::Primitive if source.formats.contains(&Format::Nvfp4) => (23, 11),
        Form::Primitive if !source.formats.is_empty() => (21, 10),
        Form::Primitive => (18, 10),
    };
    Ok(emitter.b.finish("qwen2", opset, ir))
}

struct Emitter<'a> {
    b: Builder,
    config: &'a Qwen2Config,
    source: &'a Source<'a>,
    options: &'a Options,
    kind: DataType,
}

/// Values that all layers share.
struct Shared {
    /// Additive mask, `[S, T]`.
    mask: Value,
    /// Rotation by position: fused the whole tables, primitive the rows of this call, `[1, 1, S, head / 2]`.
    cos: Value,
    sin: Value,
    /// `[1]`: T.
    live: Value,
    /// Primitive: indices of the rows of this call in the cache.
    slots: Value,
}

impl Emitter<'_> {
    fn network(&mut self, part: &Part) -> Result<(), Missing> {
        let c = self.config;
        let (first, last) = (part.layers.start == 0, part.layers.end == part.of);
        let (tokens, keys) = (Dim::Named("S"), Dim::Named("T"));
        let mut x = if first {
            let ids = self.b.input("input_ids", DataType::Int64, &[Dim::Fixed(1), tokens]);
            self.embed(&ids)?
        } else {
            self.b.input("hidden", self.kind, &[tokens, Dim::Fixed(c.hidden_size)])
        };
        self.b.input("position_ids", DataType::Int64, &[Dim::Fixed(1), tokens]);
        self.b.input("key_positions", DataType::Int64, &[keys]);
        if self.options.form == Form::Fused {
            self.b.input("write_index", DataType::Int64, &[Dim::Fixed(1)]);
        }
        let shared = self.shared();
        for layer in part.layers.clone() {
            x = self.layer(layer, &x, &shared)?;
        }
        if !last {
            self.b.op_named("Identity", &[&x], vec![], "hidden_out");
            self.b.output("hidden_out", self.kind, &[tokens, Dim::Fixed(c.hidden_size)]);
            return Ok(());
        }
        self.b.input("last", DataType::Int64, &[Dim::Fixed(1)]);
        let row = self.b.op("Gather", &[&x, "last"], vec![Attribute::int("axis", 0)]);
        let row = self.norm(&row, "model.norm.weight")?;
        let head = if self.source.ties(c) { "model.embed_tokens" } else { HEAD };
        let logits = self.project(&row, head, None)?;
        self.b.op_named("Cast", &[&logits], vec![Attribute::int("to", DataType::Float as i64)], "logits");
        let attributes = vec![Attribute::int("axis", -1), Attribute::int("keepdims", 0)];
        self.b.op_named("ArgMax", &["logits"], attributes, "next_token");
        self.b.output("logits", DataType::Float, &[Dim::Fixed(1), Dim::Fixed(c.vocab_size)]);
        self.b.output("next_token", DataType::Int64, &[Dim::Fixed(1)]);
        Ok(())
    }

    /// A weight in the precision of the graph: as stored, or cast where it is used.
    fn weight(&mut self, name: &str) -> Result<Value, Missing> {
        let stored = self.source.get(name).ok_or_else(|| Missing(name.to_owned()))?;
        let value = self.b.weight(name, stored.kind, &stored.shape, &stored.at);
        Ok(self.cast(&value, stored.kind))
    }

    fn cast(&mut self, value: &str, from: DataType) -> Value {
        if from == self.kind {
            return value.to_owned();
        }
        self.b.op("Cast", &[value], vec![Attribute::int("to", self.kind as i64)])
    }

    /// `[1, S]` token ids to `[S, H]`.
    fn embed(&mut self, ids: &str) -> Result<Value, Missing> {
        let name = "model.embed_tokens.weight";
        let stored = self.source.get(name).ok_or_else(|| Missing(name.to_owned()))?;
        let table = self.b.weight(name, stored.kind, &stored.shape, &stored.at);
        let rows = self.b.op("Gather", &[&table, ids], vec![Attribute::int("axis", 0)]);
        let rows = self.cast(&rows, stored.kind);
        let shape = self.b.ints("shape.hidden", &[-1, self.config.hidden_size as i64]);
        Ok(self.b.op("Reshape", &[&rows, &shape], vec![]))
    }

    /// x · Wᵀ (+ bias), both as stored or out of few bits.
    fn project(&mut self, x: &str, module: &str, bias: Option<&str>) -> Result<Value, Missing> {
        let (x, weight) = match self.source.coded(module) {
            None => (x.to_owned(), self.weight(&format!("{module}.weight"))?),
            Some(coded) => {
                let mut patterns = Patterns { b: &mut self.b, kind: self.kind };
                let x = patterns.channels(module, coded, x);
                (patterns.inputs(module, coded, &x), patterns.weight(module, coded))
            }
        };
        let bias = bias.map(|bias| self.weight(bias)).transpose()?;
        let mut inputs = vec![x.as_str(), weight.as_str()];
        inputs.extend(bias.as_deref());
        Ok(self.b.op("Gemm", &inputs, vec![Attribute::int("transB", 1)]))
    }

    /// RMS norm over the last dimension, its mean in f32.
    fn norm(&mut self, x: &str, weight: &str) -> Result<Value, Missing> {
        let weight = self.weight(weight)?;
        let epsilon = self.config.rms_norm_eps;
        if self.options.form == Form::Fused {
            let attributes = vec![
                Attribute::int("axis", -1),
                Attribute::float("epsilon", epsilon),
                Attribute::int("stash_type", DataType::Float as i64),
            ];
            return Ok(self.b.op("RMSNormalization", &[x, &weight], attributes));
        }
        let to_float = vec![Attribute::int("to", DataType::Float as i64)];
        let wide = self.b.op("Cast", &[x], to_float);
        let square = self.b.op("Mul", &[&wide, &wide], vec![]);
        let axis = self.b.ints("axis.last", &[-1]);
        let mean = self.b.op("ReduceMean", &[&square, &axis], vec![Attribute::int("keepdims", 1)]);
        let epsilon = self.b.numbers("epsilon", DataType::Float, &[], &[epsilon]);
        let sum = self.b.op("Add", &[&mean, &epsilon], vec![]);
        let root = self.b.op("Sqrt", &[&sum], vec![]);
        let unit = self.b.op("Div", &[&wide, &root], vec![]);
        let unit = self.b.op("Cast", &[&unit], vec![Attribute::int("to", self.kind as i64)]);
        Ok(self.b.op("Mul", &[&unit, &weight], vec![]))
    }

    fn shared(&mut self) -> Shared {
        let (c, capacity) = (self.config, self.options.capacity);
        let half = c.head_dim / 2;
        let mut tables = [Vec::with_capacity(capacity * half), Vec::with_capacity(capacity * half)];
        for position in 0..capacity {
            for i in 0..half {
                // RoFormer's angles, the halves of a head rotated against each other as in transformers.
                let angle = position as f64 / libm::pow(c.rope_theta, 2.0 * i as f64 / c.head_dim as f64);
                tables[0].push(libm::cos(angle) as f32);
                tables[1].push(libm::sin(angle) as f32);
            }
        }
        let mut cos = self.b.numbers("rope.cos", self.kind, &[capacity, half], &tables[0]);
        let mut sin = self.b.numbers("rope.sin", self.kind, &[capacity, half], &tables[1]);
        let live = self.b.op("Shape", &["key_positions"], vec![]);
        let open = self.b.numbers("mask.open", self.kind, &[], &[0.0]);
        let shut = self.b.numbers("mask.shut", self.kind, &[], &[MASKED]);
        let column = self.b.ints("shape.column", &[-1, 1]);
        let own = self.b.op("Reshape", &["position_ids", &column], vec![]);
        let seen = self.b.op("LessOrEqual", &["key_positions", &own], vec![]);
        let mut slots = Value::new();
        if self.options.form == Form::Primitive {
            let axis = self.b.ints("axis.one", &[1]);
            for table in [&mut cos, &mut sin] {
                let rows = self.b.op("Gather", &[table, "position_ids"], vec![Attribute::int("axis", 0)]);
                *table = self.b.op("Unsqueeze", &[&rows, &axis], vec![]);
            }
            slots = self.slots();
        }
        let mask = self.b.op("Where", &[&seen, &open, &shut], vec![]);
        Shared { mask, cos, sin, live, slots }
    }

    /// Where the rows of this call belong in `[1, kv heads, T, head]`: `[1, kv heads, S, 3]`, batch, head and position.
    fn slots(&mut self) -> Value {
        let heads = self.config.kv_heads;
        let each: Vec<i64> = (0..heads as i64).collect();
        let each = self.b.ints_of_shape("kv_heads.each", &[1, heads, 1, 1], &each);
        let none = self.b.ints_of_shape("kv_heads.none", &[1, heads, 1, 1], &vec![0; heads]);
        let shape = self.b.ints("shape.slots", &[1, 1, -1, 1]);
        let row = self.b.op("Reshape", &["position_ids", &shape], vec![]);
        let position = self.b.op("Add", &[&row, &none], vec![]);
        let zero = self.b.ints("zero", &[0]);
        let batch = self.b.op("Mul", &[&position, &zero], vec![]);
        let head = self.b.op("Add", &[&batch, &each], vec![]);
        self.b.op("Concat", &[&batch, &head, &position], vec![Attribute::int("axis", -1)])
    }

    /// `[1, heads, S, head]`, rotated by position.
    fn rotate(&mut self, x: &str, shared: &Shared) -> Value {
        if self.options.form == Form::Fused {
            let inputs = [x, &shared.cos, &shared.sin, "position_ids"];
            return self.b.op("RotaryEmbedding", &inputs, vec![Attribute::int("interleaved", 0)]);
        }
        let (half, whole) = (self.config.head_dim as i64 / 2, self.config.head_dim as i64);
        let (zero, half) = (self.b.ints("zero", &[0]), self.b.ints("head.half", &[half]));
        let (whole, axis) = (self.b.ints("head.whole", &[whole]), self.b.ints("axis.three", &[3]));
        let low = self.b.op("Slice", &[x, &zero, &half, &axis], vec![]);
        let high = self.b.op("Slice", &[x, &half, &whole, &axis], vec![]);
        let mut product = |a: &str, b: &str| self.b.op("Mul", &[a, b], vec![]);
        let (low_cos, high_sin) = (product(&low, &shared.cos), product(&high, &shared.sin));
        let (high_cos, low_sin) = (product(&high, &shared.cos), product(&low, &shared.sin));
        let first = self.b.op("Sub", &[&low_cos, &high_sin], vec![]);
        let second = self.b.op("Add", &[&high_cos, &low_sin], vec![]);
        self.b.op("Concat", &[&first, &second], vec![Attribute::int("axis", -1)])
    }

    fn layer(&mut self, layer: usize, x: &str, shared: &Shared) -> Result<Value, Missing> {
        let c = self.config;
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        let normed = self.norm(x, &at("input_layernorm.weight"))?;
        let mut heads = |name: &str, count: usize| -> Result<Value, Missing> {
            let module = at(&format!("self_attn.{name}"));
            let flat = self.project(&normed, &module, Some(&format!("{module}.bias")))?;
            let shape = self.b.ints(&format!("shape.heads.{count}"), &[1, -1, count as i64, c.head_dim as i64]);
            let rows = self.b.op("Reshape", &[&flat, &shape], vec![]);
            Ok(self.b.op("Transpose", &[&rows], vec![Attribute::ints("perm", &[0, 2, 1, 3])]))
        };
        let (query, key) = (heads("q_proj", c.heads)?, heads("k_proj", c.kv_heads)?);
        let value = heads("v_proj", c.kv_heads)?;
        let (query, key) = (self.rotate(&query, shared), self.rotate(&key, shared));
        let keys = self.cached("k", layer, &key, shared);
        let values = self.cached("v", layer, &value, shared);
        let attended = match self.options.form {
            Form::Fused => self.b.op("Attention", &[&query, &keys, &values, &shared.mask], vec![]),
            Form::Primitive => self.attend(&query, &keys, &values, shared),
        };
        let rows = self.b.op("Transpose", &[&attended], vec![Attribute::ints("perm", &[0, 2, 1, 3])]);
        let shape = self.b.ints("shape.attended", &[-1, (c.heads * c.head_dim) as i64]);
        let rows = self.b.op("Reshape", &[&rows, &shape], vec![]);
        let delta = self.project(&rows, &at("self_attn.o_proj"), None)?;
        let x = self.b.op("Add", &[x, &delta], vec![]);

        let normed = self.norm(&x, &at("post_attention_layernorm.weight"))?;
        let gate = self.project(&normed, &at("mlp.gate_proj"), None)?;
        let up = self.project(&normed, &at("mlp.up_proj"), None)?;
        let sigmoid = self.b.op("Sigmoid", &[&gate], vec![]);
        let silu = self.b.op("Mul", &[&gate, &sigmoid], vec![]);
        let inner = self.b.op("Mul", &[&silu, &up], vec![]);
        let delta = self.project(&inner, &at("mlp.down_proj"), None)?;
        Ok(self.b.op("Add", &[&x, &delta], vec![]))
    }

    /// Puts the new rows into the cache and returns what is to be attended over, `[1, kv heads, T, head]`. The order
    /// of keys is the same in both forms, so chunks do not change a bit.
    fn cached(&mut self, which: &str, layer: usize, new: &str, shared: &Shared) -> Value {
        let (c, capacity) = (self.config, self.options.capacity);
        let (one, kv, head) = (Dim::Fixed(1), Dim::Fixed(c.kv_heads), Dim::Fixed(c.head_dim));
        let cache = self.b.input(&format!("{which}_cache_{layer}"), self.kind, &[one, kv, Dim::Fixed(capacity), head]);
        let (zero, axis) = (self.b.ints("zero", &[0]), self.b.ints("axis.two", &[2]));
        if self.options.form == Form::Fused {
            let out = format!("{which}_out_{layer}");
            let attributes = vec![Attribute::int("axis", 2), Attribute::text("mode", "linear")];
            self.b.op_named("TensorScatter", &[&cache, new, "write_index"], attributes, &out);
            self.b.output(&out, self.kind, &[one, kv, Dim::Fixed(capacity), head]);
            return self.b.op("Slice", &[&out, &zero, &shared.live, &axis], vec![]);
        }
        let out = format!("{which}_new_{layer}");
        self.b.op_named("Identity", &[new], vec![], &out);
        self.b.output(&out, self.kind, &[one, kv, Dim::Named("S"), head]);
        let past = self.b.op("Slice", &[&cache, &zero, &shared.live, &axis], vec![]);
        self.b.op("ScatterND", &[&past, &shared.slots, new], vec![])
    }

    /// softmax(q · kᵀ / √head + mask) · v, each key/value head serving its group of query heads; `[1, heads, S, head]`.
    fn attend(&mut self, query: &str, keys: &str, values: &str, shared: &Shared) -> Value {
        let c = self.config;
        let scale = self.b.numbers("scale", self.kind, &[], &[(1.0 / libm::sqrt(c.head_dim as f64)) as f32]);
        let query = self.b.op("Mul", &[query, &scale], vec![]);
        let group = (c.heads / c.kv_heads) as i64;
        let grouped = self.b.ints("shape.grouped", &[c.kv_heads as i64, group, -1, c.head_dim as i64]);
        let query = self.b.op("Reshape", &[&query, &grouped], vec![]);
        let keys = self.b.op("Transpose", &[keys], vec![Attribute::ints("perm", &[1, 0, 3, 2])]);
        let values = self.b.op("Transpose", &[values], vec![Attribute::ints("perm", &[1, 0, 2, 3])]);
        let scores = self.b.op("MatMul", &[&query, &keys], vec![]);
        let scores = self.b.op("Add", &[&scores, &shared.mask], vec![]);
        let weights = self.b.op("Softmax", &[&scores], vec![Attribute::int("axis", -1)]);
        let mixed = self.b.op("MatMul", &[&weights, &values], vec![]);
        let shape = self.b.ints("shape.ungrouped", &[1, c.heads as i64, -1, c.head_dim as i64]);
        self.b.op("Reshape", &[&mixed, &shape], vec![])
    }
}

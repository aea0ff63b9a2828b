//! The Qwen2 decoder: token ids in, logits out.
//! Flows in: a few tokens and the cache of what came before. Flows out: the cache, advanced, and on request the logits of
//! any token of the chunk.
//!
//! The forward pass is the published network, in f32 over the checkpoint's own weights (unless [`Mode`] or quantised weights say
//! otherwise): pre-norm attention with rotary
//! positions and grouped keys, SwiGLU feed-forward, tied or untied head. It allocates nothing.

use super::kv::KvCache;
use super::parallel::{Cancelled, Claims, Workers};
use super::rounded::{Mode, Rounded};
use super::widened::Widened;
use crate::engine::CancelToken;
use crate::engine::cpu::aligned::Aligned;
use crate::engine::cpu::kernels::{Kernels, MAX_QUERIES};
use crate::engine::cpu::pool::Pool;
use crate::model::lowbit::{self, Format};
use crate::model::qwen2::{Layer, Qwen2Config, Qwen2Weights};
use std::sync::Arc;

/// How a decoder is set up.
#[derive(Clone)]
pub struct DecoderOptions {
    /// Threads, the caller's included.
    pub threads: usize,
    /// Most tokens in one context.
    pub context: usize,
    /// Most tokens in one forward pass.
    pub chunk: usize,
    /// Instruction set.
    pub kernels: &'static Kernels,
    /// What activations are rounded to.
    pub mode: Mode,
}

impl Default for DecoderOptions {
    fn default() -> Self {
        DecoderOptions { threads: 1, context: 2048, chunk: 64, kernels: Kernels::best(), mode: Mode::Exact }
    }
}

/// A model ready to run on one lane.
pub struct Decoder {
    weights: Arc<Qwen2Weights>,
    workers: Workers,
    rope: Rope,
    space: Workspace,
    options: DecoderOptions,
}

/// Activations of one chunk, allocated once; `[token][width]` each.
struct Workspace {
    /// The residual stream.
    residual: Aligned<f32>,
    normed: Aligned<f32>,
    query: Aligned<f32>,
    key: Aligned<f32>,
    value: Aligned<f32>,
    attended: Aligned<f32>,
    gate: Aligned<f32>,
    up: Aligned<f32>,
    inner: Aligned<f32>,
    /// Output of attention or feed-forward, to be added to the residual.
    delta: Aligned<f32>,
    scores: Aligned<f32>,
    logits: Aligned<f32>,
}

impl Workspace {
    fn new(config: &Qwen2Config, options: &DecoderOptions) -> Workspace {
        let row = |width: usize| Aligned::new(options.chunk * width);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let context = options.context.next_multiple_of(crate::engine::cpu::kernels::KEY_BLOCK);
        Workspace {
            residual: row(hidden),
            normed: row(hidden),
            query: row(queries),
            key: row(keys),
            value: row(keys),
            attended: row(queries),
            gate: row(inner),
            up: row(inner),
            inner: row(inner),
            delta: row(hidden),
            scores: Aligned::new(options.threads * MAX_QUERIES * context),
            logits: Aligned::new(config.vocab_size),
        }
    }

    fn bytes(&self) -> usize {
        [
            &self.residual,
            &self.normed,
            &self.query,
            &self.key,
            &self.value,
            &self.attended,
            &self.gate,
            &self.up,
            &self.inner,
            &self.delta,
            &self.scores,
            &self.logits,
        ]
        .iter()
        .map(|buffer| buffer.len() * size_of::<f32>())
        .sum()
    }
}

/// Where numbers are seen on their way through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Input of the query, key and value projections.
    Attention,
    /// Input of the attention's output projection.
    Output,
    /// Input of the gate and up projections.
    Feed,
    /// Input of the down projection.
    Down,
    /// Rotated keys, per head.
    Key,
    /// Values, per head.
    Value,
    /// Input of the head.
    Head,
}

/// Looks on while tokens are read: for calibration.
pub trait Seen {
    /// Whole rows of `columns` numbers, one or more per token.
    fn seen(&mut self, layer: usize, site: Site, rows: &[f32], columns: usize);
}

/// Nobody looks.
impl Seen for () {
    fn seen(&mut self, _: usize, _: Site, _: &[f32], _: usize) {}
}

impl Decoder {
    /// Starts the workers and allocates all working memory.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn new(weights: Arc<Qwen2Weights>, options: DecoderOptions) -> std::io::Result<Decoder> {
        let context = options.context.max(1);
        let options = DecoderOptions {
            threads: options.threads.max(1),
            context,
            chunk: options.chunk.clamp(1, context),
            ..options
        };
        Ok(Decoder {
            workers: Workers {
                pool: Pool::new(options.threads)?,
                kernels: options.kernels,
                rounded: Rounded::new(&weights, options.kernels, options.mode, options.chunk),
                widened: Widened::new(&weights, options.threads, options.chunk),
                claims: Claims::new(options.threads),
            },
            rope: Rope::new(&weights.config, options.context),
            space: Workspace::new(&weights.config, &options),
            weights,
            options,
        })
    }

    /// The model.
    pub fn weights(&self) -> &Arc<Qwen2Weights> {
        &self.weights
    }

    /// How it was set up.
    pub fn options(&self) -> &DecoderOptions {
        &self.options
    }

    /// Bytes of working memory besides weights and caches.
    pub fn workspace_bytes(&self) -> usize {
        self.space.bytes()
            + self.workers.rounded.bytes_held()
            + self.workers.widened.bytes_held()
            + (self.rope.cos.len() + self.rope.sin.len()) * size_of::<f32>()
    }

    /// A cache that fits this decoder's context.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.weights.config, self.options.context)
    }

    /// Reads `tokens` (1 to `chunk`, all below the vocabulary size) after what `kv` holds.
    ///
    /// # Errors
    /// [`Cancelled`]: `kv` is as it was before.
    ///
    /// # Panics
    /// The tokens do not fit the chunk or the context; callers cut prompts before.
    pub fn forward(&mut self, tokens: &[u32], kv: &mut KvCache, cancel: &CancelToken) -> Result<(), Cancelled> {
        self.forward_seen(tokens, kv, cancel, &mut ())
    }

    /// As [`Decoder::forward`], showing `seen` what goes into every linear layer and into the cache.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    ///
    /// # Panics
    /// As [`Decoder::forward`].
    pub fn forward_seen<S: Seen>(
        &mut self,
        tokens: &[u32],
        kv: &mut KvCache,
        cancel: &CancelToken,
        seen: &mut S,
    ) -> Result<(), Cancelled> {
        let count = tokens.len();
        assert!((1..=self.options.chunk).contains(&count), "a chunk holds 1 to {} tokens", self.options.chunk);
        assert!(kv.len() + count <= self.options.context.min(kv.capacity()), "the context is full");
        let weights = Arc::clone(&self.weights);
        let hidden = weights.config.hidden_size;
        for (row, &token) in self.space.residual.chunks_exact_mut(hidden).zip(tokens) {
            weights.embedding.widen_row(token as usize, row);
        }
        for (index, layer) in weights.layers.iter().enumerate() {
            self.attention((layer, index), count, kv, cancel, seen)?;
            self.feed_forward((layer, index), count, cancel, seen)?;
        }
        kv.advance(count);
        Ok(())
    }

    /// residual += output(attention(norm(residual))).
    fn attention<S: Seen>(
        &mut self,
        (layer, index): (&Layer, usize),
        count: usize,
        kv: &mut KvCache,
        cancel: &CancelToken,
        seen: &mut S,
    ) -> Result<(), Cancelled> {
        let weights = Arc::clone(&self.weights);
        let config = &weights.config;
        let (workers, space) = (&mut self.workers, &mut self.space);
        let width = count * config.hidden_size;
        workers.rms_norm(&space.residual[..width], &layer.attention_norm, config.rms_norm_eps, &mut space.normed);
        seen.seen(index, Site::Attention, &space.normed[..width], config.hidden_size);
        let products = [
            (&layer.query, &mut space.query[..]),
            (&layer.key, &mut space.key[..]),
            (&layer.value, &mut space.value[..]),
        ];
        workers.multiply(products, &space.normed, count, cancel)?;

        let first = kv.len();
        add_bias(&mut space.query, &layer.query_bias, count);
        add_bias(&mut space.key, &layer.key_bias, count);
        add_bias(&mut space.value, &layer.value_bias, count);
        self.rope.rotate(&mut space.query, config.heads, first, count);
        self.rope.rotate(&mut space.key, config.kv_heads, first, count);
        let cached = count * config.kv_heads * config.head_dim;
        seen.seen(index, Site::Key, &space.key[..cached], config.head_dim);
        seen.seen(index, Site::Value, &space.value[..cached], config.head_dim);
        if let Some([key, value]) = layer.cache_scales {
            lowbit::round(Format::Fp8, key, &mut space.key[..cached]);
            lowbit::round(Format::Fp8, value, &mut space.value[..cached]);
        }
        for token in 0..count {
            for head in 0..config.kv_heads {
                let at = (token * config.kv_heads + head) * config.head_dim;
                let row = at..at + config.head_dim;
                kv.write(index, head, first + token, &space.key[row.clone()], &space.value[row]);
            }
        }

        let (query, out) = ((&space.query[..], count), &mut space.attended);
        workers.attend(config, (kv, index), query, out, &mut space.scores, cancel)?;
        let joined = config.heads * config.head_dim;
        seen.seen(index, Site::Output, &space.attended[..count * joined], joined);
        workers.multiply([(&layer.output, &mut space.delta)], &space.attended, count, cancel)?;
        add(&mut space.residual[..width], &space.delta);
        Ok(())
    }

    /// residual += down(silu(gate(norm(residual))) * up(norm(residual))).
    fn feed_forward<S: Seen>(
        &mut self,
        (layer, index): (&Layer, usize),
        count: usize,
        cancel: &CancelToken,
        seen: &mut S,
    ) -> Result<(), Cancelled> {
        let config = &self.weights.config;
        let (workers, space) = (&mut self.workers, &mut self.space);
        let (width, inner) = (count * config.hidden_size, count * config.intermediate_size);
        workers.rms_norm(&space.residual[..width], &layer.feed_norm, config.rms_norm_eps, &mut space.normed);
        seen.seen(index, Site::Feed, &space.normed[..width], config.hidden_size);
        let products = [(&layer.gate, &mut space.gate[..]), (&layer.up, &mut space.up[..])];
        workers.multiply(products, &space.normed, count, cancel)?;
        workers.swiglu(&space.gate[..inner], &space.up[..inner], &mut space.inner[..inner]);
        seen.seen(index, Site::Down, &space.inner[..inner], config.intermediate_size);
        workers.multiply([(&layer.down, &mut space.delta)], &space.inner, count, cancel)?;
        add(&mut space.residual[..width], &space.delta);
        Ok(())
    }

    /// Logits of the token at `index` of the last chunk that [`Decoder::forward`] read, one per vocabulary row.
    ///
    /// # Errors
    /// [`Cancelled`]: no logits; they can be asked for again.
    pub fn logits(&mut self, index: usize, cancel: &CancelToken) -> Result<&mut [f32], Cancelled> {
        self.logits_seen(index, cancel, &mut ())
    }

    /// As [`Decoder::logits`], showing `seen` what goes into the head, as of the layer after the last.
    ///
    /// # Errors
    /// As [`Decoder::logits`].
    pub fn logits_seen<S: Seen>(
        &mut self,
        index: usize,
        cancel: &CancelToken,
        seen: &mut S,
    ) -> Result<&mut [f32], Cancelled> {
        let config = &self.weights.config;
        let (workers, space) = (&mut self.workers, &mut self.space);
        let hidden = config.hidden_size;
        let row = &space.residual[index * hidden..(index + 1) * hidden];
        workers.rms_norm(row, &self.weights.final_norm, config.rms_norm_eps, &mut space.normed[..hidden]);
        seen.seen(config.layers, Site::Head, &space.normed[..hidden], hidden);
        workers.multiply([(&self.weights.head, &mut space.logits)], &space.normed, 1, cancel)?;
        Ok(&mut space.logits)
    }
}

fn add(residual: &mut [f32], delta: &[f32]) {
    for (residual, delta) in residual.iter_mut().zip(delta) {
        *residual += delta;
    }
}

fn add_bias(rows: &mut [f32], bias: &[f32], count: usize) {
    for row in rows.chunks_exact_mut(bias.len()).take(count) {
        add(row, bias);
    }
}

/// Rotary position angles, half-split layout: dimension i turns with dimension i + head_dim / 2.
struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rope {
    /// Angles as `transformers` computes them: frequencies and products rounded to f32 before cosine and sine.
    fn new(config: &Qwen2Config, positions: usize) -> Rope {
        let half = config.head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / config.head_dim as f32;
                1.0 / libm::pow(config.rope_theta, f64::from(exponent)) as f32
            })
            .collect();
        let mut rope =
            Rope { cos: Vec::with_capacity(positions * half), sin: Vec::with_capacity(positions * half), half };
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                rope.cos.push(libm::cos(angle) as f32);
                rope.sin.push(libm::sin(angle) as f32);
            }
        }
        rope
    }

    /// Rotates `count` rows of `heads` heads; row 0 is at position `first`.
    fn rotate(&self, rows: &mut [f32], heads: usize, first: usize, count: usize) {
        let half = self.half;
        for (token, row) in rows.chunks_exact_mut(heads * 2 * half).take(count).enumerate() {
            let at = (first + token) * half;
            let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
            for head in row.chunks_exact_mut(2 * half) {
                let (low, high) = head.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (low[i], high[i]);
                    low[i] = a * cos[i] - b * sin[i];
                    high[i] = b * cos[i] + a * sin[i];
                }
            }
        }
    }
}

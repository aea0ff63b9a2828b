//! What a decoder does in a given time: tokens a second, memory beside the weights, a second question on the same beginning. A
//! model flows in, figures flow out.

use super::bandwidth::Meter;
use super::{CONTEXT, DECODE, OWN, PREFILL, SHARED, TURN};
use crate::cli::language_model::{anonymous_bytes, milliseconds, quantile_ms};
use crate::engine::CancelToken;
use crate::engine::cpu::qwen2::{Cancelled, Decoder, DecoderOptions, Generation, PromptError, Step};
use crate::model::qwen2::Qwen2Weights;
use crate::model::sampling::{Sampler, Sampling};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A decoder and a conversation.
pub struct Talk {
    decoder: Decoder,
    generation: Generation,
    vocabulary: u32,
}

impl Talk {
    /// Allocates all working memory.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(weights: &Arc<Qwen2Weights>, options: DecoderOptions) -> anyhow::Result<Talk> {
        let decoder = Decoder::new(Arc::clone(weights), DecoderOptions { context: CONTEXT, ..options })?;
        let vocabulary = weights.config.vocab_size;
        let generation = Generation::new(&decoder, Sampler::new(Sampling::default(), vocabulary, 0));
        Ok(Talk { decoder, generation, vocabulary: vocabulary as u32 })
    }

    /// Name of the kernels it runs.
    pub fn kernels(&self) -> String {
        self.decoder.options().kernels.full_name()
    }

    /// `count` tokens; another `variant` differs from the first token on.
    pub fn tokens(&self, count: usize, variant: u32) -> Vec<u32> {
        (0..count as u32).map(|i| (i.wrapping_mul(7919) + 31 * variant + 11) % self.vocabulary).collect()
    }

    /// Replaces the conversation by a question.
    ///
    /// # Errors
    /// The prompt does not fit.
    pub fn ask(&mut self, prompt: &[u32], most_new: usize) -> Result<(), PromptError> {
        self.generation.start(prompt, most_new, 0)
    }

    /// One step; whether the answer is over.
    ///
    /// # Errors
    /// It was cancelled, and all is as before.
    pub fn step(&mut self, cancel: &CancelToken) -> Result<bool, Cancelled> {
        self.generation.step(&mut self.decoder, cancel).map(|step| matches!(step, Step::Finished(_)))
    }

    /// Reads a prompt; the time to its first token.
    fn first_token(&mut self, prompt: &[u32], most_new: usize) -> anyhow::Result<Duration> {
        let (began, go) = (Instant::now(), CancelToken::default());
        self.ask(prompt, most_new)?;
        while matches!(self.generation.step(&mut self.decoder, &go), Ok(Step::Read { .. })) {}
        Ok(began.elapsed())
    }

    /// `count` decode steps.
    fn decode(&mut self, count: usize) -> Vec<Duration> {
        let go = CancelToken::default();
        let mut one = || {
            let began = Instant::now();
            let done = self.generation.step(&mut self.decoder, &go);
            matches!(done, Ok(Step::Token(_))).then(|| began.elapsed())
        };
        (0..count).map_while(|_| one()).collect()
    }

    /// Bytes of memory beside the mapped weights once an answer was given; the cache counts as a whole.
    ///
    /// # Errors
    /// Those of a prompt.
    pub fn memory(&mut self) -> anyhow::Result<Value> {
        self.first_token(&self.tokens(16, 0), 2)?;
        let cache = self.generation.kv().bytes();
        let touched = cache * self.generation.kv().len() / CONTEXT;
        let beside = anonymous_bytes().saturating_sub(touched as u64);
        Ok(json!({ "kv_bytes": cache, "beside_weights_and_kv_bytes": beside }))
    }

    /// Decode and prefill, and what of the read bandwidth decoding uses; a few decode steps and reads of the memory alternate, for
    /// a machine that is shared changes within seconds.
    ///
    /// # Errors
    /// The weights cannot be mapped again.
    pub fn speed(&mut self, folder: &Path, repeat: usize) -> anyhow::Result<Value> {
        let mut meter = Meter::new(folder, self.decoder.options().threads)?;
        self.first_token(&self.tokens(16, 0), 2)?;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for variant in 1..=repeat as u32 {
            self.first_token(&self.tokens(16, variant), DECODE + 1)?;
            for _ in 0..DECODE / TURN {
                meter.read();
                decode.extend(self.decode(TURN));
            }
            prefill.push(self.first_token(&self.tokens(PREFILL, 100 + variant), 1)?);
        }
        let bandwidth = meter.bytes_per_s();
        let step = quantile_ms(&decode, 0.5) / 1e3;
        let read = bytes_per_token(self.decoder.weights());
        Ok(json!({
            "decode_tokens_per_s": round(1.0 / step),
            "decode_ms_p50": quantile_ms(&decode, 0.5),
            "decode_ms_p99": quantile_ms(&decode, 0.99),
            "bytes_per_token": read,
            "read_bandwidth_gb_per_s": round(bandwidth / 1e9),
            "share_of_bandwidth": round(read as f64 / step / bandwidth),
            "prefill_tokens_per_s_at_512": round(PREFILL as f64 * 1e3 / quantile_ms(&prefill, 0.5)),
        }))
    }

    /// The first token of two questions that share their beginning.
    ///
    /// # Errors
    /// Those of a prompt.
    pub fn second_question(&mut self) -> anyhow::Result<Value> {
        let mut question = self.tokens(SHARED + OWN, 900);
        let cold = self.first_token(&question, 1)?;
        question[SHARED..].iter_mut().for_each(|token| *token = (*token + 1) % self.vocabulary);
        let warm = self.first_token(&question, 1)?;
        Ok(json!({
            "first_token_cold_ms": milliseconds(cold),
            "first_token_shared_prefix_ms": milliseconds(warm),
            "shared_prefix_speedup": round(cold.as_secs_f64() / warm.as_secs_f64()),
        }))
    }
}

/// Bytes of weights that a decode step reads: all but an embedding that is not also the head.
fn bytes_per_token(weights: &Qwen2Weights) -> usize {
    weights.matrices().map(|matrix| matrix.bytes().len()).sum()
}

/// Two decimals.
pub fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

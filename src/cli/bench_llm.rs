//! `sage bench llm`: how fast the embedded decoder is on this machine, on random weights of a known shape or on a given model.
//! A shape or folder flows in; tokens per second, memory, bandwidth and stopping times flow out, as a table or as JSON.

use super::language_model::{milliseconds, quantile_ms};
use super::random_model::{RandomModel, Shape};
use super::{BadInput, Verdict};
use crate::engine::CancelToken;
use crate::engine::cpu::pool::Pool;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions, Generation, Step};
use crate::model::checkpoint::Checkpoint;
use crate::model::qwen2::Qwen2Weights;
use crate::model::sampling::{Sampler, Sampling};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Arguments of `sage bench llm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Measure this model instead of random weights.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Shape of the random weights.
    #[arg(long, value_name = "SHAPE", default_value = "0.5b", conflicts_with = "model")]
    shape: Shape,
    /// Thread counts to measure, such as 1,2.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Repetitions of each measurement.
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Tokens of cache that memory is reported for.
const CONTEXT: usize = 2048;
/// Tokens of the measured prefill.
const PREFILL: usize = 512;
/// The latest instant of a step at which it is cancelled: all instants of a long step are alike.
const LONGEST_DELAY: Duration = Duration::from_millis(60);
/// Decode steps of one repetition.
const DECODE: usize = 24;
/// Tokens shared by two questions.
const SHARED: usize = 1000;
/// Tokens that each of the two questions adds.
const OWN: usize = 20;

/// Runs the command.
///
/// # Errors
/// The model cannot be used or the temporary folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    if args.threads.contains(&0) || args.repeat == 0 {
        return Err(BadInput("--threads and --repeat count from 1".to_owned()).into());
    }
    let random = match &args.model {
        Some(_) => None,
        None => Some(RandomModel::write(args.shape)?),
    };
    let folder = random.as_ref().map(|random| random.folder()).or(args.model.as_deref()).unwrap_or(Path::new("."));
    let weights = Arc::new(Qwen2Weights::open(folder).map_err(|error| BadInput(error.to_string()))?);
    let runs = args
        .threads
        .iter()
        .map(|&threads| measure(folder, &weights, threads, args.repeat))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let report = json!({
        "bench": "llm",
        "model": args.model.as_ref().map_or_else(|| "random weights".to_owned(), |model| model.display().to_string()),
        "hidden": weights.config.hidden_size,
        "layers": weights.config.layers,
        "weights_bytes": weights.file_bytes,
        "runs": runs,
    });
    if args.json {
        println!("{report}");
    } else {
        print_table(&report);
    }
    Ok(Verdict::Good)
}

fn print_table(report: &Value) {
    println!("{} ({} bytes of weights)", report["model"].as_str().unwrap_or_default(), report["weights_bytes"]);
    for run in report["runs"].as_array().into_iter().flatten() {
        println!();
        for (name, value) in run.as_object().into_iter().flatten() {
            println!("  {name:<34} {value}");
        }
    }
}

/// A decoder with a conversation, and what a step costs.
struct Lane {
    decoder: Decoder,
    generation: Generation,
    vocabulary: u32,
}

impl Lane {
    fn new(weights: &Arc<Qwen2Weights>, threads: usize) -> anyhow::Result<Lane> {
        let options = DecoderOptions { threads, context: CONTEXT, ..DecoderOptions::default() };
        let decoder = Decoder::new(Arc::clone(weights), options)?;
        let vocabulary = weights.config.vocab_size;
        let generation = Generation::new(&decoder, Sampler::new(Sampling::default(), vocabulary, 0));
        Ok(Lane { decoder, generation, vocabulary: vocabulary as u32 })
    }

    /// `count` tokens; another `variant` differs from the first token on.
    fn tokens(&self, count: usize, variant: u32) -> Vec<u32> {
        (0..count as u32).map(|i| (i.wrapping_mul(7919) + 31 * variant + 11) % self.vocabulary).collect()
    }

    /// Reads a prompt; the time to its first token.
    fn first_token(&mut self, prompt: &[u32], most_new: usize) -> anyhow::Result<Duration> {
        let (began, go) = (Instant::now(), CancelToken::default());
        self.generation.start(prompt, most_new, 0)?;
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
}

fn measure(folder: &Path, weights: &Arc<Qwen2Weights>, threads: usize, repeat: usize) -> anyhow::Result<Value> {
    let mut lane = Lane::new(weights, threads)?;
    // All but the cache is in memory after the first answer; the cache counts as a whole.
    lane.first_token(&lane.tokens(16, 0), 2)?;
    let touched = lane.generation.kv().bytes() * lane.generation.kv().len() / CONTEXT;
    let above = anonymous_bytes().saturating_sub(touched as u64) + lane.generation.kv().bytes() as u64;

    let (mut prefill, mut decode, mut bandwidth) = (Vec::new(), Vec::new(), Vec::new());
    for variant in 1..=repeat as u32 {
        bandwidth.push(read_bandwidth(folder, threads)?);
        lane.first_token(&lane.tokens(16, variant), DECODE + 1)?;
        decode.extend(lane.decode(DECODE));
        prefill.push(lane.first_token(&lane.tokens(PREFILL, 100 + variant), 1)?);
    }
    bandwidth.sort_unstable_by(f64::total_cmp);
    let bandwidth = bandwidth[bandwidth.len() / 2];
    let step = quantile_ms(&decode, 0.5) / 1e3;

    let stop_decode = stopping_times(&mut lane, false, 50)?;
    let stop_prefill = stopping_times(&mut lane, true, 50)?;

    let mut question = lane.tokens(SHARED + OWN, 900);
    let cold = lane.first_token(&question, 1)?;
    question[SHARED..].iter_mut().for_each(|token| *token = (*token + 1) % lane.vocabulary);
    let warm = lane.first_token(&question, 1)?;

    let round = |value: f64| (value * 100.0).round() / 100.0;
    Ok(json!({
        "threads": threads,
        "kernels": lane.decoder.options().kernels.name,
        "decode_tokens_per_s": round(1.0 / step),
        "decode_ms_p99": quantile_ms(&decode, 0.99),
        "read_bandwidth_gb_per_s": round(bandwidth / 1e9),
        "share_of_bandwidth": round(weights.file_bytes as f64 / step / bandwidth),
        "prefill_tokens_per_s_at_512": round(PREFILL as f64 * 1e3 / quantile_ms(&prefill, 0.5)),
        "kv_bytes": lane.generation.kv().bytes(),
        "above_weights_bytes": above,
        "above_weights_and_kv_bytes": above - lane.generation.kv().bytes() as u64,
        "cancel_decode_ms_p50": quantile_ms(&stop_decode, 0.5),
        "cancel_decode_ms_p99": quantile_ms(&stop_decode, 0.99),
        "cancel_prefill_ms_p50": quantile_ms(&stop_prefill, 0.5),
        "cancel_prefill_ms_p99": quantile_ms(&stop_prefill, 0.99),
        "first_token_cold_ms": milliseconds(cold),
        "first_token_shared_prefix_ms": milliseconds(warm),
        "shared_prefix_speedup": round(cold.as_secs_f64() / warm.as_secs_f64()),
    }))
}

/// Bytes of this process that no file holds.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Bytes per second at which `threads` threads read the mapped weight files.
fn read_bandwidth(folder: &Path, threads: usize) -> anyhow::Result<f64> {
    let checkpoint = Checkpoint::open(folder)?;
    let mut pool = Pool::new(threads)?;
    let tensors: Vec<&[u8]> = checkpoint.tensors().map(|(_, tensor)| tensor.bytes()).collect();
    let total: usize = tensors.iter().map(|bytes| bytes.len()).sum();
    let sum = AtomicU64::new(0);
    let mut pass = || {
        let began = Instant::now();
        pool.run(&|worker| {
            let mut own = 0u64;
            for bytes in &tensors {
                let part = bytes.len().div_ceil(threads);
                let from = (worker * part).min(bytes.len());
                own = own.wrapping_add(sum_of(&bytes[from..(from + part).min(bytes.len())]));
            }
            sum.fetch_add(own, Relaxed);
        });
        total as f64 / began.elapsed().as_secs_f64()
    };
    // The first pass maps the pages.
    pass();
    let best = pass().max(pass());
    std::hint::black_box(sum.load(Relaxed));
    Ok(best)
}

/// The sum of all 8-byte words: eight far-apart streams, as the matrix products read.
fn sum_of(bytes: &[u8]) -> u64 {
    const STREAMS: usize = 8;
    const LINE: usize = 64;
    let part = bytes.len() / STREAMS / LINE * LINE;
    let mut sums = [0u64; LINE / 8];
    for at in (0..part).step_by(LINE) {
        for stream in 0..STREAMS {
            let line = &bytes[stream * part + at..][..LINE];
            for (sum, word) in sums.iter_mut().zip(line.chunks_exact(8)) {
                *sum = sum.wrapping_add(u64::from_ne_bytes([
                    word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
                ]));
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// From a cancel at a random instant inside a step until the step has returned.
fn stopping_times(lane: &mut Lane, in_prefill: bool, count: usize) -> anyhow::Result<Vec<Duration>> {
    let prompt = lane.tokens(if in_prefill { PREFILL } else { 16 }, 77 + u32::from(in_prefill));
    let go = CancelToken::default();
    lane.generation.start(&prompt, CONTEXT, 0)?;
    if !in_prefill {
        lane.first_token(&prompt, CONTEXT)?;
    }
    let began = Instant::now();
    let boundary = lane.generation.tokens().len();
    // How long a step takes, to cancel within it; the step is then taken back.
    let _ = lane.generation.step(&mut lane.decoder, &go);
    let step = began.elapsed();
    if in_prefill {
        lane.generation.start(&lane.tokens(16, 78), CONTEXT, 0)?;
        lane.generation.start(&prompt, CONTEXT, 0)?;
    } else {
        lane.generation.truncate(boundary);
    }
    let mut times = Vec::with_capacity(count);
    for i in 0..count {
        let cancel = CancelToken::default();
        // Spread over the step by the golden ratio, never at its very end.
        let delay = step.min(LONGEST_DELAY).mul_f64((i as f64 * 0.618_034).fract() * 0.8);
        let stopped = std::thread::scope(|scope| {
            let canceller = scope.spawn(|| {
                std::thread::sleep(delay);
                let at = Instant::now();
                cancel.cancel();
                at
            });
            let done = lane.generation.step(&mut lane.decoder, &cancel);
            let free = Instant::now();
            let at = canceller.join().ok();
            at.filter(|_| done.is_err()).map(|at| free.saturating_duration_since(at))
        });
        match stopped {
            Some(time) => times.push(time),
            None if in_prefill => lane.generation.start(&prompt, CONTEXT, 0)?,
            None => lane.generation.truncate(boundary),
        }
    }
    Ok(times)
}

//! `sage engine verify` and `bench` on a GPU: an engine's answers against the processor's, and what its steps cost. Folders flow
//! in; figures and a profile of step costs flow out.

use super::bench_gpu::{about, copy_bandwidth, power, spread_us};
use super::engine_build::{FolderArgs, refused};
use super::show::write_whole;
use super::{BadInput, Verdict};
use crate::engine::CancelToken;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions};
use crate::engine::cuda::CudaError;
use crate::engine::generator::{Generator, Stepped, Talk};
use crate::engine::profile::{Profile, StepCost};
use crate::engine::tensorrt::run::{Engines, Row, RowGenerator, Where};
use crate::engine::tensorrt::{Manifest, TrtError};
use crate::model::qwen2::Qwen2Weights;
use crate::model::sampling::{Sampler, Sampling};
use crate::model::tokenizer::Tokenizer;
use crate::model::transcript::Step;
use crate::observe::Histogram;
use crate::types::{Capability, Nanos};
use anyhow::Context;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What engine and processor are asked: a sentence, a question, and what is longer than a chunk and than one recorded step.
const PROMPTS: [&str; 3] = [
    "The capital of France is",
    "A robot stands in a kitchen. A person on its left raises a hand and asks it to bring the red cup. What should it do?",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen. ",
];
/// Times that the last one is repeated.
const REPEATED: usize = 12;
/// Tokens generated after each prompt.
const GENERATED: usize = 32;
/// Two logits are too close to call if their difference is below this share of the range of all logits: what 16 bits lose.
const TOO_CLOSE: f32 = 0.02;
/// Share of positions at which the engine must choose as the processor does, or between tokens too close to call.
const AGREEMENT: f64 = 0.95;

/// What a comparison found.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Positions compared.
    pub positions: usize,
    /// Same most likely token.
    pub same: usize,
    /// Another one, but the processor's logits of the two are too close to call.
    pub close: usize,
    /// Largest difference of two logits.
    pub largest: f32,
    /// The same as a share of the range of that position's logits.
    pub largest_share: f32,
}

impl Comparison {
    /// Adds one position.
    fn add(&mut self, engine: &[f32], processor: &[f32]) {
        let (chosen, wanted) = (top(engine), top(processor));
        let low = processor.iter().copied().fold(f32::INFINITY, f32::min);
        let range = (processor[wanted] - low).max(f32::MIN_POSITIVE);
        // A logit that is no number differs by infinity.
        let apart = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() } else { f32::INFINITY };
        let largest = engine.iter().zip(processor).map(apart).fold(0.0, f32::max);
        self.positions += 1;
        if chosen == wanted {
            self.same += 1;
        } else if processor[wanted] - processor[chosen] < TOO_CLOSE * range {
            self.close += 1;
        }
        self.largest = self.largest.max(largest);
        self.largest_share = self.largest_share.max(largest / range);
    }

    /// Whether the engine is good.
    pub fn holds(&self) -> bool {
        self.largest.is_finite() && (self.same + self.close) as f64 >= AGREEMENT * self.positions as f64
    }

    /// One line for people.
    pub fn sentence(&self) -> String {
        format!(
            "{} of {} tokens as the processor's, {} more too close to call; largest difference of a logit {:.3}, {:.1} % of their range",
            self.same,
            self.positions,
            self.close,
            self.largest,
            100.0 * self.largest_share
        )
    }
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, index| if logits[index] > logits[best] { index } else { best })
}

/// Compares the engine with the processor; a sentence instead if there is nothing here to run it on.
///
/// # Errors
/// The engine or the model cannot be used.
pub fn compare(folder: &Path, model: &Path, any_gpu: bool) -> anyhow::Result<Result<Comparison, String>> {
    let engines = match Engines::load(folder, Where { any_gpu, ..Where::default() }) {
        Ok(engines) => engines,
        Err(TrtError::Device(CudaError::Absent(why)) | TrtError::NotThere(why)) => return Ok(Err(why)),
        Err(error) => return Err(error.into()),
    };
    let weights = Arc::new(Qwen2Weights::open(model).map_err(|error| BadInput(error.to_string()))?);
    let tokenizer = Tokenizer::load(model).ok();
    let limits = engines.limits();
    let longest = limits.context.saturating_sub(GENERATED + 1).max(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut asked = prompts(tokenizer.as_ref(), limits.vocabulary)?;
    asked.iter_mut().for_each(|prompt| prompt.truncate(longest));
    // The processor's cache is no larger than what is asked of it.
    let context = asked.iter().map(Vec::len).max().unwrap_or(0) + GENERATED + 1;
    let options = DecoderOptions { threads, context, chunk: limits.chunk, ..DecoderOptions::default() };
    let mut decoder = Decoder::new(weights, options)?;
    let mut generator = RowGenerator::new(engines);
    let mut comparison = Comparison::default();
    for prompt in &asked {
        one_prompt(&mut generator, &mut decoder, prompt, &mut comparison)?;
    }
    Ok(Ok(comparison))
}

/// The prompts in tokens; without a tokenizer, tokens all over the vocabulary.
fn prompts(tokenizer: Option<&Tokenizer>, vocabulary: usize) -> anyhow::Result<Vec<Vec<u32>>> {
    match tokenizer {
        Some(tokenizer) => {
            let long = PROMPTS[2].repeat(REPEATED);
            [PROMPTS[0], PROMPTS[1], &long].into_iter().map(|text| Ok(tokenizer.encode(text)?)).collect()
        }
        None => Ok([5, 40, 300]
            .into_iter()
            .enumerate()
            .map(|(which, count)| (0..count).map(|i| ((7919 * i + 104_729 * which + 1) % vocabulary) as u32).collect())
            .collect()),
    }
}

/// Both read the prompt and then the tokens that the processor chooses.
fn one_prompt<R: Row>(
    generator: &mut RowGenerator<R>,
    decoder: &mut Decoder,
    prompt: &[u32],
    comparison: &mut Comparison,
) -> anyhow::Result<()> {
    let go = CancelToken::default();
    let mut talk = generator.talk(Sampler::new(Sampling::default(), generator.limits().vocabulary, 0))?;
    talk.transcript_mut().start(prompt, GENERATED, 0)?;
    let mut cache = decoder.new_cache();
    let mut unread = prompt.to_vec();
    for _ in 0..GENERATED {
        let mut row = 0;
        for part in unread.chunks(decoder.options().chunk) {
            decoder.forward(part, &mut cache, &go).map_err(|_| anyhow::anyhow!("nobody cancels here"))?;
            row = part.len() - 1;
        }
        let logits = decoder.logits(row, &go).map_err(|_| anyhow::anyhow!("nobody cancels here"))?;
        let wanted = top(logits) as u32;
        let before = talk.transcript().tokens().len();
        if one_token(generator, &mut talk, &mut |_| {})?.is_none() {
            break;
        }
        comparison.add(generator.logits(), logits);
        if talk.transcript().tokens()[before] != wanted {
            talk.transcript_mut().truncate(before);
            talk.transcript_mut().append(&[wanted]);
        }
        unread = vec![wanted];
    }
    Ok(())
}

/// Steps until a token was chosen; `each` sees how long every step of the lane took.
fn one_token<R: Row>(
    generator: &mut RowGenerator<R>,
    talk: &mut <RowGenerator<R> as Generator>::Talk,
    each: &mut dyn FnMut(Duration),
) -> anyhow::Result<Option<u32>> {
    let go = CancelToken::default();
    loop {
        let begun = Instant::now();
        generator.submit(talk, &go)?;
        let stepped = loop {
            match generator.poll(talk)? {
                Stepped::Pending => std::hint::spin_loop(),
                other => break other,
            }
        };
        each(begun.elapsed());
        match stepped {
            Stepped::Done(Step::Token(token)) => return Ok(Some(token)),
            Stepped::Done(Step::Finished(_)) => return Ok(None),
            _ => {}
        }
    }
}

/// Arguments of `sage engine bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Folder with TensorRT's libraries; default: SAGE_TENSORRT, then where the system looks.
    #[arg(long, value_name = "DIR")]
    tensorrt: Option<PathBuf>,
    /// Which device, as the driver counts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: i32,
    /// Tokens to generate.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    tokens: u32,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompt: u32,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the step costs as a profile to this file, for `sage plan` and simulations.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Name of the profile.
    #[arg(long, value_name = "NAME", default_value = "gpu")]
    name: String,
}

/// Runs `sage engine bench`.
///
/// # Errors
/// The engine cannot run here.
pub fn bench(args: &BenchArgs) -> anyhow::Result<Verdict> {
    Manifest::load(&args.folder.folder).map_err(refused)?;
    let place = Where { device: args.device, tensorrt: args.tensorrt.as_deref(), any_gpu: false };
    let engines = Engines::load(&args.folder.folder, place)
        .with_context(|| format!("{} cannot run here", args.folder.folder.display()))?;
    let (device, limits, manifest) = (Arc::clone(engines.device()), engines.limits(), engines.manifest().clone());
    let bandwidth = copy_bandwidth(&device)?;
    let generated = (args.tokens as usize).min(limits.context / 2);
    let asked = (args.prompt as usize).min(limits.context - generated - 1).max(1);
    let prompt: Vec<u32> = (0..asked).map(|i| ((7919 * i + 1) % limits.vocabulary) as u32).collect();
    let mut generator = RowGenerator::new(engines);
    let mut talk = generator.talk(Sampler::new(Sampling::default(), limits.vocabulary, 0))?;
    // Once for what is prepared at the first use, once to be measured.
    let (mut prefill, mut decode, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    let mut prefill_s = 0.0;
    for measured in [false, true] {
        // What the first round read is forgotten.
        talk.transcript_mut().truncate(0);
        talk.transcript_mut().start(&prompt, generated + 1, 0)?;
        let begun = Instant::now();
        one_token(&mut generator, &mut talk, &mut |time| prefill.push(time))?;
        prefill_s = begun.elapsed().as_secs_f64();
        for _ in 0..generated {
            let begun = Instant::now();
            one_token(&mut generator, &mut talk, &mut |time| decode.push(time))?;
            tokens.push(begun.elapsed());
        }
        if !measured {
            [&mut prefill, &mut decode, &mut tokens].into_iter().for_each(Vec::clear);
        }
    }
    let total: f64 = tokens.iter().map(Duration::as_secs_f64).sum();
    let per_second = tokens.len() as f64 / total.max(1e-9);
    let weights: u64 = manifest.engines.iter().map(|engine| engine.bytes).sum();
    let report = json!({
        "bench": "engine",
        "engine": args.folder.folder.display().to_string(),
        "tensorrt": manifest.builder.as_ref().map(|builder| builder.tensorrt.clone()),
        "device": about(&device),
        "power": power(),
        "groups": limits.groups,
        "prompt_tokens": asked,
        "prefill_tokens_per_s": (asked as f64 / prefill_s.max(1e-9)).round(),
        "prefill_step_us": spread_us(&prefill),
        "decode_step_us": spread_us(&decode),
        "token_us": spread_us(&tokens),
        "tokens_per_s": (per_second * 10.0).round() / 10.0,
        "weights_bytes": weights,
        "copy_gb_per_s": (bandwidth / 1e8).round() / 10.0,
        // All plans are read once per token, but for rows of the embedding that are not asked for: an upper bound.
        "share_of_copy_bandwidth_percent": (1e3 * weights as f64 * per_second / bandwidth).round() / 10.0,
    });
    if let Some(file) = &args.write {
        let profile = profile(&args.name, &prefill, &decode, limits.groups, limits.chunk);
        let text = toml::to_string(&profile).context("the profile cannot be written as TOML")?;
        let head = "# Step costs measured by: sage engine bench --write FILE\n";
        write_whole(file, format!("{head}{text}").as_bytes())?;
    }
    if args.json {
        println!("{report}");
    } else {
        for (name, value) in report.as_object().into_iter().flatten() {
            println!("{name:<34} {value}");
        }
    }
    Ok(Verdict::Good)
}

/// Prompt tokens and answer tokens that one job has at most.
const JOB: (usize, usize) = (512, 400);

/// The costs of steps of the lane: the median of decoding, the tail of both kinds.
fn profile(name: &str, prefill: &[Duration], decode: &[Duration], groups: usize, chunk: usize) -> Profile {
    let histogram = |times: &[Duration]| {
        let mut histogram = Histogram::default();
        times.iter().for_each(|time| histogram.add(Nanos(time.as_nanos() as u64)));
        histogram.quantiles(1e3)
    };
    let (prefill, decode) = (histogram(prefill), histogram(decode));
    let steps = groups * (JOB.0.div_ceil(chunk) + JOB.1);
    Profile {
        name: name.to_owned(),
        steps: vec![StepCost {
            capability: Capability::Reason,
            p50_us: decode.p50.round().max(1.0) as f32,
            p999_us: decode.p999.max(prefill.p999).round().max(1.0) as f32,
            steps_max: steps as u32,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_tells_the_same_from_the_close_and_the_wrong() {
        let mut comparison = Comparison::default();
        comparison.add(&[0.0, 1.0, 5.0], &[0.1, 1.0, 5.0]);
        // Another token, but the processor has the two within a hundredth of its range.
        comparison.add(&[0.0, 5.01, 5.0], &[0.0, 4.96, 5.0]);
        assert_eq!((comparison.positions, comparison.same, comparison.close), (2, 1, 1));
        assert!(comparison.holds(), "{}", comparison.sentence());
        comparison.add(&[0.0, 9.0, 5.0], &[0.0, 1.0, 5.0]);
        assert_eq!((comparison.largest, comparison.holds()), (8.0, false));
        let mut broken = Comparison::default();
        broken.add(&[f32::NAN, 1.0, 5.0], &[0.0, 1.0, 5.0]);
        assert!(!broken.holds(), "a logit that is no number is no agreement");
    }

    #[test]
    fn a_profile_has_the_tail_of_the_slower_kind_of_step() {
        let ms = Duration::from_millis;
        let profile = profile("thor", &[ms(40)], &[ms(9), ms(9), ms(10)], 4, 128);
        let cost = profile.cost(Capability::Reason).expect("measured");
        assert!((cost.p50_us - 9_000.0).abs() < 200.0 && (cost.p999_us - 40_000.0).abs() < 800.0, "{cost:?}");
        assert_eq!(cost.steps_max, 4 * (4 + 400));
        let text = toml::to_string(&profile).expect("TOML");
        assert_eq!(toml::from_str::<Profile>(&text).expect("read"), profile);
    }
}

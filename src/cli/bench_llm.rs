//! `sage bench llm`: how fast the embedded decoder is on this machine, on random weights of a known shape or on a given model.
//! A shape or folder flows in; tokens per second, memory, bandwidth and stopping times flow out, as a table or as JSON.

mod bandwidth;
mod grammar;
mod speed;
mod stopping;

use super::language_model::quantile_ms;
use super::random_model::{RandomModel, Shape, TemporaryFolder};
use super::{BadInput, Verdict};
use crate::engine::cpu::qwen2::{DecoderOptions, Mode};
use crate::model::checkpoint::Element;
use crate::model::quantize::quantize;
use crate::model::qwen2::Qwen2Weights;
use serde_json::{Map, Value, json};
use speed::Talk;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stopping::Busy;

/// Arguments of `sage bench llm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Measure this model, as it is stored, instead of random weights.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Shape of the random weights.
    #[arg(long, value_name = "SHAPE", default_value = "0.5b", conflicts_with = "model")]
    shape: Shape,
    /// How the random weights are stored.
    #[arg(
        long,
        value_name = "FORMAT,...",
        value_delimiter = ',',
        default_value = "bf16,8bit,4bit",
        conflicts_with = "model"
    )]
    weights: Vec<Format>,
    /// exact: activations in f32. fast: rounded to bf16 where the processor can multiply that. Weights that are not bf16 are
    /// measured once, in the first.
    #[arg(
        long,
        value_name = "MODE,...",
        value_delimiter = ',',
        default_value = "exact",
        alias = "mode",
        value_parser = super::language_model::mode
    )]
    modes: Vec<Mode>,
    /// Thread counts to measure, such as 1,2.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// What to measure.
    #[arg(long, value_name = "PART,...", value_delimiter = ',', default_value = "memory,speed,stop,prefix,grammar")]
    parts: Vec<Part>,
    /// Repetitions of each measurement of speed.
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeat: usize,
    /// Only write the random weights, in bf16, to this folder, for other programs to be measured on.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "weights", "parts", "json"])]
    write: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// As published.
    #[value(name = "bf16")]
    Bf16,
    /// 8 bits and a scale for each group of 128, or 32 where rows are not multiples of that.
    #[value(name = "8bit")]
    EightBit,
    /// 4 bits and a scale for each group of 32.
    #[value(name = "4bit")]
    FourBit,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Bytes beside the mapped weights.
    Memory,
    /// Decode, prefill, and the share of the read bandwidth.
    Speed,
    /// From a cancel to a free lane.
    Stop,
    /// A second question on the same beginning.
    Prefix,
    /// What following a JSON schema costs per token, at 151,936 tokens.
    Grammar,
}

/// Tokens of cache that memory is reported for.
const CONTEXT: usize = 2048;
/// Tokens of the measured prefill.
const PREFILL: usize = 512;
/// Decode steps of one repetition.
const DECODE: usize = 24;
/// Decode steps between two measurements of the bandwidth.
const TURN: usize = 6;
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
    if let Some(folder) = &args.write {
        let failed = |error| BadInput(format!("cannot write {}: {error}", folder.display()));
        RandomModel::write_to(folder, args.shape).map_err(failed)?;
        return Ok(Verdict::Good);
    }
    let mut runs = Vec::new();
    let of_models = args.parts.iter().any(|&part| part != Part::Grammar);
    if let (Some(model), true) = (&args.model, of_models) {
        measure_model(args, "as stored", model, &mut runs)?;
    } else if of_models {
        let random = RandomModel::write(args.shape)?;
        for &format in &args.weights {
            measure_format(args, format, random.folder(), &mut runs)?;
        }
    }
    let mut report = json!({
        "bench": "llm",
        "model": args.model.as_ref().map_or_else(|| "random weights".to_owned(), |model| model.display().to_string()),
        "runs": runs,
    });
    if args.parts.contains(&Part::Grammar) {
        report["grammar"] = grammar::cost()?;
    }
    if args.json {
        println!("{report}");
    } else {
        print_table(&report);
    }
    Ok(Verdict::Good)
}

/// Measures random weights in one format.
fn measure_format(args: &Args, format: Format, bf16: &Path, runs: &mut Vec<Value>) -> anyhow::Result<()> {
    let (name, element) = match format {
        Format::Bf16 => return measure_model(args, "bf16", bf16, runs),
        Format::EightBit => ("8bit", Element::Q8),
        Format::FourBit => ("4bit", Element::Q4),
    };
    let smaller = TemporaryFolder::make(&format!("sage-random-model-{name}"))?;
    quantize(bf16, smaller.path(), element)?;
    measure_model(args, name, smaller.path(), runs)
}

/// Measures one model with every number of threads and in every mode that matters to it.
fn measure_model(args: &Args, format: &str, folder: &Path, runs: &mut Vec<Value>) -> anyhow::Result<()> {
    let weights = Arc::new(Qwen2Weights::open(folder).map_err(|error| BadInput(error.to_string()))?);
    let rounds = weights.matrices().any(|matrix| matrix.element == Element::Bf16);
    let modes = if rounds { &args.modes[..] } else { &args.modes[..1] };
    for (&threads, &mode) in args.threads.iter().flat_map(|threads| modes.iter().map(move |mode| (threads, mode))) {
        let options = DecoderOptions { threads, mode, ..DecoderOptions::default() };
        let mut talk = Talk::new(&weights, options)?;
        let mut run = Map::new();
        run.insert("weights".to_owned(), json!(format));
        run.insert("threads".to_owned(), json!(threads));
        run.insert("mode".to_owned(), json!(mode.name()));
        run.insert("kernels".to_owned(), json!(talk.kernels()));
        run.insert("weights_bytes".to_owned(), json!(weights.file_bytes));
        // Memory first: what the other parts allocate would count.
        for part in [Part::Memory, Part::Speed, Part::Prefix] {
            if args.parts.contains(&part) {
                let figures = match part {
                    Part::Memory => talk.memory()?,
                    Part::Speed => talk.speed(folder, args.repeat)?,
                    _ => talk.second_question()?,
                };
                run.extend(figures.as_object().cloned().unwrap_or_default());
            }
        }
        if args.parts.contains(&Part::Stop) {
            for (busy, name) in [(Busy::Decode, "decode"), (Busy::Prefill, "prefill")] {
                let (back, times) = stopping::times(talk, busy)?;
                talk = back;
                for (rank, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                    run.insert(format!("cancel_{name}_ms_{rank}"), json!(quantile_ms(&times, share)));
                }
            }
        }
        runs.push(Value::Object(run));
    }
    Ok(())
}

/// One column for each run.
fn print_table(report: &Value) {
    let runs: Vec<&Map<String, Value>> =
        report["runs"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    println!("{}", report["model"].as_str().unwrap_or_default());
    for name in runs.first().into_iter().flat_map(|run| run.keys()) {
        print!("  {name:<32}");
        for run in &runs {
            let value = run.get(name).map_or_else(String::new, |value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            print!(" {value:>17}");
        }
        println!();
    }
    if let Some(grammar) = report["grammar"].as_object() {
        println!("following a JSON schema");
        for (name, value) in grammar {
            println!("  {name:<32} {value:>17}");
        }
    }
}

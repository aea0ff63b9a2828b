//! `sage engine`: builds and looks after TensorRT engines (engine_build.rs), makes smaller weights out of a checkpoint, and says
//! what that costs in accuracy. Model folders flow in; engine or model folders, or figures, flow out.

use super::{BadInput, Verdict, engine_build};
use crate::calibrate::agreement::Agreement;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions, Mode, PromptError};
use crate::model::checkpoint::Element;
use crate::model::quantize::quantize;
use crate::model::qwen2::Qwen2Weights;
use crate::model::tokenizer::Tokenizer;
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Arguments of `sage engine`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: EngineCommand,
}

#[derive(Debug, clap::Subcommand)]
enum EngineCommand {
    /// Build a TensorRT engine from a checkpoint, or write the ONNX that another machine builds from.
    Build(engine_build::BuildArgs),
    /// Print what an engine's folder says about itself.
    Inspect(engine_build::FolderArgs),
    /// List the engines in a folder.
    List(engine_build::FolderArgs),
    /// Check that an engine's files are whole and, with --model, that it is the checkpoint's; where there is a GPU, also that
    /// it answers as the processor does.
    Verify(engine_build::VerifyArgs),
    /// Measure an engine on the GPU: what its steps cost, how much of the bandwidth it uses.
    #[cfg(feature = "tensorrt")]
    Bench(super::engine_device::BenchArgs),
    /// Remove what interrupted or earlier builds left in an engine's folder.
    Prune(engine_build::FolderArgs),
    /// Say which TensorRT is installed, and whether its runtime starts.
    Libraries(engine_build::LibrariesArgs),
    /// Store a checkpoint's matrices in 8 or 4 bits, in groups of 32 with a scale each.
    Quantize(QuantizeArgs),
    /// Compare a model with the one it was made from: perplexity, top-1 agreement, KL divergence.
    Eval(EvalArgs),
}

#[derive(Debug, clap::Args)]
struct QuantizeArgs {
    /// Model folder in Hugging Face layout, in bf16, f16 or f32.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder to write; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Bits of a weight: 8 or 4.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(4..=8))]
    bits: u8,
}

#[derive(Debug, clap::Args)]
struct EvalArgs {
    /// The model to judge.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The model it is compared with, usually the unquantised one.
    #[arg(long, value_name = "DIR")]
    reference: PathBuf,
    /// Text to read.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of the text to read.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    tokens: usize,
    /// Tokens that are read before the context starts anew.
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// Threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// How the model to judge computes, exact or fast; the other is always exact. With the same folder twice, `fast` is
    /// compared with `exact`.
    #[arg(long, value_name = "MODE", default_value = "exact", value_parser = super::language_model::mode)]
    mode: Mode,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A folder or file that cannot be used, in one sentence.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    match &args.what {
        EngineCommand::Build(args) => engine_build::build(args),
        EngineCommand::Inspect(args) => engine_build::inspect(args),
        EngineCommand::List(args) => engine_build::list(args),
        EngineCommand::Verify(args) => engine_build::verify(args),
        #[cfg(feature = "tensorrt")]
        EngineCommand::Bench(args) => super::engine_device::bench(args),
        EngineCommand::Prune(args) => engine_build::prune(args),
        EngineCommand::Libraries(args) => engine_build::libraries(args),
        EngineCommand::Quantize(args) => make_smaller(args),
        EngineCommand::Eval(args) => evaluate(args),
    }
}

fn make_smaller(args: &QuantizeArgs) -> anyhow::Result<Verdict> {
    let element = match args.bits {
        8 => Element::Q8,
        4 => Element::Q4,
        other => return Err(BadInput(format!("--bits {other} is not offered; say 8 or 4")).into()),
    };
    // Checks that all is there and fits before anything is written.
    let before = open(&args.model)?;
    if args.out.canonicalize().ok() == args.model.canonicalize().ok() {
        return Err(BadInput("--out is the model's own folder; give another".to_owned()).into());
    }
    quantize(&args.model, &args.out, element).map_err(|error| BadInput(error.to_string()))?;
    let after = open(&args.out)?;
    let share = 100.0 * after.file_bytes as f64 / before.file_bytes as f64;
    println!("{}: {} bytes, {share:.1} % of {}", args.out.display(), after.file_bytes, before.file_bytes);
    Ok(Verdict::Good)
}

fn open(folder: &Path) -> anyhow::Result<Arc<Qwen2Weights>> {
    Ok(Arc::new(Qwen2Weights::open(folder).map_err(|error| BadInput(error.to_string()))?))
}

fn evaluate(args: &EvalArgs) -> anyhow::Result<Verdict> {
    let text = std::fs::read_to_string(&args.text)
        .map_err(|error| BadInput(format!("cannot read {}: {error}", args.text.display())))?;
    let tokenizer = Tokenizer::load(&args.reference).map_err(|error| BadInput(error.to_string()))?;
    let mut tokens = tokenizer.encode(&text)?;
    tokens.truncate(args.tokens);
    if tokens.len() < 2 || args.context < 2 {
        return Err(BadInput("the text and the context must have at least two tokens".to_owned()).into());
    }
    let context = args.context.min(tokens.len());
    let options = DecoderOptions { threads: args.threads.max(1), context, ..DecoderOptions::default() };
    let (judged, reference) = (open(&args.model)?, open(&args.reference)?);
    let vocabulary = reference.config.vocab_size;
    if judged.config.vocab_size != vocabulary {
        return Err(BadInput("the two models have vocabularies of different sizes".to_owned()).into());
    }
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(BadInput(PromptError::Unknown { token, vocabulary }.to_string()).into());
    }
    let sizes = (judged.file_bytes, reference.file_bytes);
    let (mut judged, mut reference) = (
        Decoder::new(judged, DecoderOptions { mode: args.mode, ..options.clone() })?,
        Decoder::new(reference, options)?,
    );
    let mut agreement = Agreement::default();
    for window in tokens.chunks(context) {
        agreement.read(&mut judged, &mut reference, window);
    }
    let mut report = agreement.report();
    report["mode"] = json!(args.mode.name());
    report["kernels"] = json!(judged.options().kernels.full_name());
    report["weights_bytes"] = json!(sizes.0);
    report["weights_bytes_reference"] = json!(sizes.1);
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{report}")?;
    } else {
        for (name, value) in report.as_object().into_iter().flatten() {
            writeln!(out, "{name:<24} {value}")?;
        }
    }
    Ok(Verdict::Good)
}

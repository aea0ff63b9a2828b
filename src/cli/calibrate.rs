//! `sage calibrate`: makes a checkpoint in few bits with the scales it needs, and says what that costs; or imports the ranges
//! of an old calibration table. Folders and files flow in; a folder or a file and a short report flow out.

use super::{BadInput, Verdict};
use crate::calibrate::{CalibrateError, Request, calibrate, legacy};
use crate::whole_file;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `sage calibrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model folder in Hugging Face layout (Qwen2 or Qwen2.5), in bf16, f16 or f32.
    #[arg(value_name = "MODEL", required_unless_present = "import")]
    model: Option<PathBuf>,
    /// int4, int8, fp8, nvfp4, or a file like those in calibration/recipes.
    #[arg(long, value_name = "R", required_unless_present = "import")]
    recipe: Option<String>,
    /// Folder to write, not there or empty; with --import: the file to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Read this file (text, or JSON lines with messages) instead of the recipe's sample sets; may be given often.
    #[arg(long, value_name = "FILE")]
    samples: Vec<PathBuf>,
    /// Read what was asked and answered in this recording instead of the recipe's sample sets; may be given often.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// Most tokens to read for ranges; default: the recipe's.
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Decides which documents are read for ranges and which for the report.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads; default: as many as the machine has cores.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Turn a calibration table of TensorRT's old INT8 calibrators into amax.json.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "recipe", "samples", "log", "tokens"])]
    import: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A model, recipe or sample that cannot be used, in one sentence.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    if let Some(table) = &args.import {
        return import(table, &args.out);
    }
    let (Some(model), Some(recipe)) = (&args.model, &args.recipe) else {
        return Err(BadInput("give a model folder and --recipe, or --import".to_owned()).into());
    };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let request = Request {
        model,
        out: &args.out,
        recipe,
        samples: &args.samples,
        logs: &args.log,
        tokens: args.tokens,
        seed: args.seed,
        threads: args.threads.unwrap_or_else(cores).clamp(1, 256),
    };
    let done = calibrate(&request, &mut |stage| eprintln!("{stage}")).map_err(refused)?;
    if args.json {
        println!("{}", done.report);
        return Ok(Verdict::Good);
    }
    let (packed, all) = done.modules;
    println!("{}: {packed} of {all} linear layers in few bits", args.out.display());
    for (name, value) in done.report.as_object().into_iter().flatten() {
        println!("{name:<24} {value}");
    }
    for note in &done.notes {
        println!("note: {note}");
    }
    Ok(Verdict::Good)
}

/// What was asked for is bad input; a thread that does not start is a fault.
fn refused(error: CalibrateError) -> anyhow::Error {
    match error {
        CalibrateError::Start(_) => error.into(),
        other => BadInput(other.to_string()).into(),
    }
}

fn import(table: &Path, out: &Path) -> anyhow::Result<Verdict> {
    let bad = |why: String| BadInput(format!("{}: {why}", table.display()));
    let text = std::fs::read_to_string(table).map_err(|error| bad(error.to_string()))?;
    let table = legacy::parse(&text).map_err(bad)?;
    let json = json!({"source": table.source, "inputs": table.largest});
    whole_file::write(out, format!("{json:#}\n").as_bytes())
        .map_err(|error| BadInput(format!("{} cannot be written ({error})", out.display())))?;
    println!("{}: ranges of {} tensors from {}", out.display(), table.largest.len(), table.source);
    Ok(Verdict::Good)
}

//! `sage calibrate`: makes a checkpoint in few bits with the scales it needs, and says what that costs; or imports the ranges
//! of an old calibration table. Folders and files flow in; a folder or a file and a short report flow out.

use super::{BadInput, Verdict};
use crate::calibrate::{CalibrateError, Request, calibrate, legacy};
use crate::engine::cpu::kernels::Kernels;
use crate::whole_file;
use serde_json::{Value, json};
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
    /// Kernels of the reference: auto or scalar. Scalar gives the same folder on every machine.
    #[arg(long, value_name = "SET", value_parser = ["auto", "scalar"], default_value = "auto")]
    kernels: String,
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
        kernels: if args.kernels == "scalar" { Kernels::scalar() } else { Kernels::best() },
    };
    let done = calibrate(&request, &mut |stage| eprintln!("{stage}")).map_err(refused)?;
    if args.json {
        println!("{}", done.report);
        return Ok(Verdict::Good);
    }
    let (packed, all) = done.modules;
    println!("{}: {packed} of {all} linear layers in few bits", args.out.display());
    let bytes = |name: &str| done.report[name].as_f64().unwrap_or(0.0) / 1e6;
    println!("{:.1} MB of weights, {:.1} MB before", bytes("weights_bytes"), bytes("weights_bytes_reference"));
    print!("{}", table(&done.report));
    for note in &done.notes {
        println!("note: {note}");
    }
    Ok(Verdict::Good)
}

/// Agreement with the original over each sample set and over all.
fn table(report: &Value) -> String {
    let empty = Vec::new();
    let sets = report["sets"].as_array().unwrap_or(&empty);
    let rows: Vec<(&str, &Value)> = sets
        .iter()
        .map(|set| (set["name"].as_str().unwrap_or_default(), set))
        .chain(std::iter::once(("all", report)))
        .collect();
    let wide = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = format!(
        "{:wide$}  {:>7}  {:>12}  {:>12}  {:>8}  {:>8}\n",
        "", "tokens", "perplexity", "the original", "same top", "KL"
    );
    for (name, row) in rows {
        let number = |key: &str| row[key].as_f64();
        let shown = |key: &str, digits: usize| number(key).map_or("-".to_owned(), |x| format!("{x:.digits$}"));
        let percent = number("top1_agreement").map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        text += &format!(
            "{name:wide$}  {:>7}  {:>12}  {:>12}  {percent:>8}  {:>8}\n",
            row["tokens"],
            shown("perplexity", 3),
            shown("perplexity_reference", 3),
            shown("kl", 5)
        );
    }
    text
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

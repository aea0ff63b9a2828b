//! `sage ask`: one question to a language model, its answer streamed or as one JSON object; and a small suite of questions
//! with a report. Text and options flow in, text or JSON flows out.

use super::language_model::{Answer, ModelArgs, ModelFiles, Speaker, milliseconds, quantile_ms, resident_bytes};
use super::{BadInput, Verdict};
use crate::engine::CancelToken;
use crate::engine::cpu::qwen2::Finish;
use crate::model::constraint::{Constraint, Constraints};
use crate::whole_file;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `sage ask`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask.
    #[arg(required_unless_present = "suite", conflicts_with = "suite")]
    text: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Take the text as the prompt as it is, without the chat format.
    #[arg(long, conflicts_with_all = ["suite", "system"])]
    raw: bool,
    /// Let the answer be JSON that validates against the JSON schema in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "suite")]
    schema: Option<PathBuf>,
    /// Print one JSON object instead of streaming the text.
    #[arg(long)]
    json: bool,
    /// Ask a fixed set of questions and write a JSON report.
    #[arg(long, value_name = "NAME")]
    suite: Option<Suite>,
    /// Where the suite's report goes; with --json it goes to standard output if no file is named.
    #[arg(long, value_name = "FILE", requires = "suite")]
    report: Option<PathBuf>,
}

/// A fixed set of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// The three questions that SAGE-Thor's predecessor asked its models on a Jetson AGX Thor.
    Thor,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Thor => "thor",
        }
    }

    fn questions(self) -> &'static [&'static str] {
        match self {
            Suite::Thor => &[
                "Hello! Please introduce yourself.",
                "What does consciousness mean to you?",
                "Explain the relationship between trust and compression.",
            ],
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let files = ModelFiles::open(&args.model)?;
    match (args.suite, &args.text) {
        (Some(suite), _) => ask_suite(args, suite, files),
        (None, Some(text)) => ask_one(args, text, files),
        (None, None) => Err(BadInput("say what to ask".to_owned()).into()),
    }
}

fn ask_one(args: &Args, text: &str, files: ModelFiles) -> anyhow::Result<Verdict> {
    let prompt = if args.raw { files.tokenizer.encode(text)? } else { files.first_turn(text)? };
    let mut constraint = args.schema.as_deref().map(|file| constraint(file, &files)).transpose()?;
    let context = prompt.len().saturating_add(args.model.max_new_tokens);
    let mut speaker = files.start((args.model.threads(), args.model.mode), context)?;
    let answer = answer(args, &mut speaker, &prompt, constraint.as_mut())?;
    if args.json {
        writeln!(io::stdout(), "{}", report(&speaker, &answer))?;
    }
    if constraint.is_some() && answer.finish != Some(Finish::Stop) {
        eprintln!("sage: the answer was cut after {} tokens, before its JSON was complete", answer.tokens.len());
        return Ok(Verdict::CheckFailed);
    }
    Ok(Verdict::Good)
}

/// Reads a schema.
fn constraint(file: &Path, files: &ModelFiles) -> anyhow::Result<Constraint> {
    let bad = |error: &dyn std::fmt::Display| BadInput(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| bad(&error))?;
    let schema: Value =
        serde_json::from_str(&text).map_err(|error| bad(&format_args!("is not valid JSON ({error})")))?;
    let end = files.sampling.end_tokens.first().copied();
    let constraints = Constraints::new(&files.tokenizer, end).map_err(|error| bad(&error))?;
    Ok(constraints.prepare(&schema).map_err(|error| bad(&error))?.begin())
}

/// Answers, streaming unless the output is JSON.
fn answer(
    args: &Args,
    speaker: &mut Speaker,
    prompt: &[u32],
    constraint: Option<&mut Constraint>,
) -> anyhow::Result<Answer> {
    let mut out = io::stdout();
    let how = (args.model.max_new_tokens, args.model.seed);
    let answer = speaker.answer(prompt, how, (&CancelToken::default(), constraint), |piece| {
        if args.json {
            return Ok(());
        }
        out.write_all(piece.as_bytes())?;
        out.flush()
    })?;
    if !args.json {
        writeln!(out)?;
    }
    Ok(answer)
}

/// What `--json` prints of one answer.
fn report(speaker: &Speaker, answer: &Answer) -> Value {
    let decoding: Duration = answer.decode.iter().sum();
    let rate = if decoding.is_zero() { 0.0 } else { answer.decode.len() as f64 / decoding.as_secs_f64() };
    json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish.map_or("interrupted", |finish| finish.name()),
        "load_ms": milliseconds(speaker.load),
        "prefill_ms": milliseconds(answer.prefill),
        "decode_ms_p50": quantile_ms(&answer.decode, 0.5),
        "decode_ms_p99": quantile_ms(&answer.decode, 0.99),
        "tokens_per_s": (rate * 100.0).round() / 100.0,
        "rss_bytes": resident_bytes(),
        "weights_bytes": speaker.files.weights.file_bytes,
        "kv_bytes": speaker.generation.kv().bytes(),
    })
}

fn ask_suite(args: &Args, suite: Suite, files: ModelFiles) -> anyhow::Result<Verdict> {
    let questions = suite.questions();
    let prompts = questions.iter().map(|question| files.first_turn(question)).collect::<Result<Vec<_>, _>>()?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or_default();
    let context = longest.saturating_add(args.model.max_new_tokens);
    let mut speaker = files.start((args.model.threads(), args.model.mode), context)?;
    let at_start = resident_bytes();
    let mut results = Vec::new();
    for (question, prompt) in questions.iter().zip(&prompts) {
        if !args.json {
            writeln!(io::stdout(), "> {question}")?;
        }
        let answer = answer(args, &mut speaker, prompt, None)?;
        let mut result = json!({ "question": question });
        if let (Some(result), Value::Object(fields)) = (result.as_object_mut(), report(&speaker, &answer)) {
            result.extend(fields);
        }
        results.push(result);
    }
    let report = json!({
        "suite": suite.name(),
        "model": args.model.model.as_deref().unwrap_or(Path::new("mind")).display().to_string(),
        "threads": speaker.decoder.options().threads,
        "kernels": speaker.decoder.options().kernels.full_name(),
        "mode": speaker.decoder.options().mode.name(),
        "memory": {
            "rss_after_load_bytes": at_start,
            "rss_bytes": resident_bytes(),
            "weights_bytes": speaker.files.weights.file_bytes,
            "kv_bytes": speaker.generation.kv().bytes(),
            "workspace_bytes": speaker.decoder.workspace_bytes(),
        },
        "results": results,
    });
    let file = match &args.report {
        None if args.json => None,
        None => Some(PathBuf::from(format!("sage-{}.json", suite.name()))),
        Some(file) => Some(file.clone()),
    };
    match file {
        None => writeln!(io::stdout(), "{report}")?,
        Some(file) => {
            whole_file::write(&file, format!("{report:#}\n").as_bytes())
                .map_err(|error| BadInput(format!("cannot write {}: {error}", file.display())))?;
            eprintln!("wrote {}", file.display());
        }
    }
    Ok(Verdict::Good)
}

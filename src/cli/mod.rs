//! The command line: parses, calls the library, prints. One file per command. Errors become one sentence on standard error
//! and the exit code: 0 good, 1 the check failed, 2 bad input, 3 device or engine fault.

mod ask;
mod bench;
mod bench_engines;
#[cfg(feature = "tensorrt")]
mod bench_gpu;
mod bench_live;
mod bench_llm;
mod bench_loop;
mod calibrate;
mod chat;
mod config;
mod demo;
mod devices;
mod engine;
mod engine_build;
#[cfg(feature = "tensorrt")]
mod engine_device;
mod language_model;
mod plan;
mod random_model;
mod record;
mod replay;
mod run;
mod scene;
mod shell;
mod show;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// The real-time layer a robot's mind runs on: a fixed-rate attention loop that watches, listens, decides what matters
/// now, and preempts model work that has gone stale.
///
/// Exit codes: 0 good, 1 the check failed, 2 bad input, 3 device or engine fault.
#[derive(Debug, Parser)]
#[command(name = "sage", version, max_term_width = 100)]
pub struct Cli {
    /// Folder with the networks and scenes; default: ../share/sage beside the program, then the repository.
    #[arg(long, global = true, value_name = "DIR")]
    assets: Option<PathBuf>,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Play a recorded or synthetic scene through the whole loop, with no camera, microphone or GPU.
    Demo(demo::Args),
    /// Run the loop on this robot's cameras and microphones.
    Run(run::Args),
    /// Run the loop on this robot's cameras and microphones and record it.
    Record(record::Args),
    /// Run a recording again: verify every decision, or simulate with other engines and costs.
    Replay(replay::Args),
    /// Render a synthetic scene into a log.
    Scene(scene::Args),
    /// List cameras, microphones and loudspeakers.
    Devices(devices::Args),
    /// Ask a language model one question.
    Ask(ask::Args),
    /// Talk with a language model in the terminal.
    Chat(chat::Args),
    /// Measure the loop or an engine.
    Bench(bench::Args),
    /// Build TensorRT engines; make a language model's weights smaller, and measure what that costs.
    Engine(engine::Args),
    /// Make a checkpoint in few bits from what its layers see in samples or recordings, and say what that costs.
    Calibrate(calibrate::Args),
    /// Say whether a configuration fits a device's memory and keeps its deadlines, before anything is loaded.
    Plan(plan::Args),
    /// Print or check a configuration.
    Config(config::Args),
    /// Generate shell completions.
    Completions(shell::CompletionArgs),
    /// Generate the man page.
    Man,
}

/// A bad input: exit code 2 instead of 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// How a command ended, beyond errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Good,
    /// The command did its work and found that something does not hold.
    CheckFailed,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if let Some(assets) = &cli.assets {
        crate::assets::set_root(assets);
    }
    let result = match cli.command {
        CliCommand::Demo(args) => demo::run(args),
        CliCommand::Run(args) => run::run(args),
        CliCommand::Record(args) => record::run(args),
        CliCommand::Replay(args) => replay::run(&args),
        CliCommand::Scene(args) => scene::run(&args),
        CliCommand::Devices(args) => devices::run(&args),
        CliCommand::Ask(args) => ask::run(&args),
        CliCommand::Chat(args) => chat::run(&args),
        CliCommand::Bench(args) => bench::run(args),
        CliCommand::Engine(args) => engine::run(&args),
        CliCommand::Calibrate(args) => calibrate::run(&args),
        CliCommand::Plan(args) => plan::run(&args),
        CliCommand::Config(args) => config::run(&args),
        CliCommand::Completions(args) => shell::completions(&args),
        CliCommand::Man => shell::man(),
    };
    match result {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            // A closed pipe (`sage ... | head`) is no fault.
            let broken_pipe = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
            if error.downcast_ref::<std::io::Error>().is_some_and(broken_pipe) {
                return ExitCode::SUCCESS;
            }
            eprintln!("sage: {error:#}");
            let bad_input = error.is::<BadInput>() || error.is::<crate::config::ConfigError>();
            ExitCode::from(if bad_input { 2 } else { 3 })
        }
    }
}

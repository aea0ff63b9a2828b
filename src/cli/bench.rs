//! `sage bench`: figures of the loop and of the engines on this machine. Nothing here passes or fails.

use super::{Verdict, bench_engines, bench_live, bench_llm, bench_loop};
use clap::Subcommand;
use std::path::PathBuf;

/// Arguments of `sage bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The tick, features, growth, replay, simulation and overload.
    Loop(LoopArgs),
    /// The whole loop in real time, without engines and under twice a lane's load by turns.
    Live(bench_live::Args),
    /// Step costs of the engines that ship; `--write` makes a profile of them.
    Engines {
        /// Write a profile to this file.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// The embedded language model: speed, memory, bandwidth, and how fast it stops.
    Llm(bench_llm::Args),
    /// The GPU below TensorRT: bandwidth, transfers, launches, waiting beside heavy work, cancelling.
    #[cfg(feature = "tensorrt")]
    Gpu(super::bench_gpu::Args),
    /// Wake-up lateness of the ticker alone, as cyclictest measures it.
    Lateness {
        /// Ticks per second.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How long, seconds.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// SCHED_FIFO priority; 0: ordinary scheduling.
        #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=99))]
        priority: u8,
    },
}

/// Arguments of `sage bench loop`.
#[derive(Debug, clap::Args)]
pub struct LoopArgs {
    /// Parts to run, default all: tick, features, growth, verify, simulate, overload.
    pub parts: Vec<String>,
    /// Virtual ticks of the growth part.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub ticks: u64,
    /// Seconds of the scene that simulations use.
    #[arg(long, value_name = "S", default_value_t = 84.0)]
    pub seconds: f64,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<Verdict> {
    match args.what {
        What::Loop(args) => bench_loop::run(&args),
        What::Live(args) => bench_live::run(&args),
        What::Engines { write } => bench_engines::run(write.as_deref()),
        What::Llm(args) => bench_llm::run(&args),
        #[cfg(feature = "tensorrt")]
        What::Gpu(args) => super::bench_gpu::run(&args),
        What::Lateness { rate, seconds, priority } => bench_loop::lateness(rate, seconds, priority),
    }
}

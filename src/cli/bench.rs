//! `sage bench`: measures a part of the system on this machine. One file per benchmark; this one only chooses.

use super::{Verdict, bench_llm};

/// Arguments of `sage bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// The embedded language model: speed, memory, bandwidth, and how fast it stops.
    Llm(bench_llm::Args),
}

/// Runs the benchmark.
///
/// # Errors
/// Those of the benchmark.
pub fn run(args: Args) -> anyhow::Result<Verdict> {
    match args.what {
        Bench::Llm(args) => bench_llm::run(&args),
    }
}

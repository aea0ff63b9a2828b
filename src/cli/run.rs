//! `sage run`: the loop on this robot's cameras and microphones, until SIGTERM or Ctrl-C.

use super::show::{Screen, finish, stop_on_signals};
use super::{Verdict, demo, plan};
use crate::config::Config;
use crate::observe::logging;
use crate::robot::session::{self, Setup, Source};
use crate::types::Nanos;
use anyhow::Context;
use std::path::PathBuf;

/// Arguments of `sage run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; `sage config --default` prints one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End after this many seconds.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Folder for the report and the picture at the end; default: the folder of recordings, else none.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON lines, the report last.
    #[arg(long)]
    json: bool,
    /// Print lines even on a terminal.
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<Verdict> {
    let config = Config::load(&args.config)?;
    plan::admit(&config)?;
    if let Some(complaint) = logging::install(&config.log) {
        eprintln!("sage: {complaint}");
    }
    let dir = (!config.record.dir.is_empty()).then(|| PathBuf::from(&config.record.dir));
    for folder in dir.iter().chain(&args.out) {
        std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    }
    let out = args.out.or_else(|| dir.clone());
    let stop = stop_on_signals()?;
    let mut screen = Screen::new("sage run", args.json, args.plain);
    let setup = Setup {
        config,
        source: Source::Devices,
        engines: true,
        record: dir,
        limit: args.seconds.map(|seconds| Nanos((seconds.max(0.0) * 1e9) as u64)),
        stop,
        seed: 0,
    };
    let finished = session::run(setup, &mut screen).map_err(demo::refused)?;
    drop(screen);
    finish(finished, out.as_deref(), args.json)
}

//! `sage record`: the loop on this robot's devices, with a recording and a line now and then. What it prints at the end
//! is where the recording lies and what is missing in it.

use super::{BadInput, Verdict};
use crate::config::{Config, CoreConfig};
use crate::observe::{Tally, Timing, logging};
use crate::robot::TickRecord;
use crate::robot::realtime::Claim;
use crate::robot::session::{Setup, Source, Watch, run as run_session};
use crate::types::Nanos;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `sage record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to: a file, or a folder that gets a file named by the time.
    #[arg(long, short, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    /// The configuration; its `[record]` says how much disk may be used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End after this long, seconds; default: until Ctrl-C.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Leave out frames and sound; keep features, decisions and results.
    #[arg(long)]
    no_raw: bool,
}

/// Prints what people should know.
struct Lines;

impl Watch for Lines {
    fn started(&mut self, _: &CoreConfig, _: &[Claim], engines: &[String]) {
        self.note(&format!("recording; engines: {}", engines.join(", ")));
    }

    fn tick(&mut self, _: &TickRecord, _: Timing) {}

    fn refresh(&mut self, _: &mut Tally) {}

    fn note(&mut self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Runs the command.
///
/// # Errors
/// `BadInput` for a configuration without a place to record to, or a build without devices.
pub fn run(args: Args) -> anyhow::Result<Verdict> {
    let mut config = match &args.config {
        Some(file) => Config::load(file)?,
        None => Config { camera: vec![Default::default()], microphone: vec![Default::default()], ..Config::default() },
    };
    if let Some(complaint) = logging::install(&config.log) {
        eprintln!("sage: {complaint}");
    }
    config.record.raw &= !args.no_raw;
    let configured = (!config.record.dir.is_empty()).then(|| PathBuf::from(&config.record.dir));
    let Some(out) = args.out.or(configured) else {
        return Err(BadInput("say --out FILE or DIR, or set [record] dir in the configuration".to_owned()).into());
    };
    let stop = super::show::stop_on_signals()?;
    let limit = args.seconds.map(|seconds| Nanos((seconds.max(0.0) * 1e9) as u64));
    let setup = Setup { config, source: Source::Devices, engines: true, record: Some(out), limit, stop, seed: 0 };
    let finished = run_session(setup, &mut Lines).map_err(super::demo::refused)?;
    let mut out = io::stdout().lock();
    if let Some(recording) = finished.recording {
        for file in &recording.files {
            writeln!(out, "{}", file.display())?;
        }
        writeln!(out, "{} ticks, {} bytes, digest {}", recording.ticks, recording.bytes, recording.digest.hex())?;
        for (what, count) in &recording.lost {
            writeln!(out, "lost: {count} of {what}")?;
        }
        if let Some(stopped) = recording.stopped {
            writeln!(out, "{stopped}")?;
            return Ok(Verdict::CheckFailed);
        }
    }
    Ok(Verdict::Good)
}

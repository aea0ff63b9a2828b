//! `sage scene`: renders a synthetic scene into a log, faster than real time: what `demo` plays and tests replay.

use super::{BadInput, Verdict};
use crate::config::{CameraConfig, Config, MicrophoneConfig};
use crate::record::{Limits, Recorder, SessionInfo};
use crate::sense::feed::Payload;
use crate::sense::scene::{Scene, timeline};
use crate::time::Virtual;
use crate::types::Nanos;
use anyhow::Context;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `sage scene`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// demo, quiet, busy, hazard, or a number that makes one.
    scene: String,
    /// The log to write.
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

/// Instant of the first payload in Unix time: 2026-01-01. A rendered scene has no date of its own, and the same scene
/// must give the same bytes.
const DATE_NS: i64 = 1_767_225_600_000_000_000;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let Some(scene) = Scene::named(&args.scene) else {
        let names = Scene::NAMES.join(", ");
        return Err(BadInput(format!("no scene \"{}\"; there are {names}, or any number", args.scene)).into());
    };
    let config = Config {
        camera: vec![CameraConfig::default()],
        microphone: vec![MicrophoneConfig::default()],
        ..Config::default()
    };
    let seed = scene.seed();
    let clock = Virtual::default();
    let session = SessionInfo { seed, ..SessionInfo::new(config.core(), DATE_NS, Nanos::ZERO) };
    let temporary = args.out.with_extension("part");
    let mut recorder = Recorder::create(&temporary, session, Limits::default(), Arc::new(clock.clone()))
        .with_context(|| format!("{} cannot be written", temporary.display()))?;
    let (mut frames, mut blocks) = (0, 0);
    for (at, payload) in timeline(scene) {
        clock.set(at);
        match payload {
            Payload::Frame(source, frame) => {
                recorder.frame(source, &frame);
                frames += 1;
            }
            Payload::Sound(source, block) => {
                recorder.audio(source, &block);
                blocks += 1;
            }
            Payload::Status(status) => recorder.status(&status),
        }
        recorder.poll();
    }
    let summary = recorder.close();
    if let Some(why) = summary.stopped {
        anyhow::bail!("{}: {why}", args.out.display());
    }
    let written = summary.files.first().context("the recorder wrote no file")?;
    std::fs::rename(written, &args.out).with_context(|| format!("{} cannot be renamed", written.display()))?;
    writeln!(
        io::stdout(),
        "{}: {frames} frames, {blocks} blocks of sound, {} bytes",
        args.out.display(),
        summary.bytes
    )?;
    Ok(Verdict::Good)
}

//! `sage demo`: plays a recorded or synthetic scene in real time through the whole loop, shows it live, and ends with a
//! report.

use super::show::{Screen, finish};
use super::{BadInput, Verdict};
use crate::config::{CameraConfig, Config, MicrophoneConfig};
use crate::record::simulate::with_sources_of;
use crate::record::{Mapping, Payload, SensorLog};
use crate::robot::session::{self, RunError, Setup, Source, Timeline, Watch};
use crate::sense::scene::{Scene, timeline};
use crate::types::Nanos;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Field of view of the synthetic camera (`sense::scene::camera`).
const SCENE_FOV_DEG: f32 = 86.5;

/// Arguments of `sage demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A scene: demo, quiet, busy, hazard, a number that makes one, or an MCAP file.
    #[arg(long, value_name = "NAME|SEED|FILE", default_value = "demo")]
    scene: String,
    /// Camera topic of a log that others recorded; repeat for several. Default: a guess, which is printed.
    #[arg(long, value_name = "TOPIC")]
    camera: Vec<String>,
    /// Microphone topic of such a log; repeat for several.
    #[arg(long, value_name = "TOPIC")]
    mic: Vec<String>,
    /// End after this many seconds.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seconds: Option<f64>,
    /// Ticks per second.
    #[arg(long, value_name = "HZ", default_value_t = 100)]
    rate: u32,
    /// Folder for the report, the picture and the recording.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Print JSON lines, the report last.
    #[arg(long)]
    json: bool,
    /// Make the voice audible (needs espeak-ng and a build with `--features live`).
    #[arg(long)]
    speak: bool,
    /// Configuration; its cameras and microphones are not opened.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print lines even on a terminal.
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<Verdict> {
    let mut config = match &args.config {
        Some(file) => Config::load(file)?,
        None => Config::default(),
    };
    if !(1..=1000).contains(&args.rate) {
        return Err(BadInput(format!("--rate is {}; it must be 1 to 1000 ticks per second", args.rate)).into());
    }
    if args.seconds.is_some_and(|seconds| !(seconds > 0.0 && seconds < 1e6)) {
        return Err(BadInput("--seconds must be a positive number of seconds".to_owned()).into());
    }
    config.tick.rate_hz = args.rate;
    if args.speak {
        config.voice.kind = "espeak".to_owned();
    }
    let mapping = Mapping { cameras: args.camera.clone(), mics: args.mic.clone() };
    let (to_notes, notes) = channel();
    let (payloads, origin, seed) = payloads(&args.scene, &mapping, &mut config, to_notes)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    let stop = super::show::stop_on_signals()?;
    let name = if Path::new(&args.scene).extension().is_some() { "demo" } else { args.scene.as_str() };
    let mut screen = Screen::new(&format!("sage demo: {}", args.scene), args.json, args.plain);
    let setup = Setup {
        config,
        source: Source::Timeline { payloads, origin },
        engines: true,
        record: Some(args.out.join(format!("{name}.mcap"))),
        limit: args.seconds.map(|seconds| Nanos((seconds * 1e9) as u64)),
        stop: Arc::clone(&stop),
        seed,
    };
    let finished = session::run(setup, &mut screen).map_err(refused)?;
    for note in notes.try_iter().flatten() {
        screen.note(&note);
    }
    drop(screen);
    finish(finished, Some(&args.out), args.json)
}

/// Missing networks and devices are faults; what the build cannot do is bad input.
pub(super) fn refused(error: RunError) -> anyhow::Error {
    match error {
        RunError::Unsupported(why) => BadInput(why).into(),
        other => other.into(),
    }
}

/// What the scene delivers and when; the configuration gets its sources.
fn payloads(
    scene: &str,
    mapping: &Mapping,
    config: &mut Config,
    notes: Sender<Vec<String>>,
) -> anyhow::Result<(Timeline, Nanos, u64)> {
    let file = Path::new(scene);
    let shipped = crate::assets::scene_file(scene);
    if file.is_file() || shipped.is_file() {
        let path = if file.is_file() { file.to_owned() } else { shipped };
        let log = SensorLog::open(&path, mapping).map_err(|error| BadInput(error.to_string()))?;
        let payloads = played(log, config, notes)?;
        if !file.is_file() {
            config.camera.iter_mut().for_each(|camera| camera.fov_deg = SCENE_FOV_DEG);
        }
        return Ok(payloads);
    }
    let Some(world) = Scene::named(scene) else {
        let names = Scene::NAMES.join(", ");
        return Err(BadInput(format!("no scene \"{scene}\"; there are {names}, any number, or an MCAP file")).into());
    };
    config.camera = vec![CameraConfig { fov_deg: SCENE_FOV_DEG, ..CameraConfig::default() }];
    config.microphone = vec![MicrophoneConfig::default()];
    let seed = world.seed();
    Ok((Box::new(timeline(world)), Nanos::ZERO, seed))
}

/// A log's payloads in real time, its sources in the configuration's place; what there is to say about the log is sent when
/// it has been played.
fn played(
    mut log: SensorLog,
    config: &mut Config,
    notes: Sender<Vec<String>>,
) -> anyhow::Result<(Timeline, Nanos, u64)> {
    *config = with_sources_of(&log, config.clone());
    let first = log.next_due().ok_or_else(|| BadInput("the log holds no frame and no sound".to_owned()))?;
    let origin = first.0;
    let rest = Noted { log, notes };
    let payloads = std::iter::once(first).chain(rest).map(|(due, payload)| (due, payload.into()));
    Ok((Box::new(payloads), origin, 0))
}

/// A log that tells what it noticed once nobody reads it any more.
struct Noted {
    log: SensorLog,
    notes: Sender<Vec<String>>,
}

impl Iterator for Noted {
    type Item = (Nanos, Payload);

    fn next(&mut self) -> Option<Self::Item> {
        self.log.next_due()
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        // Nobody listens any more if the run failed.
        let _ = self.notes.send(self.log.notes());
    }
}

//! `sage demo`: plays a recorded or synthetic scene in real time through the whole loop, shows it live, and ends with a
//! report.

use super::show::{Screen, finish};
use super::{BadInput, Verdict};
use crate::config::{CameraConfig, Config, MicrophoneConfig};
use crate::record::{Mapping, SensorLog};
use crate::robot::session::{self, RunError, Setup, Source, Timeline};
use crate::sense::feed::Payload;
use crate::sense::scene::{Scene, timeline};
use crate::types::{Nanos, SourceId, SourceKind};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Field of view of the synthetic camera (`sense::scene::camera`).
const SCENE_FOV_DEG: f32 = 86.5;

/// Arguments of `sage demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A scene: demo, quiet, busy, hazard, a number that makes one, or an MCAP file.
    #[arg(long, value_name = "NAME|SEED|FILE", default_value = "demo")]
    scene: String,
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
    let (payloads, origin, seed) = payloads(&args.scene, &mut config)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    let stop = super::show::stop_on_signals()?;
    let name = if Path::new(&args.scene).extension().is_some() { "demo" } else { args.scene.as_str() };
    let mut screen = Screen::new(&format!("sage demo: {}", args.scene), args.json, args.plain);
    let setup = Setup {
        config,
        source: Source::Timeline { payloads, origin },
        record: Some(args.out.join(format!("{name}.mcap"))),
        limit: args.seconds.map(|seconds| Nanos((seconds * 1e9) as u64)),
        stop: Arc::clone(&stop),
        seed,
    };
    let finished = session::run(setup, &mut screen).map_err(refused)?;
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
fn payloads(scene: &str, config: &mut Config) -> anyhow::Result<(Timeline, Nanos, u64)> {
    let file = Path::new(scene);
    let shipped = crate::assets::scene_file(scene);
    if file.is_file() || shipped.is_file() {
        let path = if file.is_file() { file.to_owned() } else { shipped };
        let log = SensorLog::open(&path, &Mapping::default()).map_err(|error| BadInput(error.to_string()))?;
        return with_origin(recorded(log, config));
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

/// Looks at the first payload to learn when the log begins.
fn with_origin(mut timeline: Timeline) -> anyhow::Result<(Timeline, Nanos, u64)> {
    let first = timeline.next().ok_or_else(|| BadInput("the log holds no frame and no sound".to_owned()))?;
    let origin = first.0;
    Ok((Box::new(std::iter::once(first).chain(timeline)), origin, 0))
}

/// A log's payloads with the instants at which their sources delivered them; sources are put in the configuration's order:
/// cameras, microphones, status.
pub(super) fn recorded(log: SensorLog, config: &mut Config) -> Timeline {
    let sources = log.sources().to_vec();
    let plain = |name: &str| name.trim_matches('/').replace(['/', '.'], "-");
    let named = |kind: SourceKind| sources.iter().filter(move |source| source.0 == kind).map(move |s| plain(&s.1));
    config.camera = named(SourceKind::Camera)
        .map(|name| CameraConfig { name, fov_deg: SCENE_FOV_DEG, ..CameraConfig::default() })
        .collect();
    config.microphone =
        named(SourceKind::Microphone).map(|name| MicrophoneConfig { name, ..MicrophoneConfig::default() }).collect();
    let mut places = Vec::new();
    for kind in [SourceKind::Camera, SourceKind::Microphone] {
        places.extend((0..sources.len()).filter(|index| sources[*index].0 == kind));
    }
    let place = move |source: SourceId| {
        let place = places.iter().position(|index| *index == usize::from(source.0));
        SourceId(place.map_or(u8::MAX, |place| place as u8))
    };
    Box::new(log.timeline().map(move |(due, payload)| {
        let payload = match payload {
            Payload::Frame(source, frame) => Payload::Frame(place(source), frame),
            Payload::Sound(source, block) => Payload::Sound(place(source), block),
            Payload::Status(status) => Payload::Status(status),
        };
        (due, payload)
    }))
}

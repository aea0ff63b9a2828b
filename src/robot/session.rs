//! One run of the loop, wired up: sources, engines, lanes, voice, recorder and the tick between them. A configuration and a
//! source flow in; a report flows out. The calling thread becomes the run's observer (`observer`).

use super::engines::{self, LoadKind};
use super::observer::Observer;
use super::realtime::Claim;
use super::thread::Robot;
use super::tick::{RobotParts, TickRecord, record_rings};
use super::{Inbox, sources};
use crate::act::actions::ActionLines;
use crate::act::body::{Body, BodyParts, SilentVoice, Voice};
use crate::config::{Config, CoreConfig};
use crate::core::Core;
use crate::dispatch::Executor;
use crate::dispatch::work::by_lane;
use crate::engine::EngineError;
use crate::observe::notify::Notify;
use crate::observe::{Report, Tally, Timing};
use crate::record::{Limits, RecordThread, Recorder, SensorTap, SessionInfo, Summary};
use crate::sense::feed::{self, Intake, NoRecorder, Payload};
use crate::sense::played::PlayedSound;
use crate::sense::store::SensorStore;
use crate::time::{Clock, Monotonic, unix_offset_ns};
use crate::types::{AudioBlock, AudioFeatures, CameraFeatures, Frame, Nanos, SourceId, Status};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Tick records that may wait for the observer: over two seconds at 100 Hz.
const RECORDS: usize = 256;
/// The observer looks this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a run goes on after its timeline has ended, so that what is being said can end.
const AFTERGLOW: Nanos = Nanos::from_s(2);

/// Payloads with the instants at which they are due, in order.
pub type Timeline = Box<dyn Iterator<Item = (Nanos, Payload)> + Send>;

/// Where sensor data comes from.
pub enum Source {
    /// A log or a synthetic scene, played in real time; `origin` is the instant of the timeline at which the run begins.
    Timeline {
        /// What is played.
        payloads: Timeline,
        /// Its beginning.
        origin: Nanos,
    },
    /// This robot's cameras and microphones.
    Devices,
}

/// What a run needs.
pub struct Setup {
    /// The configuration; with a timeline its cameras and microphones are only names.
    pub config: Config,
    /// Where sensor data comes from.
    pub source: Source,
    /// Whether lanes get their engines; without, every job fails at once. For measuring what engines cost the tick.
    pub engines: bool,
    /// File or folder of the recording.
    pub record: Option<PathBuf>,
    /// The run ends after this span.
    pub limit: Option<Nanos>,
    /// Set by a signal handler: the run ends cleanly.
    pub stop: Arc<AtomicBool>,
    /// Seed that the record names.
    pub seed: u64,
}

/// Sees a run while it happens, on the observer's thread.
pub trait Watch {
    /// The loop has begun.
    fn started(&mut self, config: &CoreConfig, claims: &[Claim], engines: &[String]);
    /// One tick is over.
    fn tick(&mut self, record: &TickRecord, timing: Timing);
    /// Time to redraw, if it wants to.
    fn refresh(&mut self, tally: &mut Tally);
    /// Something that people should know, such as a device that came or went.
    fn note(&mut self, line: &str);
}

/// What is left of a run.
pub struct Finished {
    /// What it did.
    pub report: Report,
    /// The counts behind the report.
    pub tally: Tally,
    /// The recording.
    pub recording: Option<Summary>,
    /// First tick in which the second core decided otherwise; `None` as it should be.
    pub diverged: Option<u64>,
    /// Tick records that nobody could take.
    pub records_dropped: u64,
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A network cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The system refused a thread or a file.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The configuration asks for something this build does not have.
    #[error("{0}")]
    Unsupported(String),
}

/// What sources hand to the recorder.
struct Tap(SensorTap);

impl feed::Recorder for Tap {
    fn frame(&self, source: SourceId, frame: &Arc<Frame>, _: &CameraFeatures) {
        self.0.frame(source, frame);
    }

    fn sound(&self, source: SourceId, block: &AudioBlock, _: &AudioFeatures) {
        self.0.audio(source, block);
    }

    // Status is part of the tick's inputs, which the record holds.
    fn status(&self, _: &Status) {}
}

fn system(what: &str) -> impl FnOnce(std::io::Error) -> RunError + '_ {
    move |error| RunError::System { what: what.to_owned(), error }
}

/// Runs until the timeline ends, the limit is reached or `stop` is set.
///
/// # Errors
/// A network cannot be loaded, a recording cannot be created, or the system has no thread left.
pub fn run(setup: Setup, watch: &mut dyn Watch) -> Result<Finished, RunError> {
    let config = setup.config;
    let core_config = config.core();
    let clock: Arc<dyn Clock> = Arc::new(Monotonic);
    let mut loaded = engines::load(&config.engines, LoadKind::Busy(Arc::clone(&clock)))?;
    if !setup.engines {
        loaded.engines.clear();
    }
    let about: Vec<String> = loaded.engines.iter().map(|engine| engine.describe()).collect();
    let session = SessionInfo {
        config: serde_json::to_value(&config).unwrap_or_default(),
        weights: loaded.weights,
        kernels: loaded.kernels,
        seed: setup.seed,
        ..SessionInfo::new(core_config.clone(), unix_offset_ns(), clock.now())
    };
    let recording = match &setup.record {
        None => None,
        Some(path) => {
            let limits = Limits {
                raw: config.record.raw,
                max_bytes: config.record.max_bytes,
                keep_free_bytes: config.record.keep_free_bytes,
            };
            let what = format!("the recording {}", path.display());
            let recorder = Recorder::create(path, session, limits, Arc::clone(&clock)).map_err(system(&what))?;
            Some(RecordThread::start(recorder).map_err(system("the recorder's thread"))?)
        }
    };
    let (tick_tap, sensor_tap, record_thread) = match recording {
        Some(handle) => (Some(handle.tick), Some(handle.sensors), Some(handle.thread)),
        None => (None, None, None),
    };

    // Sources and their feeds.
    let store = Arc::new(SensorStore::new(core_config.sources.len()));
    let listener: Arc<dyn feed::Recorder> = match sensor_tap {
        Some(tap) => Arc::new(Tap(tap)),
        None => Arc::new(NoRecorder),
    };
    let mut feeds = Vec::new();
    let mut rings = Vec::new();
    for (index, (kind, _)) in core_config.sources.iter().enumerate() {
        let fov_deg = config.camera.get(index).map_or(70.0, |camera| camera.fov_deg);
        let (feed, ring) =
            feed::connect(SourceId(index as u8), *kind, fov_deg, Arc::clone(&store), Arc::clone(&listener));
        feeds.push(feed);
        rings.push(ring);
    }

    // Lanes, voice, tick.
    let (mut executors, mut lanes) = (Vec::new(), Vec::new());
    for (index, engines) in by_lane(loaded.engines, core_config.schedule.lanes).into_iter().enumerate() {
        let name = format!("lane{index}");
        let (executor, lane) = Executor::spawn(&name, engines, Arc::clone(&store) as _, Arc::clone(&clock))
            .map_err(system("a lane's thread"))?;
        executors.push(executor);
        lanes.push(lane);
    }
    let played = Arc::new(PlayedSound::new());
    let voice = voice(&config, &played, watch)?;
    let names = core_config.sources.iter().map(|(_, name)| name.clone()).collect();
    let (body, link) = Body::start(BodyParts {
        voice,
        lines: ActionLines::new(names, Nanos::from_ms(u64::from(config.gate.heartbeat_ms))),
        socket: (!config.act.socket.is_empty()).then(|| PathBuf::from(&config.act.socket)),
        listener: Box::new(|_, _| {}),
        clock: Arc::clone(&clock),
    })
    .map_err(system("the body's thread"))?;
    let (records_out, mut records) = record_rings(RECORDS);
    let inbox = Inbox { sensors: Intake::new(rings), voice: Some(link.reports), ..Inbox::default() };
    let release_halt = Arc::clone(&inbox.release_halt);
    let parts = RobotParts {
        core: Box::new(Core::new(core_config.clone())),
        inbox,
        lanes,
        acts: link.acts,
        actor: Some(link.thread),
        records: records_out,
        clock: Arc::clone(&clock),
    };
    let robot = Robot::start(parts, core_config.period(), &config.realtime).map_err(system("the tick's thread"))?;
    watch.started(&core_config, robot.claims(), &about);
    let begun = clock.now();
    let sources = sources::start(setup.source, feeds, &config, &played, Arc::clone(&clock), begun)?;

    // Observe until it is over.
    let mut observer = Observer::new(core_config, tick_tap);
    let mut notify = Notify::from_environment();
    let mut over_since = None;
    let beats = robot.beats();
    loop {
        while let Ok(record) = records.full.pop() {
            observer.observe(&record, watch);
            let _ = records.free.push(record);
        }
        watch.refresh(&mut observer.tally);
        let now = clock.now();
        notify.update(now, true, beats.ticks.load(Ordering::Acquire), &observer.missing());
        if sources.is_over() {
            over_since.get_or_insert(now);
        }
        let reached = setup.limit.is_some_and(|limit| now.since(begun) >= limit);
        let faded = over_since.is_some_and(|since| now.since(since) >= AFTERGLOW);
        if setup.stop.load(Ordering::Acquire) || reached || faded || !robot.is_running() {
            break;
        }
        if super::take_release_request() {
            release_halt.store(true, Ordering::Release);
        }
        std::thread::sleep(LOOK_EVERY);
    }

    notify.stopping("the run ends");
    sources.stop();
    let _ = robot.stop();
    while let Ok(record) = records.full.pop() {
        observer.observe(&record, watch);
    }
    drop(body);
    drop(executors);
    let Observer { mut tally, digest, diverged, .. } = observer.finish();
    let recording = record_thread.map(RecordThread::close);
    let report = tally.report(digest.hex());
    Ok(Finished { report, tally, recording, diverged, records_dropped: beats.records_dropped.load(Ordering::Acquire) })
}

/// The voice that the configuration names.
fn voice(config: &Config, played: &Arc<PlayedSound>, watch: &mut dyn Watch) -> Result<Box<dyn Voice>, RunError> {
    if config.voice.kind == "silent" {
        return Ok(Box::new(SilentVoice::new(config.voice.words_per_minute)));
    }
    sources::audible_voice(config, played, watch)
}

//! `replay --simulate`: the sensors of a log (ours or another's) through the whole loop under a virtual clock. Engines
//! really run; what their steps cost is a profile's word; the voice is silent and takes its time. A log, a profile and a
//! seed flow in; ticks and a digest flow out, the same on every run.

use super::digest::Digest;
use super::sensors::SensorLog;
use super::writer::Recorder;
use crate::act::body::{SilentVoice, Voice};
use crate::config::{CameraConfig, Config, MicrophoneConfig};
use crate::core::Core;
use crate::dispatch::VirtualLane;
use crate::dispatch::schedule::lane_of;
use crate::dispatch::virtual_lane::Faults;
use crate::dispatch::work::by_lane;
use crate::engine::profile::Profile;
use crate::engine::{Engine, EngineError};
use crate::sense::feed::{self, Intake, NoRecorder, SourceFeed};
use crate::sense::store::SensorStore;
use crate::time::Virtual;
use crate::types::{
    Act, AudioBlock, AudioFeatures, CameraFeatures, Command, Frame, Inputs, Nanos, Outputs, SourceId, SourceKind,
    Status, VoiceReport,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The first payload comes this long after the first tick.
const LEAD: Nanos = Nanos::from_ms(100);
/// The run goes on this long after the last payload, so that what is being said can end.
const AFTERGLOW: Nanos = Nanos::from_s(2);
/// Keyframes of a recorded simulation follow each other at this distance.
const KEYFRAME_EVERY: Nanos = Nanos::from_s(10);

/// How to simulate.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration; see [`config_of`].
    pub config: Config,
    /// Step costs.
    pub profile: Profile,
    /// With a seed, step costs vary within the profile.
    pub seed: Option<u64>,
    /// What is broken on purpose.
    pub faults: Faults,
    /// End after this much virtual time.
    pub limit: Option<Nanos>,
}

/// What a simulation was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Simulated {
    /// Ticks run.
    pub ticks: u64,
    /// Virtual time.
    pub time: Nanos,
    /// Digest of all decisions.
    pub digest: Digest,
    /// Frames, blocks of sound and status reports delivered.
    pub payloads: u64,
    /// What was guessed, corrected or could not be read, one sentence each.
    pub notes: Vec<String>,
}

/// The configuration a log's sensors run under: the recorded one, or `base` with the log's sources.
pub fn config_of(log: &SensorLog, base: &Config) -> Config {
    if let Some(session) = log.session()
        && let Ok(config) = serde_json::from_value::<Config>(session.config.clone())
        && config.core().sources == session.core.sources
    {
        return config;
    }
    let named = |kind: SourceKind| {
        let of_kind = log.sources().iter().filter(move |source| source.0 == kind);
        // A topic's name without what separates topics, since it becomes part of one.
        of_kind.map(|source| source.1.trim_matches('/').replace(['/', '.'], "-"))
    };
    Config {
        camera: named(SourceKind::Camera).map(|name| CameraConfig { name, ..Default::default() }).collect(),
        microphone: named(SourceKind::Microphone).map(|name| MicrophoneConfig { name, ..Default::default() }).collect(),
        ..base.clone()
    }
}

/// The given configuration, with the log's cameras and microphones in place of its own.
pub fn with_sources_of(log: &SensorLog, base: Config) -> Config {
    let sources = config_of(log, &Config::default());
    Config { camera: sources.camera, microphone: sources.microphone, ..base }
}

/// Gets every tick: inputs and outputs.
pub type Observer<'a> = &'a mut dyn FnMut(&Inputs, &Outputs);

/// Where a simulation is recorded: a recorder on a clock that the simulation sets.
pub struct Recording {
    /// The recorder.
    pub recorder: Recorder,
    /// Its clock.
    pub clock: Virtual,
}

/// The recorder as feeds see it.
struct Tap(Arc<Mutex<Recorder>>);

impl Tap {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // The simulation is one thread; a poisoned recorder is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl feed::Recorder for Tap {
    fn frame(&self, source: SourceId, frame: &Arc<Frame>, _: &CameraFeatures) {
        self.recorder().frame(source, frame);
    }

    fn sound(&self, source: SourceId, block: &AudioBlock, _: &AudioFeatures) {
        self.recorder().audio(source, block);
    }

    // Status is part of the tick's inputs, which the record holds.
    fn status(&self, _: &Status) {}
}

/// Runs the log's sensors through the loop.
///
/// # Errors
/// `Load` if the profile lacks the cost of an engine.
pub fn simulate(
    log: SensorLog,
    plan: &Plan,
    engines: Vec<Box<dyn Engine>>,
    recording: Option<Recording>,
    observer: Observer<'_>,
) -> Result<Simulated, EngineError> {
    let core_config = plan.config.core();
    let store = Arc::new(SensorStore::new(core_config.sources.len()));
    let mut lanes = Vec::new();
    for (index, engines) in by_lane(engines, core_config.schedule.lanes).into_iter().enumerate() {
        let seed = plan.seed.map(|seed| seed.wrapping_add(index as u64));
        lanes.push(VirtualLane::new(engines, store.clone(), &plan.profile, seed, plan.faults)?);
    }
    let (tap, clock) = match recording {
        Some(recording) => (Some(Arc::new(Tap(Arc::new(Mutex::new(recording.recorder))))), Some(recording.clock)),
        None => (None, None),
    };
    let listener: Arc<dyn feed::Recorder> = match &tap {
        Some(tap) => Arc::clone(tap) as _,
        None => Arc::new(NoRecorder),
    };
    let (mut feeds, mut rings) = (Vec::new(), Vec::new());
    for (index, (kind, _)) in core_config.sources.iter().enumerate() {
        let fov_deg = plan.config.camera.get(index).map_or(super::real::USUAL_FOV_DEG, |camera| camera.fov_deg);
        let source = SourceId(index as u8);
        let (mut feed, ring) = feed::connect(source, *kind, fov_deg, store.clone(), listener.clone());
        feed.present(true);
        feeds.push(feed);
        rings.push(ring);
    }
    let mut intake = Intake::new(rings);
    let mut voice = SilentVoice::new(plan.config.voice.words_per_minute);
    let mut told = VoiceReport::default();
    let mut core = Core::new(core_config.clone());
    let mut outputs = Box::<Outputs>::default();
    let mut result = Simulated::default();
    let mut payloads = Payloads::new(log);
    let period = core_config.period();
    for tick in 0.. {
        let now = Nanos(tick * period.0);
        let mut inputs = Inputs { tick, now, ..Inputs::default() };
        if let Some(clock) = &clock {
            clock.set(now);
        }
        while let Some(payload) = payloads.due(now) {
            deliver(payload, &mut feeds);
            result.payloads += 1;
        }
        intake.drain_into(&mut inputs);
        for lane in &mut lanes {
            lane.advance(now);
            while !inputs.events.is_full() {
                let Some(event) = lane.event() else { break };
                inputs.events.push(event);
            }
        }
        let report = voice.report(now);
        if report != told {
            (told, inputs.voice) = (report, Some(report));
        }
        if let Some(tap) = &tap
            && now.0.is_multiple_of(KEYFRAME_EVERY.0)
        {
            tap.recorder().keyframe(tick, &core.keyframe());
        }
        core.tick(&inputs, &mut outputs);
        for command in &outputs.commands {
            match command {
                Command::Submit(job) => {
                    let lane = lane_of(job.capability, lanes.len() as u8);
                    lanes[lane].command(command, now);
                }
                // Only the lane that has the job heeds these.
                Command::Cancel(_) | Command::Credit { .. } => {
                    lanes.iter_mut().for_each(|lane| lane.command(command, now));
                }
            }
        }
        for act in &outputs.acts {
            match act {
                Act::Say { utterance, index, word } => voice.say(now, *utterance, *index, word),
                Act::EndOfAnswer { utterance } => voice.end_of_answer(now, *utterance),
                Act::Silence => voice.silence(now),
                Act::Do { .. } | Act::Halt { .. } | Act::Heartbeat { .. } => {}
            }
        }
        result.digest.update(tick, &outputs);
        (result.ticks, result.time) = (tick + 1, now);
        if let Some(tap) = &tap {
            let mut recorder = tap.recorder();
            recorder.tick(&inputs, &outputs, now, Nanos::ZERO);
            recorder.poll();
        }
        observer(&inputs, &outputs);
        let faded = payloads.last.is_some_and(|last| now > last + AFTERGLOW);
        if faded || plan.limit.is_some_and(|limit| now >= limit) {
            break;
        }
    }
    result.notes = payloads.log.notes();
    // The feeds hold the recorder too; with them gone it can be closed.
    drop((feeds, listener));
    if let Some(recorder) = tap.and_then(Arc::into_inner).and_then(|tap| Arc::into_inner(tap.0)) {
        recorder.into_inner().unwrap_or_else(PoisonError::into_inner).close();
    }
    Ok(result)
}

fn deliver(payload: feed::Payload, feeds: &mut [SourceFeed]) {
    let index = match &payload {
        feed::Payload::Frame(source, _) | feed::Payload::Sound(source, _) => usize::from(source.0),
        // The status source is always the last one.
        feed::Payload::Status(_) => feeds.len().saturating_sub(1),
    };
    if let Some(feed) = feeds.get_mut(index) {
        feed.payload(payload);
    }
}

/// The log's payloads, moved so that the first is due at [`LEAD`].
struct Payloads {
    log: SensorLog,
    next: Option<(Nanos, feed::Payload)>,
    origin: Nanos,
    /// When the last one was due, once the log has come to its end.
    last: Option<Nanos>,
    newest: Nanos,
}

impl Payloads {
    fn new(mut log: SensorLog) -> Payloads {
        let next = log.next_due().map(|(due, payload)| (due, payload.into()));
        let origin = next.as_ref().map_or(Nanos::ZERO, |(due, _)| *due);
        let last = if next.is_some() { None } else { Some(Nanos::ZERO) };
        Payloads { log, next, origin, last, newest: Nanos::ZERO }
    }

    fn moved(&self, at: Nanos) -> Nanos {
        (at + LEAD).since(self.origin)
    }

    fn due(&mut self, now: Nanos) -> Option<feed::Payload> {
        let due = self.moved(self.next.as_ref()?.0);
        if due > now {
            return None;
        }
        self.newest = due;
        let (_, mut payload) = self.next.take()?;
        match &mut payload {
            feed::Payload::Frame(_, frame) => frame.captured = self.moved(frame.captured),
            feed::Payload::Sound(_, block) => block.captured = self.moved(block.captured),
            feed::Payload::Status(status) => status.captured = self.moved(status.captured),
        }
        self.next = self.log.next_due().map(|(due, payload)| (due, payload.into()));
        if self.next.is_none() {
            self.last = Some(self.newest);
        }
        Some(payload)
    }
}

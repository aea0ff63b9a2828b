//! `sage.toml`: typed, with documented defaults. Text flows in; a validated `Config` or one sentence per error flows
//! out. `CoreConfig` is the part that decisions depend on; its hash is in every record.

mod load;

pub use load::{ConfigError, DEFAULT_TOML};

use crate::dispatch::demands::Assumptions;
use crate::types::{MAX_SOURCES, Metabolic, Nanos, SourceId, SourceKind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything `sage.toml` can say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[loop]`.
    #[serde(rename = "loop")]
    pub tick: TickConfig,
    /// `[[camera]]`, any number.
    pub camera: Vec<CameraConfig>,
    /// `[[microphone]]`, any number.
    pub microphone: Vec<MicrophoneConfig>,
    /// `[status]`.
    pub status: StatusConfig,
    /// `[attention]`.
    pub attention: AttentionConfig,
    /// `[metabolism]`.
    pub metabolism: MetabolismConfig,
    /// `[budget]`.
    pub budget: BudgetConfig,
    /// `[schedule]`.
    pub schedule: ScheduleConfig,
    /// `[gate]`.
    pub gate: GateConfig,
    /// `[voice]`.
    pub voice: VoiceConfig,
    /// `[act]`.
    pub act: ActConfig,
    /// `[record]`.
    pub record: RecordConfig,
    /// `[realtime]`.
    pub realtime: RealtimeConfig,
    /// `[engines]`.
    pub engines: EnginesConfig,
    /// `[plan]`.
    pub plan: PlanConfig,
    /// `[log]`.
    pub log: LogConfig,
}

/// The part of the configuration that decisions depend on, and the sources in their order. Recorded with every run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoreConfig {
    /// Ticks per second.
    pub rate_hz: u32,
    /// Kind and name of each source; a `SourceId` is an index into this list.
    pub sources: Vec<(SourceKind, String)>,
    /// `[attention]`.
    pub attention: AttentionConfig,
    /// `[metabolism]`.
    pub metabolism: MetabolismConfig,
    /// `[budget]`.
    pub budget: BudgetConfig,
    /// `[schedule]`.
    pub schedule: ScheduleConfig,
    /// `[gate]`.
    pub gate: GateConfig,
}

impl CoreConfig {
    /// The tick's period.
    pub fn period(&self) -> Nanos {
        Nanos(1_000_000_000 / u64::from(self.rate_hz.max(1)))
    }

    /// Sources of one kind, in order.
    pub fn sources_of(&self, kind: SourceKind) -> impl Iterator<Item = SourceId> + '_ {
        self.sources.iter().enumerate().filter(move |(_, source)| source.0 == kind).map(|(i, _)| SourceId(i as u8))
    }

    /// BLAKE3 over the canonical JSON of this value, as hex: the `config_hash` of reports and records.
    pub fn hash(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
}

impl Config {
    /// The core's part of the configuration. The status source is always there, last.
    pub fn core(&self) -> CoreConfig {
        let mut sources: Vec<(SourceKind, String)> =
            self.camera.iter().map(|camera| (SourceKind::Camera, camera.name.clone())).collect();
        sources.extend(self.microphone.iter().map(|mic| (SourceKind::Microphone, mic.name.clone())));
        sources.truncate(MAX_SOURCES - 1);
        sources.push((SourceKind::Status, "status".to_owned()));
        CoreConfig {
            rate_hz: self.tick.rate_hz,
            sources,
            attention: self.attention.clone(),
            metabolism: self.metabolism.clone(),
            budget: self.budget.clone(),
            schedule: self.schedule.clone(),
            gate: self.gate.clone(),
        }
    }
}

/// Declares one section: a struct with documented fields and defaults.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        impl Default for $name {
            fn default() -> Self { $name { $($field: $default,)* } }
        }
    };
}

section! {
    /// The attention loop.
    TickConfig {
        /// Ticks per second, 1..=1000.
        rate_hz: u32 = 100,
    }
}
section! {
    /// One camera.
    CameraConfig {
        /// Name in records and views.
        name: String = "front".to_owned(),
        /// Device file.
        device: String = "/dev/video0".to_owned(),
        /// Width asked for, pixels; the device may offer another.
        width: u32 = 640,
        /// Height asked for, pixels.
        height: u32 = 480,
        /// Frame rate asked for.
        rate_hz: u32 = 30,
        /// Readout time to subtract if the driver stamps the end of the frame, ms.
        readout_ms: u32 = 0,
        /// Horizontal field of view, degrees; turns pixels into bearings.
        fov_deg: f32 = 70.0,
    }
}
section! {
    /// One microphone.
    MicrophoneConfig {
        /// Name in records and views.
        name: String = "mic".to_owned(),
        /// Device name as `sage devices` lists it, or "default".
        device: String = "default".to_owned(),
    }
}
section! {
    /// The robot's own values.
    StatusConfig {
        /// Unix datagram socket that receives JSON lines; empty: none.
        socket: String = String::new(),
    }
}
section! {
    /// Salience (SNARC), trust and memory.
    AttentionConfig {
        /// Weights of surprise, novelty, arousal, reward, conflict; sum 1.
        weights: [f32; 5] = [0.2, 0.2, 0.2, 0.2, 0.2],
        /// Salience from which a source is attended to.
        threshold: f32 = 0.15,
        /// Time constant of the predictors, s.
        predictor_s: f32 = 0.5,
        /// Time constant of the tracked noise floors, s.
        floor_s: f32 = 4.0,
        /// A source without payload for this long is starved, ms.
        starved_ms: u32 = 1_000,
        /// Time constant of trust, s.
        trust_s: f32 = 20.0,
    }
}
section! {
    /// States: entry and exit bands, dwell times.
    MetabolismConfig {
        /// Salience that leads from wake to focus.
        focus_enter: f32 = 0.55,
        /// Salience below which focus ends.
        focus_exit: f32 = 0.25,
        /// Salience that counts as quiet when below.
        quiet: f32 = 0.12,
        /// Quiet this long leads from wake to rest, s.
        rest_after_s: f32 = 6.0,
        /// Quiet this long in rest leads to dream, s.
        dream_after_s: f32 = 6.0,
        /// Longest dream, s.
        dream_max_s: f32 = 120.0,
        /// Shortest stay in a state, s (crisis may be entered at any time).
        dwell_s: f32 = 0.5,
        /// Shortest stay in focus after somebody spoke, s.
        focus_hold_s: f32 = 4.0,
        /// Shortest crisis after its cause is over, s.
        crisis_hold_s: f32 = 2.0,
    }
}
section! {
    /// ATP: lane time as a budget.
    BudgetConfig {
        /// Size of the tank, ms of lane time.
        tank_ms: f32 = 2_000.0,
        /// Refill per second in wake, ms of lane time; other states scale it.
        refill_ms_per_s: f32 = 700.0,
        /// Part of the tank that only reflexes and dialogue may use.
        reserve: f32 = 0.25,
    }
}
section! {
    /// Jobs: rates, deadlines, queue.
    ScheduleConfig {
        /// Lanes of the accelerator.
        lanes: u8 = 1,
        /// Jobs that may wait or run at once, per lane.
        queue: u8 = 16,
        /// How much sound one hearing job takes, ms.
        hear_every_ms: u32 = 40,
        /// Deadline of a hearing job after its sound, ms.
        hear_deadline_ms: u32 = 60,
        /// Frames per second for the eye in wake and focus; 0: every frame.
        see_hz: f32 = 5.0,
        /// Frames per second for the eye in crisis.
        see_crisis_hz: f32 = 10.0,
        /// Frames per second for the eye in rest and dream.
        see_rest_hz: f32 = 1.0,
        /// Deadline of a seeing job after capture, ms.
        see_deadline_ms: u32 = 200,
        /// An answer that has not begun this long after the utterance is useless, ms.
        reason_deadline_ms: u32 = 2_000,
        /// Most tokens of an answer.
        reason_max_tokens: u16 = 400,
        /// Speech the mind may be ahead of the voice, ms.
        speak_ahead_ms: u32 = 2_000,
        /// Background work per second in dream, jobs.
        dream_hz: f32 = 2.0,
        /// Offered synthetic load, step-milliseconds per second (0: none); for overload runs.
        load_ms_per_s: f32 = 0.0,
    }
}
section! {
    /// The last gate before the body moves.
    GateConfig {
        /// Nearer than this ahead: halt, mm.
        halt_range_mm: u32 = 350,
        /// Growth that means collision course, thousandths per second (1000: doubles its size in about 0.7 s).
        looming_permille_per_s: i32 = 900,
        /// Smallest looming region, cells of the grid.
        looming_cells: u16 = 6,
        /// An action may rest on input at most this old, ms.
        action_age_ms: u32 = 1_500,
        /// Action lines are valid this long, ms.
        action_valid_ms: u32 = 1_000,
        /// Heartbeat interval, ms.
        heartbeat_ms: u32 = 100,
        /// A halt that was said or seen is released this long after its cause is over, s; 0: only by hand.
        halt_release_s: f32 = 3.0,
    }
}
section! {
    /// Speech out.
    VoiceConfig {
        /// "silent" or "espeak".
        kind: String = "silent".to_owned(),
        /// Words per minute.
        words_per_minute: u32 = 170,
        /// espeak-ng voice.
        voice: String = "en-us".to_owned(),
        /// Output device, or "default".
        device: String = "default".to_owned(),
    }
}
section! {
    /// Where action lines go.
    ActConfig {
        /// Unix datagram socket that receives action lines; empty: only the log and the record.
        socket: String = String::new(),
    }
}
section! {
    /// The recording.
    RecordConfig {
        /// Folder of recordings; empty: none.
        dir: String = String::new(),
        /// Record raw frames and sound, not only features.
        raw: bool = true,
        /// Start a new file at this size, bytes.
        max_bytes: u64 = 1_000_000_000,
        /// Stop recording raw sensors when the disk has less than this free, bytes.
        keep_free_bytes: u64 = 1_000_000_000,
    }
}
section! {
    /// How hard the loop may claim the machine.
    RealtimeConfig {
        /// SCHED_FIFO priority of the tick; 0: ordinary scheduling.
        priority: u8 = 80,
        /// Lock memory.
        lock_memory: bool = true,
        /// CPU of the tick; absent: any.
        cpu: Option<u16> = None,
        /// Last part of each wait that is spun, µs.
        spin_us: u32 = 0,
    }
}
section! {
    /// Which networks.
    EnginesConfig {
        /// Folder of the ear; empty: the one that ships.
        ear: PathBuf = PathBuf::new(),
        /// Folder of the eye.
        eye: PathBuf = PathBuf::new(),
        /// Folder of the mind: in Hugging Face layout, or of a TensorRT engine.
        mind: PathBuf = PathBuf::new(),
        /// "auto" or "scalar".
        kernels: String = "auto".to_owned(),
        /// Threads of one lane.
        threads: u8 = 1,
    }
}
section! {
    /// What `sage plan` and admission before a run assume.
    PlanConfig {
        /// "this", "thor" or "h200".
        device: String = "this".to_owned(),
        /// Memory kept for the system, bytes; 0: what the device needs by default.
        reserve_bytes: u64 = 0,
        /// Step costs: a profile's name or file; empty: those of the networks that ship.
        profile: String = String::new(),
        /// What no configuration says and the analysis of times needs.
        assume: Assumptions = Assumptions::default(),
        /// What else holds the device's memory.
        beside: Vec<Beside> = Vec::new(),
    }
}
section! {
    /// A network or program beside those of `[engines]`.
    Beside {
        /// Name in the table.
        name: String = String::new(),
        /// Folder of an engine that `sage engine build` made: its manifest says what it holds; empty: the figures below do.
        engine: PathBuf = PathBuf::new(),
        /// Its weights.
        weights_bytes: u64 = 0,
        /// Its keys and values.
        kv_bytes: u64 = 0,
        /// Its working memory.
        activation_bytes: u64 = 0,
        /// "mapped": its weights are used where the file lies in memory; "copied": they lie in memory twice while it loads.
        loading: Loading = Loading::Mapped,
    }
}

/// How weights get into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loading {
    /// The file is mapped and used in place.
    Mapped,
    /// The file is read and copied.
    Copied,
}
section! {
    /// Log output.
    LogConfig {
        /// error, warn, info, debug, trace, or a filter.
        level: String = "info".to_owned(),
        /// human, json or journald.
        format: String = "human".to_owned(),
    }
}

/// Seconds as a span.
pub fn span_s(seconds: f32) -> Nanos {
    Nanos((f64::from(seconds.max(0.0)) * 1e9) as u64)
}

/// Milliseconds as a span.
pub fn span_ms(ms: u32) -> Nanos {
    Nanos::from_ms(u64::from(ms))
}

/// How fast a state refills the tank, relative to wake.
pub fn refill_factor(state: Metabolic) -> f32 {
    match state {
        Metabolic::Wake => 1.0,
        Metabolic::Focus => 1.2,
        Metabolic::Rest => 0.6,
        Metabolic::Dream => 0.6,
        Metabolic::Crisis => 1.5,
    }
}

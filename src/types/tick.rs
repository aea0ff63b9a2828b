//! Everything one tick takes in and everything it gives out. `Inputs` is exactly what the record holds of a tick, so
//! that a replay can hand the same value to the same core; `Outputs` is what must come out again.

use super::{
    Act, AudioFeatures, CameraFeatures, Command, Decision, LaneEvent, MAX_SOURCES, Nanos, SourceId, Status, UtteranceId,
};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// The five metabolic states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metabolic {
    /// Ordinary attention.
    #[default]
    Wake,
    /// One thing has all attention.
    Focus,
    /// Little happens: low rates.
    Rest,
    /// Nothing happens: memory is consolidated.
    Dream,
    /// Danger: reflexes first.
    Crisis,
}

/// Whether a source delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceHealth {
    /// The source.
    pub source: SourceId,
    /// Its device is open.
    pub present: bool,
    /// Payloads dropped on the way since the tick before, for lack of room.
    pub dropped: u16,
}

/// What the voice says of itself, at device time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VoiceReport {
    /// The answer being played, or played last.
    pub utterance: UtteranceId,
    /// Its words that were fully played.
    pub played_words: u16,
    /// Its words queued and not fully played.
    pub queued_words: u16,
    /// Time the queued words will take.
    pub queued: Nanos,
    /// Sound is coming out.
    pub playing: bool,
    /// When the last word ended, or the voice was silenced.
    pub silent_since: Nanos,
}

/// All that one tick takes in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// k: ticks are at k·T; skipped ones leave gaps.
    pub tick: u64,
    /// k·T on the session's clock. The core never sees the wake-up instant.
    pub now: Nanos,
    /// Ticks skipped since the one before, by overrun.
    pub skipped: u32,
    /// Newest frames' features, oldest first; older ones that did not fit are dropped.
    pub camera: ArrayVec<CameraFeatures, 4>,
    /// Sound since the tick before, oldest first.
    pub audio: ArrayVec<AudioFeatures, 16>,
    /// A new report of the robot's own values.
    pub status: Option<Status>,
    /// What lanes report, in order.
    pub events: ArrayVec<LaneEvent, 32>,
    /// What the voice reports; `None` if nothing changed since the tick before.
    pub voice: Option<VoiceReport>,
    /// Sources whose health changed.
    pub health: ArrayVec<SourceHealth, MAX_SOURCES>,
    /// Somebody released a latched halt (signal, socket or command).
    pub release_halt: bool,
}

/// SNARC salience of one source; each part 0..=1 (definitions in `attend::salience`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Salience {
    /// The source.
    pub source: SourceId,
    /// Unlike what was predicted.
    pub surprise: f32,
    /// Unlike anything remembered.
    pub novelty: f32,
    /// Strong.
    pub arousal: f32,
    /// Led to good outcomes before.
    pub reward: f32,
    /// At odds with the other sources.
    pub conflict: f32,
    /// Weighted sum, 0..=1.
    pub total: f32,
    /// Trust in the source, 0..=1.
    pub trust: f32,
}

/// The core's numbers after a tick, for people and for the record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Vitals {
    /// State after the tick.
    pub state: Metabolic,
    /// ATP left: milliseconds of lane time.
    pub atp_ms: f32,
    /// Size of the tank.
    pub atp_max_ms: f32,
    /// Salience per source that has one.
    pub salience: ArrayVec<Salience, MAX_SOURCES>,
    /// Halt is latched.
    pub halted: bool,
}

/// All that one tick gives out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outputs {
    /// What was decided and why, in order.
    pub decisions: ArrayVec<Decision, 48>,
    /// What the executor must do, in order.
    pub commands: ArrayVec<Command, 16>,
    /// What the body must do, in order.
    pub acts: ArrayVec<Act, 32>,
    /// The core's numbers.
    pub vitals: Vitals,
    /// Decisions that found no room above; counted, never silent.
    pub overflow: u16,
    /// First 16 bytes of BLAKE3 over the core's state after this tick (see `core`).
    pub state_hash: [u8; 16],
}

impl Outputs {
    /// Makes room for a new tick; keeps nothing.
    pub fn clear(&mut self) {
        self.decisions.clear();
        self.commands.clear();
        self.acts.clear();
        self.overflow = 0;
    }

    /// Adds a decision, or counts it in `overflow` when there is no room.
    pub fn decide(&mut self, decision: Decision) {
        if self.decisions.try_push(decision).is_err() {
            self.overflow = self.overflow.saturating_add(1);
        }
    }

    /// Adds a command; `false`, and counted in `overflow`, when there is no room: the caller must not count on it.
    pub fn command(&mut self, command: Command) -> bool {
        let fits = self.commands.try_push(command).is_ok();
        self.overflow = self.overflow.saturating_add(u16::from(!fits));
        fits
    }

    /// Adds an act; `false`, and counted in `overflow`, when there is no room.
    pub fn act(&mut self, act: Act) -> bool {
        let fits = self.acts.try_push(act).is_ok();
        self.overflow = self.overflow.saturating_add(u16::from(!fits));
        fits
    }
}

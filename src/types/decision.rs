//! What the core decides: commands to lanes, acts to the body, and for each the reason. Decisions are the record that
//! the digest is computed over.

use super::{Capability, Class, Job, JobId, Metabolic, Nanos, SourceId, Text, Word};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// A short name, such as an action's.
pub type Name = Text<16>;

/// Counts up from 1 over a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionId(pub u32);

/// One spoken answer; counts up from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UtteranceId(pub u32);

/// An input that a decision rests on, with its age at the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasedOn {
    /// Which source.
    pub source: SourceId,
    /// Which observation of it.
    pub seq: u64,
    /// When it was captured.
    pub captured: Nanos,
}

/// A known action with its arguments, as the reasoner proposes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionLine {
    /// go, follow, search, turn, move, stop; "none" is never sent.
    pub name: Name,
    /// person, charger ...; empty if the action has none.
    pub target: Name,
    /// left, right, ahead, around, forward, back; empty if the action has none.
    pub direction: Name,
}

/// Why something was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A regular step of keeping up with a source.
    Periodic,
    /// The source is salient.
    Salient,
    /// Somebody spoke to the robot.
    Spoken,
    /// Somebody said "stop".
    SaidStop,
    /// Something grows in the picture.
    Looming,
    /// Something is too near, by range, bumper or the eye.
    TooNear,
    /// The emergency stop is engaged.
    EmergencyStop,
    /// A newer input took its place.
    Superseded,
    /// Its deadline passed.
    Expired,
    /// The result came after its deadline or from input that is too old.
    Late,
    /// The state does not allow it.
    StateForbids,
    /// The budget (ATP) is spent.
    OverBudget,
    /// The queue is full.
    QueueFull,
    /// The answer was interrupted.
    Interrupted,
    /// The lanes could not keep the deadline.
    WouldMiss,
    /// Nothing happens.
    Quiet,
    /// Quiet for long.
    LongQuiet,
    /// The charge or budget is low.
    LowEnergy,
    /// What caused it is over.
    Over,
    /// The engine failed.
    Failed,
    /// The robot heard itself.
    OwnVoice,
    /// The input is gone.
    Missing,
    /// Halt is latched.
    Halted,
    /// The answer goes on where it was interrupted.
    Resumed,
    /// Not a known action, or its arguments are wrong.
    Unknown,
    /// Ready to hear more of the answer.
    Listener,
}

/// One decision, with its reason: what `/decision` in the record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// The metabolic state changed.
    State {
        /// Before.
        from: Metabolic,
        /// After.
        to: Metabolic,
        /// Why.
        why: Why,
    },
    /// Attention moved to another source (`None`: to nothing).
    Focus {
        /// The source attended to.
        source: Option<SourceId>,
        /// Its salience, in thousandths.
        salience_permille: u16,
    },
    /// A job was sent to its lane.
    Admit {
        /// The job.
        job: JobId,
        /// Its capability.
        capability: Capability,
        /// Its class.
        class: Class,
        /// Why it was made.
        why: Why,
    },
    /// Work that was wanted but not sent.
    Shed {
        /// What was wanted.
        capability: Capability,
        /// Its class.
        class: Class,
        /// For which source.
        source: SourceId,
        /// Why not.
        why: Why,
    },
    /// A job was told to stop.
    Cancel {
        /// The job.
        job: JobId,
        /// Why.
        why: Why,
    },
    /// A result was used.
    Use {
        /// The job.
        job: JobId,
        /// Age of its input now.
        age: Nanos,
    },
    /// A result was not used.
    Discard {
        /// The job.
        job: JobId,
        /// Age of its input now.
        age: Nanos,
        /// Why.
        why: Why,
    },
    /// An answer is interrupted after `played` words.
    Cut {
        /// The answer.
        utterance: UtteranceId,
        /// Its job.
        job: JobId,
        /// Words fully played.
        played: u16,
        /// Why.
        why: Why,
    },
    /// An action was sent out.
    Act {
        /// Its identity.
        id: ActionId,
        /// Its name.
        name: Name,
        /// Age of the oldest input it rests on.
        age: Nanos,
        /// Why.
        why: Why,
    },
    /// An action was refused.
    Refuse {
        /// Its name.
        name: Name,
        /// Why.
        why: Why,
    },
    /// Halt was latched or released.
    Halt {
        /// Latched, or released.
        on: bool,
        /// Why.
        why: Why,
        /// Capture of what caused it.
        cause: Nanos,
    },
    /// A source has stopped delivering, or delivers again.
    Starved {
        /// The source.
        source: SourceId,
        /// Starved, or back.
        on: bool,
    },
}

/// What the tick tells the executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // one fixed-size record, copied through a ring
pub enum Command {
    /// Run this job.
    Submit(Job),
    /// Stop this job, inside its step if need be; its session stays at the last step boundary.
    Cancel(JobId),
    /// This job may generate up to `words` words in all.
    Credit {
        /// Which job.
        job: JobId,
        /// Words in all.
        words: u16,
    },
}

/// What the tick tells the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Say the next word of an answer.
    Say {
        /// Which answer.
        utterance: UtteranceId,
        /// Position of the word in it.
        index: u16,
        /// The word.
        word: Word,
    },
    /// The answer has no more words.
    EndOfAnswer {
        /// Which answer.
        utterance: UtteranceId,
    },
    /// Be silent within one audio period and forget what is queued.
    Silence,
    /// Send an action line.
    Do {
        /// Identity.
        id: ActionId,
        /// What.
        action: ActionLine,
        /// Tick time of the decision.
        issued: Nanos,
        /// Receivers must not begin it later.
        valid_until: Nanos,
        /// What it rests on.
        based_on: ArrayVec<BasedOn, 4>,
        /// The action it replaces.
        supersedes: Option<ActionId>,
    },
    /// Latched halt, repeated until released.
    Halt {
        /// Identity.
        id: ActionId,
        /// Halt, or release.
        on: bool,
        /// Tick time of the decision.
        issued: Nanos,
        /// Capture of what caused it.
        cause: Nanos,
    },
    /// The loop is healthy; receivers halt without it.
    Heartbeat {
        /// Tick time.
        at: Nanos,
    },
}

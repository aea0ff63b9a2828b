//! A job: one piece of engine work with its deadline, freshness and class; and what lanes report back about it.
//! Jobs flow from the tick to the executor, `LaneEvent`s flow back and are recorded as inputs.

use super::{BasedOn, Detection, HeardWord, MAX_DETECTIONS, MAX_WORDS, Nanos, Piece, SourceId, Text};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Counts up from 1 over a session; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// What a job asks for; one engine serves one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Sound to words.
    Hear,
    /// A frame to detections.
    See,
    /// Scene and utterance to an answer and an action.
    Reason,
    /// Memory consolidation while dreaming.
    Consolidate,
    /// Synthetic load: `steps` steps of a fixed cost, for overload runs and tests.
    Load,
}

/// Priority class, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Must run now: hearing "stop", seeing a hazard.
    Reflex,
    /// Somebody waits for an answer.
    Dialogue,
    /// Keeping the picture of the world fresh.
    Awareness,
    /// Whenever nothing else wants the lane.
    Background,
}

/// Scene and utterance for the reasoner.
pub type Prompt = Text<384>;

/// What a job works on. Frames and sound stay in the sensor store; the job names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // one fixed-size record, copied through a ring
pub enum JobInput {
    /// Nothing.
    None,
    /// All sound of the source up to and with block `upto_seq`.
    Sound {
        /// Last block to hear.
        upto_seq: u64,
    },
    /// One frame of the source.
    Frame {
        /// Its sequence number.
        seq: u64,
    },
    /// A question: the scene line and what was said.
    Ask {
        /// Scene text, newline, utterance.
        prompt: Prompt,
        /// Greedy decoding stops here.
        max_tokens: u16,
    },
    /// Go on with an interrupted answer from the first word that was not played.
    Resume {
        /// The interrupted job.
        of: JobId,
        /// Words of it that were fully played.
        from_word: u16,
    },
    /// Synthetic load.
    Steps {
        /// How many steps.
        steps: u32,
        /// Cost of each.
        step_us: u32,
    },
}

/// One piece of engine work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// What it asks for.
    pub capability: Capability,
    /// The source it serves; with `generation` this says what it supersedes.
    pub source: SourceId,
    /// A newer generation of the same capability and source supersedes an older one that still waits.
    pub generation: u32,
    /// Priority class.
    pub class: Class,
    /// What it works on.
    pub input: JobInput,
    /// Tick time at which it was made.
    pub created: Nanos,
    /// Its result is useless after this instant; a job past it never starts.
    pub deadline: Nanos,
    /// The input is too old to act on after this instant.
    pub fresh_until: Nanos,
    /// Words the answer may be ahead of the voice; raised by `Command::Credit`. 0 for jobs without speech.
    pub credit_words: u16,
    /// What it was based on.
    pub based_on: ArrayVec<BasedOn, 4>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It ran to its end.
    Completed,
    /// `Command::Cancel` stopped it; `idle_after` is the time from the cancel to the lane being free.
    Cancelled {
        /// Cancel to idle.
        idle_after: Nanos,
    },
    /// Its deadline passed before it could start.
    Expired,
    /// A newer one of its kind took its place while it waited.
    Superseded,
    /// The lane's queue was full.
    Refused,
    /// The engine failed; the text is for people.
    Failed(Text<96>),
}

/// What a completed job found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // one fixed-size record, copied through a ring
pub enum Output {
    /// No result beyond the pieces already sent.
    None,
    /// The ear heard sound up to this instant; words of it come as [`LaneEvent::Word`].
    Heard {
        /// End of the sound heard.
        upto: Nanos,
    },
    /// Things in the frame `seq`, captured at `captured`.
    Seen {
        /// The frame.
        seq: u64,
        /// Its capture.
        captured: Nanos,
        /// What was found, best first.
        detections: ArrayVec<Detection, MAX_DETECTIONS>,
    },
    /// An answer of `words` words is complete.
    Answered {
        /// Words in the answer.
        words: u16,
        /// Tokens generated.
        tokens: u16,
    },
    /// Memory was consolidated; `merged` episodes became part of others.
    Consolidated {
        /// Episodes merged.
        merged: u16,
    },
}

/// What a lane reports. Each is an input of the tick in which the core sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // one fixed-size record, copied through a ring
pub enum LaneEvent {
    /// The job's first step began.
    Started {
        /// Which job.
        job: JobId,
        /// When.
        at: Nanos,
    },
    /// Words that the ear just recognised, possibly while the utterance goes on.
    Word {
        /// The hearing job.
        job: JobId,
        /// Its microphone.
        source: SourceId,
        /// The word.
        word: HeardWord,
    },
    /// An utterance ended.
    Utterance {
        /// The hearing job.
        job: JobId,
        /// Its microphone.
        source: SourceId,
        /// All its words.
        words: ArrayVec<HeardWord, MAX_WORDS>,
        /// First sample.
        from: Nanos,
        /// Last voiced sample.
        to: Nanos,
    },
    /// A piece of an answer.
    Piece {
        /// The reasoning job.
        job: JobId,
        /// The piece.
        piece: Piece,
    },
    /// The job generated as far as its credit allows and gave its lane away.
    Waiting {
        /// Which job.
        job: JobId,
    },
    /// The job is over.
    Done {
        /// Which job.
        job: JobId,
        /// How it ended.
        outcome: Outcome,
        /// What it found.
        output: Output,
        /// Steps it ran.
        steps: u32,
        /// Lane time it used, measured.
        busy: Nanos,
        /// Longest single step.
        longest: Nanos,
        /// Times another job ran between two of its steps.
        preempted: u16,
        /// IRP energy after its last step, thousandths: 1000 at the start, 0 when complete; `None` if its engine cannot
        /// tell or it ran no step.
        energy_permille: Option<u16>,
        /// When it ended.
        at: Nanos,
    },
}

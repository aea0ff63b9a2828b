//! `Want`: work that attention or dialogue would like to have done, before the schedule decides whether and when.
//! Wants flow from `attend` into `dispatch::schedule`, which gives each an identity and a generation, or sheds it.

use crate::types::{BasedOn, Capability, Class, Command, Decision, JobId, JobInput, Nanos, Outputs, SourceId, Why};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// One wish for engine work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// What it asks for.
    pub capability: Capability,
    /// The source it serves.
    pub source: SourceId,
    /// Priority class.
    pub class: Class,
    /// What it works on.
    pub input: JobInput,
    /// The result is useless after this instant.
    pub deadline: Nanos,
    /// The input is too old to act on after this instant.
    pub fresh_until: Nanos,
    /// Words the answer may have at first; 0 for work without speech.
    pub credit_words: u16,
    /// What it rests on.
    pub based_on: ArrayVec<BasedOn, 4>,
    /// Why it is wanted.
    pub why: Why,
}

/// What the schedule says about an event of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The event belongs to a live job and comes in time: act on it.
    Use,
    /// It comes too late, or from input that is too old: never act on it.
    Late,
    /// It belongs to no job that is still wanted (cancelled, superseded, unknown), or says nothing to act on.
    Ignore,
}

/// What attention and dialogue may ask of the schedule.
pub trait Admission {
    /// Asks for work. `None`: it was shed, and the outputs say why.
    fn want(&mut self, want: &Want, out: &mut Outputs) -> Option<JobId>;
    /// Stops a job that waits or runs; does nothing for one that is over.
    fn cancel(&mut self, job: JobId, why: Why, out: &mut Outputs);
    /// Allows an answer `words` words in all; `false` if that could not be sent.
    fn credit(&mut self, job: JobId, words: u16, out: &mut Outputs) -> bool {
        out.command(Command::Credit { job, words })
    }
    /// Records that wanted work was not even asked for.
    fn shed(&mut self, want: &Want, why: Why, out: &mut Outputs) {
        let (capability, class, source) = (want.capability, want.class, want.source);
        out.decide(Decision::Shed { capability, class, source, why });
    }
}

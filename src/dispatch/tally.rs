//! What became of all jobs of a session, as the report shows it. Ends of jobs flow in from `schedule`; counts flow out.
//!
//! Every admitted job ends in exactly one of kept, missed, shed (after it was admitted) or superseded, so that
//! `kept + missed` is all jobs that were neither superseded nor shed.

use crate::types::Class;
use serde::{Deserialize, Serialize};

/// Deadlines of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Deadlines {
    /// Jobs that ended by their deadline; an answer: that began by it.
    pub kept: u64,
    /// Jobs that ended later, expired or failed.
    pub missed: u64,
    /// Work that was wanted and not admitted, or withdrawn before it had a result.
    pub shed: u64,
}

/// Counts over a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    classes: [Deadlines; 4],
    /// Jobs sent to a lane.
    pub admitted: u64,
    /// Jobs whose place a newer one took.
    pub superseded: u64,
    /// Jobs that could not start by their deadline.
    pub expired: u64,
    /// Results that came late or from input that was too old; never acted on.
    pub late: u64,
    /// Jobs that were told to stop and did.
    pub cancelled: u64,
    /// Jobs whose engine failed.
    pub failed: u64,
    /// Jobs that no lane spoke of any more.
    pub lost: u64,
    /// Times another job ran between two steps of a job.
    pub preemptions: u64,
}

impl Tally {
    /// The counts of one class.
    pub fn class(&self, class: Class) -> Deadlines {
        self.classes[class as usize]
    }

    /// The counts of one class, to add to.
    pub(super) fn of(&mut self, class: Class) -> &mut Deadlines {
        &mut self.classes[class as usize]
    }
}

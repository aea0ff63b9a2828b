//! The queue of one lane: which open job runs the next step. Jobs, cancels and credit flow in; the slot to run next and
//! the ends of jobs that need no engine (expired, superseded, refused) flow out. Pure: the executor drives it with
//! measured time, the simulator with virtual time.

use crate::types::{Capability, Class, Job, JobId, JobInput, LaneEvent, Nanos, Outcome, Output, Text};
use arrayvec::ArrayVec;

/// Most jobs a lane holds; one more is refused.
pub const LANE_JOBS: usize = 32;
/// Interrupted answers that can still be resumed; an older one is forgotten.
pub const KEPT_ANSWERS: usize = 2;

/// One open job and what it has used so far.
#[derive(Debug, Clone)]
struct Entry {
    job: Job,
    started: bool,
    waiting: bool,
    passed_over: bool,
    credit_words: u16,
    order: u64,
    steps: u32,
    busy: Nanos,
    longest: Nanos,
    preempted: u16,
    energy_permille: Option<u16>,
}

/// The open jobs of one lane.
#[derive(Debug)]
pub struct Lane {
    limit: usize,
    entries: Vec<Option<Entry>>,
    kept: ArrayVec<JobId, KEPT_ANSWERS>,
    order: u64,
}

impl Lane {
    /// A lane that holds at most `limit` jobs (1..=[`LANE_JOBS`]). Allocates here and never again.
    pub fn new(limit: usize) -> Lane {
        let limit = limit.clamp(1, LANE_JOBS);
        Lane { limit, entries: vec![None; limit], kept: ArrayVec::new(), order: 0 }
    }

    /// Takes a job in. Its slot, or `None` if it ended at once: refused, superseded, or without an answer to resume.
    /// Jobs of the same capability and source that have an older generation and have not started leave as superseded.
    pub fn submit(&mut self, job: Job, now: Nanos, ended: &mut dyn FnMut(LaneEvent)) -> Option<usize> {
        self.expire(now, ended);
        let same = |entry: &Entry| entry.job.capability == job.capability && entry.job.source == job.source;
        if self.entries.iter().flatten().any(|e| same(e) && e.job.generation > job.generation) {
            ended(unstarted(job.id, Outcome::Superseded, now));
            return None;
        }
        for slot in 0..self.entries.len() {
            let older = |e: &Entry| same(e) && !e.started && e.job.generation < job.generation;
            if self.entries[slot].as_ref().is_some_and(older) {
                self.leave(slot, Outcome::Superseded, Output::None, now, ended);
            }
        }
        if let JobInput::Resume { of, .. } = job.input
            && !self.kept.contains(&of)
        {
            ended(unstarted(job.id, Outcome::Failed(reason("the interrupted answer is no longer kept")), now));
            return None;
        }
        let Some(slot) = self.entries.iter().position(Option::is_none) else {
            ended(unstarted(job.id, Outcome::Refused, now));
            return None;
        };
        self.order += 1;
        self.entries[slot] = Some(Entry {
            credit_words: job.credit_words,
            job,
            started: false,
            waiting: false,
            passed_over: false,
            order: self.order,
            steps: 0,
            busy: Nanos::ZERO,
            longest: Nanos::ZERO,
            preempted: 0,
            energy_permille: None,
        });
        Some(slot)
    }

    /// The slot to run next, at a step boundary: most urgent class first, then earliest deadline, then first come.
    /// Jobs past their deadline that have not started leave as expired; jobs without credit are passed by.
    pub fn next(&mut self, now: Nanos, ended: &mut dyn FnMut(LaneEvent)) -> Option<usize> {
        self.expire(now, ended);
        let ready = |entry: &Entry| (!entry.waiting).then_some((entry.job.class, entry.job.deadline, entry.order));
        let (_, slot) = (0..self.entries.len())
            .filter_map(|slot| Some((self.entries[slot].as_ref().and_then(ready)?, slot)))
            .min()?;
        for (other, entry) in self.entries.iter_mut().enumerate() {
            let Some(entry) = entry else { continue };
            if other == slot {
                entry.preempted = entry.preempted.saturating_add(u16::from(entry.passed_over));
                entry.passed_over = false;
            } else if entry.started && !entry.waiting {
                entry.passed_over = true;
            }
        }
        Some(slot)
    }

    /// The job in `slot`.
    pub fn job(&self, slot: usize) -> Option<&Job> {
        self.entries.get(slot)?.as_ref().map(|entry| &entry.job)
    }

    /// The slot of an open job.
    pub fn slot_of(&self, id: JobId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.as_ref().is_some_and(|e| e.job.id == id))
    }

    /// Marks the job as started. `true` the first time.
    pub fn start(&mut self, slot: usize) -> bool {
        let Some(entry) = self.entries[slot].as_mut() else { return false };
        let first = !entry.started;
        entry.started = true;
        if first && let JobInput::Resume { of, .. } = entry.job.input {
            self.kept.retain(|id| *id != of);
        }
        first
    }

    /// Raises the words the job may generate in all. The slot, if that is more than before; a waiting job is ready again.
    pub fn credit(&mut self, id: JobId, words: u16) -> Option<usize> {
        let slot = self.slot_of(id)?;
        let entry = self.entries[slot].as_mut()?;
        if words <= entry.credit_words {
            return None;
        }
        entry.credit_words = words;
        entry.waiting = false;
        Some(slot)
    }

    /// Words the job may generate in all.
    pub fn credit_of(&self, slot: usize) -> u16 {
        self.entries[slot].as_ref().map_or(0, |entry| entry.credit_words)
    }

    /// Accounts one run of the lane for the job, after which its energy is `energy`, 1 to 0. A step that was stopped inside
    /// costs time but is no step.
    pub fn ran(&mut self, slot: usize, cost: Nanos, complete: bool, energy: Option<f32>) {
        if let Some(entry) = self.entries[slot].as_mut() {
            entry.energy_permille = energy.map(|energy| (energy.clamp(0.0, 1.0) * 1000.0) as u16);
            entry.steps += u32::from(complete);
            entry.busy += cost;
            entry.longest = entry.longest.max(cost);
        }
    }

    /// The job used up its credit and gives the lane away. `true` if it was not waiting already.
    pub fn wait(&mut self, slot: usize) -> bool {
        self.entries[slot].as_mut().is_some_and(|entry| !std::mem::replace(&mut entry.waiting, true))
    }

    /// Remembers that the engine keeps this interrupted answer for a later resume.
    pub fn keep(&mut self, id: JobId) {
        if self.kept.is_full() {
            self.kept.remove(0);
        }
        self.kept.push(id);
    }

    /// Ends the job in `slot` and reports it.
    pub fn leave(
        &mut self,
        slot: usize,
        outcome: Outcome,
        output: Output,
        at: Nanos,
        ended: &mut dyn FnMut(LaneEvent),
    ) {
        let Some(entry) = self.entries[slot].take() else { return };
        ended(LaneEvent::Done {
            job: entry.job.id,
            outcome,
            output,
            steps: entry.steps,
            busy: entry.busy,
            longest: entry.longest,
            preempted: entry.preempted,
            energy_permille: entry.energy_permille,
            at,
        });
    }

    /// Open jobs.
    pub fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// No job is open.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    /// Most jobs it holds.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Class and capability of every open job, for views.
    pub fn open(&self) -> impl Iterator<Item = (JobId, Capability, Class)> + '_ {
        self.entries.iter().flatten().map(|e| (e.job.id, e.job.capability, e.job.class))
    }

    fn expire(&mut self, now: Nanos, ended: &mut dyn FnMut(LaneEvent)) {
        for slot in 0..self.entries.len() {
            if self.entries[slot].as_ref().is_some_and(|e| !e.started && e.job.deadline < now) {
                self.leave(slot, Outcome::Expired, Output::None, now, ended);
            }
        }
    }
}

/// The end of a job that never had a slot.
pub fn unstarted(job: JobId, outcome: Outcome, at: Nanos) -> LaneEvent {
    LaneEvent::Done {
        job,
        outcome,
        output: Output::None,
        steps: 0,
        busy: Nanos::ZERO,
        longest: Nanos::ZERO,
        preempted: 0,
        energy_permille: None,
        at,
    }
}

/// As much of `text` as an outcome holds.
pub fn reason(text: &str) -> Text<96> {
    let mut short = Text::new();
    for c in text.chars() {
        if short.try_push(c).is_err() {
            break;
        }
    }
    short
}

#[cfg(test)]
mod tests;

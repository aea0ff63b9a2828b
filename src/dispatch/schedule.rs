//! Admission inside the tick: wants flow in and become jobs or are shed with a reason; lane events flow in and are
//! judged usable, late or of no use. Commands and decisions flow out into `Outputs`. Pure, serialisable, and without
//! allocation: its whole state is in fixed lists, so a keyframe of it replays to the byte.

use super::tally::Tally;
use super::want::{Admission, Verdict, Want};
use crate::config::ScheduleConfig;
use crate::types::{
    Capability, Class, Command, Decision, Job, JobId, JobInput, LaneEvent, MAX_SOURCES, Nanos, Outcome, Outputs,
    SourceId, Why,
};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Most jobs open at once over all lanes.
pub const OPEN_JOBS: usize = 64;
/// Capabilities there are.
const CAPABILITIES: usize = 5;
/// An open job that no lane has spoken of for this long after its deadline is given up.
const LOST_AFTER: Nanos = Nanos::from_s(10);

/// A job that a lane has and has not reported as over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    id: JobId,
    capability: Capability,
    source: SourceId,
    generation: u32,
    class: Class,
    answer: bool,
    deadline: Nanos,
    fresh_until: Nanos,
    /// Capture of the oldest input, or creation.
    captured: Nanos,
    /// When a lane last spoke of it, or creation.
    heard: Nanos,
    expected: Nanos,
    started: bool,
    /// The answer began before its deadline: nothing later can miss it.
    begun: bool,
    waiting: bool,
    withdrawn: Option<Why>,
}

/// What one capability's jobs have cost lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Cost {
    job: Nanos,
    step: Nanos,
}

/// The scheduler's whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    lanes: u8,
    queue: usize,
    last_job: u64,
    generations: [[u32; MAX_SOURCES]; CAPABILITIES],
    costs: [Cost; CAPABILITIES],
    open: ArrayVec<Open, OPEN_JOBS>,
    tally: Tally,
}

/// The lane that serves a capability: hearing has the first; what may take long (answers, consolidation, load) has the
/// last; seeing has one of its own from three lanes on.
pub fn lane_of(capability: Capability, lanes: u8) -> usize {
    let last = usize::from(lanes.max(1)) - 1;
    match capability {
        Capability::Hear => 0,
        Capability::See => usize::from(last >= 2),
        Capability::Reason | Capability::Consolidate | Capability::Load => last,
    }
}

impl Schedule {
    /// An empty schedule for these lanes and this queue length.
    pub fn new(config: &ScheduleConfig) -> Schedule {
        Schedule {
            lanes: config.lanes.max(1),
            queue: usize::from(config.queue.max(1)),
            last_job: 0,
            generations: [[0; MAX_SOURCES]; CAPABILITIES],
            costs: [Cost::default(); CAPABILITIES],
            open: ArrayVec::new(),
            tally: Tally::default(),
        }
    }

    /// Sends the wanted work to its lane, or sheds it: past its deadline, no room and nothing less urgent to give way,
    /// or the lane's backlog would make it miss (a reflex is never shed for that). Work on frames and sound takes the
    /// place of older such work that still waits.
    pub fn want(&mut self, want: &Want, now: Nanos, out: &mut Outputs) -> Option<JobId> {
        if want.deadline <= now {
            self.shed(want, Why::Expired, out);
            return None;
        }
        if want.class > Class::Reflex && self.finish_estimate(want, now) > want.deadline {
            let cost = &mut self.costs[want.capability as usize];
            let fade = |cost: Nanos| Nanos(cost.0 - cost.0 / 16); // what is shed is not measured again
            *cost = Cost { job: fade(cost.job), step: fade(cost.step) };
            self.shed(want, Why::WouldMiss, out);
            return None;
        }
        if out.commands.remaining_capacity() < 2 || !self.make_room(want, out) {
            self.shed(want, Why::QueueFull, out);
            return None;
        }
        Some(self.admit(want, now, out))
    }

    /// Records that the caller did not even ask for work it wanted (over budget, forbidden by the state).
    pub fn shed(&mut self, want: &Want, why: Why, out: &mut Outputs) {
        self.tally.of(want.class).shed += 1;
        let (capability, class, source) = (want.capability, want.class, want.source);
        out.decide(Decision::Shed { capability, class, source, why });
    }

    /// Stops a job, even inside its step. `false` if it is not open, already stopping, or no command fits this tick.
    pub fn cancel(&mut self, job: JobId, why: Why, out: &mut Outputs) -> bool {
        let Some(open) = self.open.iter_mut().find(|open| open.id == job && open.withdrawn.is_none()) else {
            return false;
        };
        if !out.command(Command::Cancel(job)) {
            return false;
        }
        open.withdrawn = Some(why);
        out.decide(Decision::Cancel { job, why });
        true
    }

    /// Allows an answer `words` words in all. `false` if the job is not open or no command fits this tick.
    pub fn credit(&mut self, job: JobId, words: u16, out: &mut Outputs) -> bool {
        let Some(open) = self.open.iter_mut().find(|open| open.id == job && open.withdrawn.is_none()) else {
            return false;
        };
        let sent = out.command(Command::Credit { job, words });
        open.waiting &= !sent;
        sent
    }

    /// Judges what a lane reports and keeps the books of it.
    ///
    /// A result is late if the job ended after its deadline or its input is no longer fresh. Words heard are facts about
    /// the past and stay usable while the sound is fresh. An answer is judged by its first piece: begun in time, all of
    /// it is usable; begun late, the rest of it is stopped.
    pub fn observe(&mut self, event: &LaneEvent, now: Nanos, out: &mut Outputs) -> Verdict {
        let id = job_of(event);
        let Some(at) = self.open.iter().position(|open| open.id == id) else { return Verdict::Ignore };
        let open = &mut self.open[at];
        open.heard = now;
        match event {
            LaneEvent::Started { .. } => open.started = true,
            LaneEvent::Waiting { .. } => open.waiting = true,
            LaneEvent::Word { .. } | LaneEvent::Utterance { .. } | LaneEvent::Piece { .. } => {
                open.started = true;
                open.waiting = false;
            }
            LaneEvent::Done { .. } => return self.finish(at, event, now, out),
        }
        match (event, open.withdrawn) {
            (LaneEvent::Started { .. } | LaneEvent::Waiting { .. }, None) => Verdict::Use,
            (_, Some(Why::Late)) => Verdict::Late,
            (_, Some(_)) => Verdict::Ignore,
            (LaneEvent::Piece { .. }, None) => self.piece(at, now, out),
            (_, None) if now > open.fresh_until => Verdict::Late,
            (_, None) => Verdict::Use,
        }
    }

    /// Once per tick: gives up jobs whose lane has gone silent, so that their places are free again.
    pub fn tick(&mut self, now: Nanos, out: &mut Outputs) {
        let lost = |open: &Open| !(open.begun && open.waiting) && now > open.deadline.max(open.heard).after(LOST_AFTER);
        while let Some(at) = self.open.iter().position(lost) {
            let open = self.open.remove(at);
            self.tally.of(open.class).missed += 1;
            self.tally.lost += 1;
            out.command(Command::Cancel(open.id));
            out.decide(Decision::Discard { job: open.id, age: now.since(open.captured), why: Why::Missing });
        }
    }

    /// The schedule's face towards attention in the tick at `now`.
    pub fn at(&mut self, now: Nanos) -> AtTick<'_> {
        AtTick { schedule: self, now }
    }

    /// What became of all jobs so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Jobs that are open.
    pub fn open_jobs(&self) -> usize {
        self.open.len()
    }

    /// Whether the job is open and was not told to stop.
    pub fn is_open(&self, job: JobId) -> bool {
        self.open.iter().any(|open| open.id == job && open.withdrawn.is_none())
    }

    /// The newest open job of this kind that was not told to stop.
    pub fn newest(&self, capability: Capability, source: SourceId) -> Option<JobId> {
        let kind = |open: &&Open| open.capability == capability && open.source == source && open.withdrawn.is_none();
        self.open.iter().filter(kind).map(|open| open.id).max()
    }

    /// Lane time one such job takes, by what such jobs took lately; zero while unknown.
    pub fn expected(&self, capability: Capability, input: &JobInput) -> Nanos {
        match *input {
            JobInput::Steps { steps, step_us } => Nanos::from_us(u64::from(steps) * u64::from(step_us)),
            _ => self.costs[capability as usize].job,
        }
    }

    fn admit(&mut self, want: &Want, now: Nanos, out: &mut Outputs) -> JobId {
        self.last_job += 1;
        let id = JobId(self.last_job);
        let generation = match want.input {
            JobInput::Steps { .. } | JobInput::None => 0, // such work does not supersede its own kind
            _ => {
                let counter =
                    &mut self.generations[want.capability as usize][usize::from(want.source.0).min(MAX_SOURCES - 1)];
                *counter += 1;
                *counter
            }
        };
        let job = Job {
            id,
            capability: want.capability,
            source: want.source,
            generation,
            class: want.class,
            input: want.input,
            created: now,
            deadline: want.deadline,
            fresh_until: want.fresh_until,
            credit_words: want.credit_words,
            based_on: want.based_on.clone(),
        };
        self.open.push(Open {
            id,
            capability: want.capability,
            source: want.source,
            generation,
            class: want.class,
            answer: is_answer(&want.input),
            deadline: want.deadline,
            fresh_until: want.fresh_until,
            captured: want.based_on.iter().map(|input| input.captured).min().unwrap_or(now),
            heard: now,
            expected: self.expected(want.capability, &want.input),
            started: false,
            begun: false,
            waiting: false,
            withdrawn: None,
        });
        self.tally.admitted += 1;
        out.commands.push(Command::Submit(job));
        out.decide(Decision::Admit { job: id, capability: want.capability, class: want.class, why: want.why });
        id
    }

    /// Whether the want fits, after less urgent waiting work on its lane gave way if need be.
    fn make_room(&mut self, want: &Want, out: &mut Outputs) -> bool {
        let lane = lane_of(want.capability, self.lanes);
        let on_lane = |open: &&Open| lane_of(open.capability, self.lanes) == lane && open.withdrawn.is_none();
        let taken = self.open.iter().filter(on_lane).filter(|open| !will_supersede(want, open)).count();
        if taken < self.queue && !self.open.is_full() {
            return true;
        }
        if self.open.is_full() {
            return false; // stopping jobs still hold their places; they are gone within a step
        }
        let least = self.open.iter().filter(on_lane).filter(|open| !open.started && open.class > want.class);
        let Some(id) = least.max_by_key(|open| (open.class, open.deadline, open.id)).map(|open| open.id) else {
            return false;
        };
        self.cancel(id, Why::QueueFull, out)
    }

    /// When the wanted work would be over (an answer: begun), by the jobs ahead of it on its lane and one step of any
    /// other.
    fn finish_estimate(&self, want: &Want, now: Nanos) -> Nanos {
        let lane = lane_of(want.capability, self.lanes);
        let mut finish = now;
        let mut blocking = Nanos::ZERO;
        for open in &self.open {
            if lane_of(open.capability, self.lanes) != lane || open.withdrawn.is_some() || open.waiting {
                continue;
            }
            let step = self.costs[open.capability as usize].step;
            if (open.class, open.deadline) <= (want.class, want.deadline) {
                if !will_supersede(want, open) {
                    finish += if open.answer { step } else { open.expected };
                }
            } else {
                blocking = blocking.max(step);
            }
        }
        let own = self.costs[want.capability as usize];
        let own = if is_answer(&want.input) { own.step } else { self.expected(want.capability, &want.input) };
        finish + blocking + own
    }

    fn piece(&mut self, at: usize, now: Nanos, out: &mut Outputs) -> Verdict {
        let open = &mut self.open[at];
        if open.begun {
            return Verdict::Use;
        }
        let (id, age) = (open.id, now.since(open.captured));
        if now <= open.deadline {
            open.begun = true;
            out.decide(Decision::Use { job: id, age });
            return Verdict::Use;
        }
        out.decide(Decision::Discard { job: id, age, why: Why::Late });
        if !self.cancel(id, Why::Late, out) {
            self.open[at].withdrawn = Some(Why::Late);
        }
        Verdict::Late
    }

    fn finish(&mut self, at: usize, event: &LaneEvent, now: Nanos, out: &mut Outputs) -> Verdict {
        let LaneEvent::Done { outcome, busy, longest, preempted, at: ended, .. } = event else {
            return Verdict::Ignore;
        };
        let open = self.open.remove(at);
        let (job, age) = (open.id, now.since(open.captured));
        self.tally.preemptions += u64::from(*preempted);
        let class = open.class;
        let discard = |why| Decision::Discard { job, age, why };
        match outcome {
            Outcome::Completed => {
                self.learn(open.capability, *busy, *longest);
                self.complete(&open, *ended, now, out)
            }
            Outcome::Cancelled { .. } => {
                self.tally.cancelled += 1;
                self.withdrawn(&open);
                Verdict::Ignore
            }
            Outcome::Superseded => {
                self.tally.superseded += 1;
                out.decide(discard(Why::Superseded));
                Verdict::Ignore
            }
            Outcome::Expired if open.withdrawn.is_none() => {
                self.tally.of(class).missed += 1;
                self.tally.expired += 1;
                out.decide(discard(Why::Expired));
                Verdict::Ignore
            }
            Outcome::Refused => {
                self.tally.of(class).shed += 1;
                out.decide(discard(Why::QueueFull));
                Verdict::Ignore
            }
            Outcome::Failed(_) if open.withdrawn.is_none() => {
                self.tally.of(class).missed += 1;
                self.tally.failed += 1;
                out.decide(discard(Why::Failed));
                Verdict::Ignore
            }
            Outcome::Expired | Outcome::Failed(_) => {
                self.withdrawn(&open);
                Verdict::Ignore
            }
        }
    }

    fn complete(&mut self, open: &Open, ended: Nanos, now: Nanos, out: &mut Outputs) -> Verdict {
        let (job, age) = (open.id, now.since(open.captured));
        if let Some(why) = open.withdrawn {
            self.withdrawn(open);
            out.decide(Decision::Discard { job, age, why });
            return if why == Why::Late { Verdict::Late } else { Verdict::Ignore };
        }
        let kept = open.begun || ended <= open.deadline;
        if kept {
            self.tally.of(open.class).kept += 1;
        } else {
            self.tally.of(open.class).missed += 1;
        }
        if open.begun {
            return Verdict::Use;
        }
        if kept && (open.answer || now <= open.fresh_until) {
            out.decide(Decision::Use { job, age });
            return Verdict::Use;
        }
        self.tally.late += 1;
        out.decide(Decision::Discard { job, age, why: Why::Late });
        Verdict::Late
    }

    /// Books of a job that was told to stop: begun in time it is kept, begun late it is missed, else it counts as shed.
    fn withdrawn(&mut self, open: &Open) {
        if open.begun {
            self.tally.of(open.class).kept += 1;
        } else if open.withdrawn == Some(Why::Late) {
            self.tally.of(open.class).missed += 1;
            self.tally.late += 1;
        } else {
            self.tally.of(open.class).shed += 1;
        }
    }

    /// Moves the cost estimates a quarter of the way to what was measured.
    fn learn(&mut self, capability: Capability, busy: Nanos, longest: Nanos) {
        let toward = |old: Nanos, new: Nanos| match old {
            Nanos::ZERO => new,
            _ => Nanos(old.0 - old.0 / 4 + new.0 / 4),
        };
        let cost = &mut self.costs[capability as usize];
        cost.job = toward(cost.job, busy);
        cost.step = toward(cost.step, longest);
    }
}

/// Whether the want will take the place of this job, as far as the tick knows.
fn will_supersede(want: &Want, open: &Open) -> bool {
    let same = open.capability == want.capability && open.source == want.source;
    same && !open.started && open.generation > 0
}

fn is_answer(input: &JobInput) -> bool {
    matches!(input, JobInput::Ask { .. } | JobInput::Resume { .. })
}

/// The schedule at one tick, as attention and dialogue see it.
pub struct AtTick<'a> {
    schedule: &'a mut Schedule,
    now: Nanos,
}

impl Admission for AtTick<'_> {
    fn want(&mut self, want: &Want, out: &mut Outputs) -> Option<JobId> {
        self.schedule.want(want, self.now, out)
    }

    fn cancel(&mut self, job: JobId, why: Why, out: &mut Outputs) {
        self.schedule.cancel(job, why, out);
    }

    fn credit(&mut self, job: JobId, words: u16, out: &mut Outputs) -> bool {
        self.schedule.credit(job, words, out)
    }

    fn shed(&mut self, want: &Want, why: Why, out: &mut Outputs) {
        self.schedule.shed(want, why, out);
    }
}

/// The job an event speaks of.
pub fn job_of(event: &LaneEvent) -> JobId {
    match event {
        LaneEvent::Started { job, .. }
        | LaneEvent::Word { job, .. }
        | LaneEvent::Utterance { job, .. }
        | LaneEvent::Piece { job, .. }
        | LaneEvent::Waiting { job }
        | LaneEvent::Done { job, .. } => *job,
    }
}

#[cfg(test)]
mod tests;

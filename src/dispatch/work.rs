//! A lane together with its engines and open sessions: what the live executor and the virtual lane have in common.
//! Commands flow in, lane events flow out through `emit`; the owner says what time it is and what a step cost.
//! An engine that fails or panics ends its job and nothing else.

use super::lane::{Lane, reason};
use super::schedule::lane_of;
use crate::engine::{CancelToken, Engine, Progress, SensorReader, Session, StepSink, step};
use crate::types::{Command, JobInput, LaneEvent, Nanos, Outcome, Output, Text};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Receives what the lane reports.
pub type Emit<'a> = &'a mut dyn FnMut(LaneEvent);
/// How a step went: its progress, or why it failed.
pub type Stepped = Result<Progress, Text<96>>;

/// Engines, their open sessions and the queue in front of them.
pub struct Work {
    lane: Lane,
    engines: Vec<Box<dyn Engine>>,
    sensors: Arc<dyn SensorReader>,
    sessions: Vec<Option<Box<dyn Session>>>,
    sink: StepSink,
}

/// Hands each engine to the lane that serves its capability; lanes in the order of [`lane_of`].
pub fn by_lane(engines: Vec<Box<dyn Engine>>, lanes: u8) -> Vec<Vec<Box<dyn Engine>>> {
    let mut by_lane: Vec<Vec<Box<dyn Engine>>> = (0..lanes.max(1)).map(|_| Vec::new()).collect();
    for engine in engines {
        by_lane[lane_of(engine.capability(), lanes)].push(engine);
    }
    by_lane
}

impl Work {
    /// A lane of at most `limit` jobs that these engines serve.
    pub fn new(engines: Vec<Box<dyn Engine>>, sensors: Arc<dyn SensorReader>, limit: usize) -> Work {
        let lane = Lane::new(limit);
        let sessions = (0..lane.limit()).map(|_| None).collect();
        Work { lane, engines, sensors, sessions, sink: StepSink::default() }
    }

    /// The queue.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The engines, back again; open sessions are dropped.
    pub fn into_engines(self) -> Vec<Box<dyn Engine>> {
        self.engines
    }

    /// Carries out one command at a step boundary. `asked` is when the tick gave it.
    pub fn command(&mut self, command: Command, asked: Nanos, now: Nanos, emit: Emit) {
        match command {
            Command::Submit(job) => {
                self.lane.submit(job, now, emit);
            }
            Command::Credit { job, words } => {
                if let Some(slot) = self.lane.credit(job, words)
                    && let Some(session) = self.sessions[slot].as_mut()
                    && guarded(|| session.credit(words)).is_err()
                {
                    self.fail(slot, reason("the engine panicked when it was given credit"), now, emit);
                }
            }
            Command::Cancel(id) => {
                let Some(slot) = self.lane.slot_of(id) else { return };
                if let Some(mut session) = self.sessions[slot].take() {
                    let kept = guarded(|| session.suspend()).is_ok();
                    discard(session);
                    let answer = self.lane.job(slot).map(|job| job.input);
                    if kept && matches!(answer, Some(JobInput::Ask { .. } | JobInput::Resume { .. })) {
                        self.lane.keep(id);
                    }
                }
                let outcome = Outcome::Cancelled { idle_after: now.since(asked) };
                self.lane.leave(slot, outcome, Output::None, now, emit);
            }
        }
    }

    /// The slot whose step runs next, at `now`.
    pub fn pick(&mut self, now: Nanos, emit: Emit) -> Option<usize> {
        let slot = self.lane.next(now, emit)?;
        if self.lane.start(slot)
            && let Some(job) = self.lane.job(slot)
        {
            emit(LaneEvent::Started { job: job.id, at: now });
        }
        Some(slot)
    }

    /// Runs one step of the job in `slot`, opening its session first if this is its first step.
    pub fn step(&mut self, slot: usize, cancel: &CancelToken) -> Stepped {
        self.sink.products.clear();
        self.sink.output = None;
        if self.sessions[slot].is_none() {
            let Some(job) = self.lane.job(slot) else { return Err(reason("no such job")) };
            let credit_words = self.lane.credit_of(slot);
            let Some(engine) = self.engines.iter_mut().find(|engine| engine.capability() == job.capability) else {
                return Err(reason("no engine of this lane serves the job"));
            };
            let sensors = self.sensors.as_ref();
            let mut session = match guarded(|| engine.open(job, sensors)) {
                Ok(Ok(session)) => session,
                Ok(Err(error)) => return Err(reason(&error.to_string())),
                Err(panicked) => return Err(panicked),
            };
            if credit_words > job.credit_words && guarded(|| session.credit(credit_words)).is_err() {
                return Err(reason("the engine panicked when it was given credit"));
            }
            self.sessions[slot] = Some(session);
        }
        let Some(session) = self.sessions[slot].as_mut() else { return Err(reason("no session")) };
        let sink = &mut self.sink;
        match guarded(|| step(session.as_mut(), cancel, sink)) {
            Ok(Ok(progress)) => Ok(progress),
            Ok(Err(error)) => Err(reason(&error.to_string())),
            Err(panicked) => Err(panicked),
        }
    }

    /// How far the job in `slot` is from complete, 1 to 0, if its engine knows.
    pub fn energy(&self, slot: usize) -> Option<f32> {
        self.sessions[slot].as_ref().and_then(|session| guarded(|| session.energy()).ok().flatten())
    }

    /// Accounts and reports a step that took `cost` and ended at `at`.
    pub fn after(&mut self, slot: usize, stepped: Stepped, cost: Nanos, at: Nanos, emit: Emit) {
        let energy = self.energy(slot);
        self.lane.ran(slot, cost, !matches!(stepped, Ok(Progress::Stopped)), energy);
        let progress = match stepped {
            Ok(progress) => progress,
            Err(why) => return self.fail(slot, why, at, emit),
        };
        if progress == Progress::Stopped {
            self.sink.products.clear();
            return;
        }
        if let Some(job) = self.lane.job(slot) {
            self.sink.drain(job, &mut *emit);
        }
        match progress {
            Progress::Waiting => {
                if self.lane.wait(slot)
                    && let Some(job) = self.lane.job(slot)
                {
                    emit(LaneEvent::Waiting { job: job.id });
                }
            }
            Progress::Done => {
                if let Some(session) = self.sessions[slot].take() {
                    discard(session);
                }
                let output = self.sink.output.take().unwrap_or(Output::None);
                self.lane.leave(slot, Outcome::Completed, output, at, emit);
            }
            Progress::More | Progress::Pending | Progress::Stopped => {}
        }
    }

    fn fail(&mut self, slot: usize, why: Text<96>, at: Nanos, emit: Emit) {
        if let Some(session) = self.sessions[slot].take() {
            discard(session);
        }
        self.lane.leave(slot, Outcome::Failed(why), Output::None, at, emit);
    }
}

/// Drops a session; one that panics in its destructor does no harm.
fn discard(session: Box<dyn Session>) {
    let _ = guarded(|| drop(session));
}

/// Runs engine code; a panic becomes a reason.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Text<96>> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let what = panic.downcast_ref::<&str>().copied();
        let what = what.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let mut text = reason("the engine panicked: ");
        for c in what.chars() {
            if text.try_push(c).is_err() {
                break;
            }
        }
        text
    })
}

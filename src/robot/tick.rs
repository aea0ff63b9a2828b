//! One tick of the live loop: drain the inbox, let the core decide, send commands and acts, hand the record on. Beats
//! flow in; nothing here allocates, locks or waits, and the only system calls are wake-ups of threads that got work.

use super::inbox::Inbox;
use crate::dispatch::lane::unstarted;
use crate::dispatch::{LaneHandle, lane_of};
use crate::time::{Beat, Clock};
use crate::types::{Act, Command, Inputs, JobId, Nanos, Outcome, Outputs};
use arrayvec::ArrayVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;

/// The pure core: what one tick's inputs lead to.
pub trait TickCore: Send {
    /// Reads `inputs` and fills `outputs`, which are clear. The same inputs always lead to the same outputs.
    fn tick(&mut self, inputs: &Inputs, outputs: &mut Outputs);
}

/// One tick as the recorder and the views get it. Records are recycled.
#[derive(Debug, Clone, Default)]
pub struct TickRecord {
    /// What went in.
    pub inputs: Inputs,
    /// What came out.
    pub outputs: Outputs,
    /// When the thread woke; lateness is `woke - inputs.now`.
    pub woke: Nanos,
    /// From `woke` until everything was sent.
    pub work: Nanos,
}

/// The tick's ends of the record rings.
pub struct RecordsOut {
    free: rtrb::Consumer<Box<TickRecord>>,
    full: rtrb::Producer<Box<TickRecord>>,
}

/// The recorder's ends: take a full record, use it, give it back.
pub struct RecordsIn {
    /// Filled records, in order. A tick number that is missing without being skipped was dropped for lack of room.
    pub full: rtrb::Consumer<Box<TickRecord>>,
    /// Where used records go back.
    pub free: rtrb::Producer<Box<TickRecord>>,
}

/// `count` records that travel between the tick and the recorder.
pub fn record_rings(count: usize) -> (RecordsOut, RecordsIn) {
    let (mut free_in, free) = rtrb::RingBuffer::new(count.max(1));
    let (full_in, full) = rtrb::RingBuffer::new(count.max(1));
    while free_in.push(Box::default()).is_ok() {}
    (RecordsOut { free, full: full_in }, RecordsIn { full, free: free_in })
}

/// What a live loop is made of.
pub struct RobotParts {
    /// What decides.
    pub core: Box<dyn TickCore>,
    /// Where inputs come from.
    pub inbox: Inbox,
    /// The lanes, in the order of `dispatch::lane_of`.
    pub lanes: Vec<LaneHandle>,
    /// Where acts go; acts that find no room are dropped and counted.
    pub acts: rtrb::Producer<Act>,
    /// Woken after acts were sent.
    pub actor: Option<Thread>,
    /// Where records go; without a free one the record is dropped and counted.
    pub records: RecordsOut,
    /// Measures the work of a tick.
    pub clock: Arc<dyn Clock>,
}

/// Counts of the loop, for views and the watchdog; written by the tick, read by anyone.
#[derive(Debug, Default)]
pub struct Beats {
    /// Ticks served.
    pub ticks: AtomicU64,
    /// Ticks skipped by overrun.
    pub skipped: AtomicU64,
    /// Acts dropped because nobody took them.
    pub acts_dropped: AtomicU64,
    /// Records dropped because the recorder was behind.
    pub records_dropped: AtomicU64,
    /// Commands that found a lane's ring full.
    pub commands_unsent: AtomicU64,
    /// Lateness of the last tick, ns.
    pub lateness_ns: AtomicU64,
    /// Work of the last tick, ns.
    pub work_ns: AtomicU64,
}

/// The loop's body, without its thread.
pub struct TickLoop {
    parts: RobotParts,
    spare: Option<Box<TickRecord>>,
    refused: ArrayVec<JobId, 16>,
    again: ArrayVec<Command, 16>,
    beats: Arc<Beats>,
}

impl TickLoop {
    /// A loop of these parts. Allocates here and never again.
    pub fn new(parts: RobotParts) -> TickLoop {
        let beats = Arc::new(Beats::default());
        TickLoop { parts, spare: Some(Box::default()), refused: ArrayVec::new(), again: ArrayVec::new(), beats }
    }

    /// The loop's counts.
    pub fn beats(&self) -> Arc<Beats> {
        Arc::clone(&self.beats)
    }

    /// The core, after the last tick.
    pub fn into_core(self) -> Box<dyn TickCore> {
        self.parts.core
    }

    /// Serves one tick.
    pub fn serve(&mut self, beat: Beat) {
        let recycled = self.parts.records.free.pop().ok();
        let recorded = recycled.is_some();
        let Some(mut record) = recycled.or_else(|| self.spare.take()) else { return };
        self.fill(&mut record.inputs, beat);
        record.outputs.clear();
        self.parts.core.tick(&record.inputs, &mut record.outputs);
        self.send_commands(&record.outputs);
        self.send_acts(&record.outputs);
        record.woke = beat.woke;
        record.work = self.parts.clock.now().since(beat.woke);
        self.count(&record, beat);
        if !recorded {
            self.beats.records_dropped.fetch_add(1, Ordering::Relaxed);
            self.spare = Some(record);
        } else if let Err(rtrb::PushError::Full(record)) = self.parts.records.full.push(record) {
            // Both rings hold as many as there are records, so this needs a reader that adds its own.
            self.beats.records_dropped.fetch_add(1, Ordering::Relaxed);
            self.spare.get_or_insert(record);
        }
    }

    fn fill(&mut self, inputs: &mut Inputs, beat: Beat) {
        clear(inputs);
        inputs.tick = beat.tick;
        inputs.now = beat.due;
        inputs.skipped = beat.skipped;
        for job in self.refused.drain(..) {
            inputs.events.push(unstarted(job, Outcome::Refused, beat.due)); // 16 fit into 32
        }
        self.parts.inbox.drain(&mut self.parts.lanes, inputs);
    }

    fn send_commands(&mut self, outputs: &Outputs) {
        if outputs.commands.is_empty() && self.again.is_empty() {
            return;
        }
        let lanes = &mut self.parts.lanes;
        let again = std::mem::take(&mut self.again);
        for command in again.iter().chain(&outputs.commands) {
            let sent = match command {
                Command::Submit(job) => {
                    let lane = lane_of(job.capability, lanes.len() as u8);
                    let sent = lanes.get_mut(lane).is_some_and(|lane| lane.send(command));
                    if !sent {
                        let _ = self.refused.try_push(job.id); // as many as there are commands in a tick
                    }
                    sent
                }
                // Only the lane that has the job heeds these.
                Command::Cancel(_) | Command::Credit { .. } => {
                    let mut sent = true;
                    for lane in lanes.iter_mut() {
                        sent &= lane.send(command);
                    }
                    if !sent {
                        let _ = self.again.try_push(command.clone());
                    }
                    sent
                }
            };
            if !sent {
                self.beats.commands_unsent.fetch_add(1, Ordering::Relaxed);
            }
        }
        for lane in lanes.iter() {
            lane.wake();
        }
    }

    fn send_acts(&mut self, outputs: &Outputs) {
        for act in &outputs.acts {
            if self.parts.acts.push(act.clone()).is_err() {
                self.beats.acts_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !outputs.acts.is_empty()
            && let Some(actor) = &self.parts.actor
        {
            actor.unpark();
        }
    }

    fn count(&self, record: &TickRecord, beat: Beat) {
        let beats = &self.beats;
        beats.lateness_ns.store(beat.woke.since(beat.due).0, Ordering::Relaxed);
        beats.work_ns.store(record.work.0, Ordering::Relaxed);
        beats.skipped.fetch_add(u64::from(beat.skipped), Ordering::Relaxed);
        beats.ticks.fetch_add(1, Ordering::Release);
    }
}

fn clear(inputs: &mut Inputs) {
    inputs.camera.clear();
    inputs.audio.clear();
    inputs.status = None;
    inputs.events.clear();
    inputs.voice = None;
    inputs.health.clear();
    inputs.release_halt = false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robot::inbox::Inbox;
    use crate::time::Monotonic;
    use crate::types::{Capability, Class, Job, JobInput, LaneEvent, SourceId};

    struct Asks;

    impl TickCore for Asks {
        fn tick(&mut self, inputs: &Inputs, out: &mut Outputs) {
            out.command(Command::Submit(Job {
                id: JobId(inputs.tick),
                capability: Capability::See,
                source: SourceId(0),
                generation: 1,
                class: Class::Awareness,
                input: JobInput::Frame { seq: 0 },
                created: inputs.now,
                deadline: Nanos::NEVER,
                fresh_until: Nanos::NEVER,
                credit_words: 0,
                based_on: ArrayVec::new(),
            }));
        }
    }

    #[test]
    fn a_job_that_no_lane_takes_comes_back_as_refused_in_the_next_tick() {
        let (acts, _body) = rtrb::RingBuffer::new(1);
        let (records, mut recorder) = record_rings(2);
        let mut body = TickLoop::new(RobotParts {
            core: Box::new(Asks),
            inbox: Inbox::default(),
            lanes: Vec::new(),
            acts,
            actor: None,
            records,
            clock: Arc::new(Monotonic),
        });
        for tick in 1..=2 {
            body.serve(Beat { tick, due: Nanos(tick), woke: Nanos(tick), skipped: 0 });
        }
        assert!(recorder.full.pop().expect("recorded").inputs.events.is_empty());
        let second = recorder.full.pop().expect("recorded");
        let refused =
            |event: &LaneEvent| matches!(event, LaneEvent::Done { job: JobId(1), outcome: Outcome::Refused, .. });
        assert!(second.inputs.events.iter().any(refused));
        assert_eq!(body.beats().commands_unsent.load(Ordering::Relaxed), 2);
    }
}

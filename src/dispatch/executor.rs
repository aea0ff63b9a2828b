//! The thread that owns a lane. Commands flow in from the tick and lane events flow back, both over bounded wait-free
//! rings; sending costs the tick one wake-up per batch. A cancel also reaches into the running step, through a token
//! that the tick sets directly. The lane thread blocks only when it has nothing to run or nobody takes its events.

use super::lane::LANE_JOBS;
use super::work::Work;
use crate::engine::{CancelToken, Engine, Progress, SensorReader};
use crate::time::Clock;
use crate::types::{Capability, Command, JobId, LaneEvent, Nanos};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// Commands that may be on their way to a lane; more are not sent, and `LaneHandle::send` says so.
const COMMANDS: usize = 256;
/// Events that may be on their way to the tick; the lane waits when there are more.
const EVENTS: usize = 256;
/// Cancel tokens; jobs whose numbers differ by a multiple of this share one, which costs a repeated step at worst.
const TOKENS: usize = 64;
/// How long the lane waits before it looks again whether there is room for its events.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// What both sides of a lane share.
struct Shared {
    tokens: [CancelToken; TOKENS],
    cancelled_at: [AtomicU64; TOKENS],
    stop: AtomicBool,
    gauges: LaneGauges,
}

/// What a lane is doing, for views; written by the lane, read by anyone, each value on its own.
#[derive(Debug, Default)]
pub struct LaneGauges {
    job: AtomicU64,
    capability: AtomicU32,
    energy: AtomicU32,
    steps: AtomicU64,
    busy_ns: AtomicU64,
    open: AtomicU32,
    event_waits: AtomicU64,
}

impl LaneGauges {
    /// The job whose step runs now, and what it asks for.
    pub fn running(&self) -> Option<(JobId, Capability)> {
        const BY_INDEX: [Capability; 5] =
            [Capability::Hear, Capability::See, Capability::Reason, Capability::Consolidate, Capability::Load];
        match self.job.load(Ordering::Relaxed) {
            0 => None,
            id => Some((JobId(id), *BY_INDEX.get(self.capability.load(Ordering::Relaxed) as usize)?)),
        }
    }

    /// IRP energy of the job that ran last, 1 to 0; NaN if its engine does not know.
    pub fn energy(&self) -> f32 {
        f32::from_bits(self.energy.load(Ordering::Relaxed))
    }

    /// Steps run.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Time spent in steps.
    pub fn busy(&self) -> Nanos {
        Nanos(self.busy_ns.load(Ordering::Relaxed))
    }

    /// Jobs open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Times the lane had to wait because the tick did not take its events.
    pub fn event_waits(&self) -> u64 {
        self.event_waits.load(Ordering::Relaxed)
    }
}

/// The tick's side of a lane.
pub struct LaneHandle {
    commands: rtrb::Producer<Command>,
    events: rtrb::Consumer<LaneEvent>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    thread: Thread,
    unsent: u64,
}

impl LaneHandle {
    /// Sends a command without waking the lane; a cancel takes effect in the running step at once. `false`, and
    /// counted, if the ring is full: the command was not sent.
    pub fn send(&mut self, command: &Command) -> bool {
        let cancelled = if let Command::Cancel(job) = command { Some(*job) } else { None };
        if let Some(job) = cancelled {
            self.shared.cancelled_at[token(job)].store(self.clock.now().0, Ordering::Relaxed);
        }
        if self.commands.push(command.clone()).is_err() {
            self.unsent += 1;
            return false;
        }
        if let Some(job) = cancelled {
            self.shared.tokens[token(job)].cancel();
        }
        true
    }

    /// Wakes the lane: once after all commands of a tick.
    pub fn wake(&self) {
        self.thread.unpark();
    }

    /// The next event, if there is one.
    pub fn event(&mut self) -> Option<LaneEvent> {
        self.events.pop().ok()
    }

    /// Commands that found the ring full.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }
}

/// Owns a lane's thread; dropping it stops the lane after its current step.
pub struct Executor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Vec<Box<dyn Engine>>>>,
}

impl Executor {
    /// Starts a lane thread called `name` that these engines serve. What the tick talks to is returned beside it.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn spawn(
        name: &str,
        engines: Vec<Box<dyn Engine>>,
        sensors: Arc<dyn SensorReader>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<(Executor, LaneHandle)> {
        let (commands, command_out) = rtrb::RingBuffer::new(COMMANDS);
        let (event_in, events) = rtrb::RingBuffer::new(EVENTS);
        let shared = Arc::new(Shared {
            tokens: std::array::from_fn(|_| CancelToken::default()),
            cancelled_at: std::array::from_fn(|_| AtomicU64::new(0)),
            stop: AtomicBool::new(false),
            gauges: LaneGauges::default(),
        });
        let side = LaneSide {
            work: Work::new(engines, sensors, LANE_JOBS),
            commands: command_out,
            events: event_in,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || side.run())?;
        let handle = LaneHandle {
            commands,
            events,
            shared: Arc::clone(&shared),
            clock,
            thread: thread.thread().clone(),
            unsent: 0,
        };
        Ok((Executor { shared, thread: Some(thread) }, handle))
    }

    /// What the lane is doing.
    pub fn gauges(&self) -> Gauges {
        Gauges(Arc::clone(&self.shared))
    }

    /// Stops the lane, inside its step if the engine heeds its token, and returns the engines.
    pub fn stop(mut self) -> Vec<Box<dyn Engine>> {
        self.halt()
    }

    fn halt(&mut self) -> Vec<Box<dyn Engine>> {
        let Some(thread) = self.thread.take() else { return Vec::new() };
        self.shared.stop.store(true, Ordering::Release);
        for token in &self.shared.tokens {
            token.cancel();
        }
        thread.thread().unpark();
        thread.join().unwrap_or_default()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A lane's gauges, to be read from any thread.
#[derive(Clone)]
pub struct Gauges(Arc<Shared>);

impl std::ops::Deref for Gauges {
    type Target = LaneGauges;
    fn deref(&self) -> &LaneGauges {
        &self.0.gauges
    }
}

/// The lane's own side.
struct LaneSide {
    work: Work,
    commands: rtrb::Consumer<Command>,
    events: rtrb::Producer<LaneEvent>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

impl LaneSide {
    fn run(mut self) -> Vec<Box<dyn Engine>> {
        while !self.shared.stop.load(Ordering::Acquire) {
            self.take_commands();
            let now = self.clock.now();
            let LaneSide { work, events, shared, .. } = &mut self;
            let picked = work.pick(now, &mut |event| report(events, shared, event));
            shared.gauges.open.store(work.lane().len() as u32, Ordering::Relaxed);
            match picked {
                Some(slot) => self.run_step(slot),
                None => std::thread::park(),
            }
        }
        self.work.into_engines()
    }

    fn take_commands(&mut self) {
        let LaneSide { work, commands, events, shared, clock } = self;
        while let Ok(command) = commands.pop() {
            let now = clock.now();
            let mut asked = now;
            match &command {
                // A token left from an older job that shared it must not stop the new one; taking it also makes the
                // cancel that set it visible in the ring.
                Command::Submit(job) => {
                    shared.tokens[token(job.id)].take();
                }
                Command::Cancel(job) => asked = Nanos(shared.cancelled_at[token(*job)].load(Ordering::Relaxed)),
                Command::Credit { .. } => {}
            }
            work.command(command, asked, now, &mut |event| report(events, shared, event));
        }
    }

    fn run_step(&mut self, slot: usize) {
        let LaneSide { work, events, shared, clock, .. } = self;
        let Some((id, capability)) = work.lane().job(slot).map(|job| (job.id, job.capability)) else { return };
        let gauges = &shared.gauges;
        gauges.capability.store(capability as u32, Ordering::Relaxed);
        gauges.job.store(id.0, Ordering::Relaxed);
        let began = clock.now();
        let stepped = work.step(slot, &shared.tokens[token(id)]);
        let ended = clock.now();
        gauges.job.store(0, Ordering::Relaxed);
        gauges.energy.store(work.energy(slot).unwrap_or(f32::NAN).to_bits(), Ordering::Relaxed);
        gauges.steps.fetch_add(1, Ordering::Relaxed);
        gauges.busy_ns.fetch_add(ended.since(began).0, Ordering::Relaxed);
        let stopped = matches!(stepped, Ok(Progress::Stopped));
        work.after(slot, stepped, ended.since(began), ended, &mut |event| report(events, shared, event));
        if stopped && !shared.stop.load(Ordering::Acquire) {
            // The cancel is in the ring by now and is carried out next. If it was meant for another job that shares the
            // token, this one goes on from its last step boundary.
            shared.tokens[token(id)].take();
        }
    }
}

/// Hands an event to the tick; waits while the ring is full, so that no end of a job is ever lost.
fn report(events: &mut rtrb::Producer<LaneEvent>, shared: &Shared, event: LaneEvent) {
    let mut event = event;
    while let Err(rtrb::PushError::Full(back)) = events.push(event) {
        if shared.stop.load(Ordering::Acquire) || events.is_abandoned() {
            return;
        }
        shared.gauges.event_waits.fetch_add(1, Ordering::Relaxed);
        std::thread::park_timeout(FULL_PAUSE);
        event = back;
    }
}

/// Which token a job has.
fn token(job: JobId) -> usize {
    (job.0 % TOKENS as u64) as usize
}

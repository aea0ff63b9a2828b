//! The executor's own code allocates nothing while jobs come and go: what a lane thread allocates is its engines' doing.

#[path = "dispatch_support/counting.rs"]
mod counting;
mod dispatch_support;

use counting::{Counting, calls};
use dispatch_support::{NoSensors, job};
use sage::dispatch::Executor;
use sage::engine::{CancelToken, Engine, EngineError, Progress, SensorReader, Session, StepSink};
use sage::time::Monotonic;
use sage::types::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocator calls of the lane thread as its last step saw them.
static LANE_CALLS: AtomicU64 = AtomicU64::new(0);

/// An engine whose sessions have no size, so that opening one allocates nothing.
struct Weightless;
struct Breath;

impl Engine for Weightless {
    fn capability(&self) -> Capability {
        Capability::Load
    }
    fn describe(&self) -> String {
        String::new()
    }
    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }
    fn memory_bytes(&self) -> u64 {
        0
    }
    fn open(&mut self, _: &Job, _: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(Breath))
    }
}

impl Session for Breath {
    fn submit(&mut self, _: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        LANE_CALLS.store(calls(), Ordering::Release);
        sink.output = Some(Output::None);
        Ok(())
    }
    fn poll(&mut self, _: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(Progress::Done)
    }
}

#[test]
fn a_thousand_jobs_pass_a_lane_without_an_allocation_on_either_side() {
    let (lane, mut handle) =
        Executor::spawn("lane", vec![Box::new(Weightless)], Arc::new(NoSensors), Arc::new(Monotonic))
            .expect("a thread");
    let mut run = |id: u64| {
        let before = calls();
        handle.send(&Command::Submit(job(id, Capability::Load, Class::Background, Nanos::NEVER)));
        handle.send(&Command::Credit { job: JobId(id), words: 3 });
        handle.wake();
        loop {
            match handle.event() {
                Some(LaneEvent::Done { outcome, .. }) => {
                    assert_eq!(outcome, Outcome::Completed);
                    break;
                }
                _ => std::hint::spin_loop(),
            }
        }
        calls() - before
    };
    run(1);
    let lane_before = LANE_CALLS.load(Ordering::Acquire);
    let tick_side: u64 = (2..1_002).map(&mut run).sum();
    let lane_side = LANE_CALLS.load(Ordering::Acquire) - lane_before;
    assert_eq!((tick_side, lane_side), (0, 0));
    lane.stop();
}

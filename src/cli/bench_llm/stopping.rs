//! How long a cancel takes to free a lane that a language model keeps busy: through the executor that robots run on. A decoder
//! flows in; the times from cancel to a free lane flow out, for decoding and for reading a prompt.

use super::speed::Talk;
use crate::dispatch::{Executor, LaneHandle};
use crate::engine::{CancelToken, Engine, EngineError, NoSensors, Progress, SensorReader, Session, StepSink};
use crate::time::Monotonic;
use crate::types::{Capability, Class, Command, Job, JobId, JobInput, LaneEvent, Nanos, Outcome, SourceId};
use anyhow::{Context, bail};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Cancels at different instants: enough for a p99.
const CANCELS: u64 = 100;
/// The latest instant of a job at which it is cancelled: all instants of a long step are alike.
const LATEST: Duration = Duration::from_millis(120);
/// No event for this long means that the lane is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tokens before decoding begins.
const FEW: usize = 16;

/// What the lane is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// One token a step.
    Decode,
    /// A chunk of a prompt of [`super::PREFILL`] tokens a step.
    Prefill,
}

/// Cancels one job after another, each at another instant of its work, and hands the decoder back.
///
/// # Errors
/// The system refuses a thread, or the lane does not answer.
pub fn times(talk: Talk, busy: Busy) -> anyhow::Result<(Talk, Vec<Duration>)> {
    let talk = Arc::new(Mutex::new(talk));
    let engine = Chatter { talk: Arc::clone(&talk), busy, variant: 0 };
    let (lane, mut handle) =
        Executor::spawn("bench-lane", vec![Box::new(engine)], Arc::new(NoSensors), Arc::new(Monotonic))?;
    let times = (1..=CANCELS).map(|number| cancel_one(&mut handle, number)).collect::<anyhow::Result<Vec<_>>>();
    drop(lane.stop());
    let talk = Arc::into_inner(talk).context("the lane still holds the decoder")?;
    Ok((talk.into_inner().unwrap_or_else(PoisonError::into_inner), times?))
}

fn cancel_one(handle: &mut LaneHandle, number: u64) -> anyhow::Result<Duration> {
    handle.send(&Command::Submit(job(number)));
    handle.wake();
    await_event(handle, |event| matches!(event, LaneEvent::Started { .. }).then_some(()))?;
    // Spread by the golden ratio.
    std::thread::sleep(LATEST.mul_f64((number as f64 * 0.618_034).fract()));
    handle.send(&Command::Cancel(JobId(number)));
    handle.wake();
    let outcome = await_event(handle, |event| match event {
        LaneEvent::Done { outcome, .. } => Some(outcome),
        _ => None,
    })?;
    match outcome {
        Outcome::Cancelled { idle_after } => Ok(Duration::from_nanos(idle_after.0)),
        other => bail!("the job was to be cancelled, but ended otherwise: {other:?}"),
    }
}

fn await_event<T>(handle: &mut LaneHandle, wanted: impl Fn(LaneEvent) -> Option<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match handle.event() {
            Some(event) => {
                if let Some(found) = wanted(event) {
                    return Ok(found);
                }
            }
            None if began.elapsed() > PATIENCE => bail!("the lane did not answer for {} s", PATIENCE.as_secs()),
            // The tick looks once a period too; a waiting loop would take a core from the workers.
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn job(number: u64) -> Job {
    Job {
        id: JobId(number),
        capability: Capability::Load,
        source: SourceId(0),
        generation: 0,
        class: Class::Dialogue,
        input: JobInput::None,
        created: Nanos::ZERO,
        deadline: Nanos::NEVER,
        fresh_until: Nanos::NEVER,
        credit_words: 0,
        based_on: Default::default(),
    }
}

/// A model that talks, or reads, until it is cancelled.
struct Chatter {
    talk: Arc<Mutex<Talk>>,
    busy: Busy,
    variant: u32,
}

impl Engine for Chatter {
    fn capability(&self) -> Capability {
        Capability::Load
    }

    fn describe(&self) -> String {
        "a language model that is measured".to_owned()
    }

    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn open(&mut self, _: &Job, _: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        self.variant += 1;
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let prompt = match self.busy {
            Busy::Decode => talk.tokens(FEW, 1),
            // A prompt that shares nothing with the one before.
            Busy::Prefill => talk.tokens(super::CONTEXT - 1, self.variant),
        };
        talk.ask(&prompt, super::CONTEXT).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        Ok(Box::new(Chat { talk: Arc::clone(&self.talk), prompt, last: Progress::More }))
    }
}

struct Chat {
    talk: Arc<Mutex<Talk>>,
    prompt: Vec<u32>,
    last: Progress,
}

impl Session for Chat {
    fn submit(&mut self, cancel: &CancelToken, _: &mut StepSink) -> Result<(), EngineError> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        self.last = match talk.step(cancel) {
            Err(_) => Progress::Stopped,
            Ok(over) => {
                // A small model is done before the cancel comes; it begins again.
                if over {
                    talk.ask(&self.prompt, super::CONTEXT)
                        .map_err(|error| EngineError::Unsupported(error.to_string()))?;
                }
                Progress::More
            }
        };
        Ok(())
    }

    fn poll(&mut self, _: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.last)
    }
}

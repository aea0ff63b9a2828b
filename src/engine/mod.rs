//! Engines: loaded networks that work in bounded steps. A lane (see `dispatch::executor`) opens a `Session` per job,
//! runs it step by step, and may run another job's step in between. Jobs flow in; pieces and outputs flow out
//! through a `StepSink`. Each engine also *is* an IRP process: a step refines, `energy` says how far it is.

pub mod cpu;
#[cfg(feature = "tensorrt")]
pub mod cuda;
pub mod generator;
pub mod profile;
pub mod tensorrt;

use crate::types::{
    AudioBlock, Capability, Frame, HeardWord, Job, LaneEvent, MAX_WORDS, Nanos, Output, Piece, SourceId,
};
use arrayvec::ArrayVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Weights or configuration cannot be used.
    #[error("{what}: {why}")]
    Load {
        /// File or folder.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The job's input is no longer in the sensor store.
    #[error("the input of the job is gone: {0}")]
    InputGone(String),
    /// The job asks for something this engine does not do.
    #[error("this engine cannot do that: {0}")]
    Unsupported(String),
    /// The device failed.
    #[error("device fault: {0}")]
    Device(String),
}

/// Tells a running step to stop. Set by the executor's owner, read inside the step's loops.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks the step to stop as soon as it can.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the step should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the token usable again and says whether it was set. Who sees `true` also sees what was written before
    /// `cancel` was called.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }

    /// Makes the token usable for the next step.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Where engines find what a job names: frames and sound that `sense` keeps for a while. Live it is the sensor store;
/// in a simulation it is filled from the log.
pub trait SensorReader: Send + Sync {
    /// Frame `seq` of the camera, if it is still kept.
    fn frame(&self, source: SourceId, seq: u64) -> Option<Arc<Frame>>;
    /// Calls `each` with the blocks `from_seq..=upto_seq` of the microphone that are still kept, in order.
    fn sound(&self, source: SourceId, from_seq: u64, upto_seq: u64, each: &mut dyn FnMut(&AudioBlock));
}

/// A sensor store without anything in it, for engines that need none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSensors;

impl SensorReader for NoSensors {
    fn frame(&self, _: SourceId, _: u64) -> Option<Arc<Frame>> {
        None
    }

    fn sound(&self, _: SourceId, _: u64, _: u64, _: &mut dyn FnMut(&AudioBlock)) {}
}

/// Whether a session has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The submitted step still runs (accelerators only).
    Pending,
    /// The step is over, more follow.
    More,
    /// Nothing to do until `Session::credit` allows more words.
    Waiting,
    /// The job is complete; the sink has its output.
    Done,
    /// The cancel token stopped the step; the session is back at the last step boundary.
    Stopped,
}

/// Something a step produced.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // fixed size, in a fixed list
pub enum Product {
    /// A piece of an answer.
    Piece(Piece),
    /// A word heard.
    Word(HeardWord),
    /// An utterance ended.
    Utterance {
        /// Its words.
        words: ArrayVec<HeardWord, MAX_WORDS>,
        /// First sample.
        from: Nanos,
        /// Last voiced sample.
        to: Nanos,
    },
}

/// Collects what one step produces; emptied by the executor after each step.
#[derive(Debug, Default)]
pub struct StepSink {
    /// In order; a step that would produce more stops early and goes on in its next step.
    pub products: ArrayVec<Product, 8>,
    /// Set by the step that completes the job.
    pub output: Option<Output>,
}

impl StepSink {
    /// Turns the products into lane events of `job`, in order.
    pub fn drain(&mut self, job: &Job, mut each: impl FnMut(LaneEvent)) {
        for product in self.products.drain(..) {
            each(match product {
                Product::Piece(piece) => LaneEvent::Piece { job: job.id, piece },
                Product::Word(word) => LaneEvent::Word { job: job.id, source: job.source, word },
                Product::Utterance { words, from, to } => {
                    LaneEvent::Utterance { job: job.id, source: job.source, words, from, to }
                }
            });
        }
    }
}

/// A loaded network. Lives on its lane's thread.
pub trait Engine: Send {
    /// What it serves.
    fn capability(&self) -> Capability;
    /// Name and size for people and the record, such as `eye (0.8 M parameters, cpu/avx512)`.
    fn describe(&self) -> String;
    /// BLAKE3 of its weights, first 16 bytes; part of the record.
    fn weights_hash(&self) -> [u8; 16];
    /// Bytes it holds: weights, KV cache, activations.
    fn memory_bytes(&self) -> u64;
    /// Opens a session for the job. `JobInput::Resume` continues an answer that `Session::suspend` kept.
    ///
    /// # Errors
    /// `InputGone` if the store no longer has the input, `Unsupported` for a foreign job.
    fn open(&mut self, job: &Job, sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError>;
}

/// One job's work on an engine, in bounded steps. Dropping it frees what it held.
pub trait Session: Send {
    /// Starts one bounded step. A CPU session does the whole step here and `poll` tells how it went.
    ///
    /// # Errors
    /// `Device` if the step could not be started.
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError>;
    /// How the submitted step is doing. Never blocks.
    ///
    /// # Errors
    /// `Device` if the step failed.
    fn poll(&mut self, sink: &mut StepSink) -> Result<Progress, EngineError>;
    /// Words the answer may have in all from now on (see DESIGN rule 10).
    fn credit(&mut self, words: u16) {
        let _ = words;
    }
    /// The job was interrupted: keep what a later `JobInput::Resume` needs. The session is dropped afterwards.
    fn suspend(&mut self) {}
    /// IRP energy: how far from complete, 1 at the start to 0 when done; `None` if unknown.
    fn energy(&self) -> Option<f32> {
        None
    }
}

/// Looks at a running step before the waiting thread sleeps between looks.
const EAGER_LOOKS: u32 = 1_000;
/// Between later looks: short against any step of a device that is worth a lane.
const LOOK_PAUSE: Duration = Duration::from_micros(20);

/// Submits one step and waits for it: what a lane's thread does. A long step on a device costs it little.
///
/// # Errors
/// Those of `submit` and `poll`.
pub fn step(session: &mut dyn Session, cancel: &CancelToken, sink: &mut StepSink) -> Result<Progress, EngineError> {
    session.submit(cancel, sink)?;
    let mut looks = 0;
    loop {
        match session.poll(sink)? {
            Progress::Pending if looks < EAGER_LOOKS => {
                looks += 1;
                std::hint::spin_loop();
            }
            Progress::Pending => std::thread::sleep(LOOK_PAUSE),
            other => return Ok(other),
        }
    }
}

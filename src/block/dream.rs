//! Dreaming: the background job that lets the core consolidate its memory. Memory is part of the core's state, so that a
//! replay has it; the merging itself is done in the core, a bounded piece per completed job. The job is what makes it wait
//! for a lane that nobody else wants, and what ends it at once when somebody does.

use crate::engine::{CancelToken, Engine, EngineError, Progress, SensorReader, Session, StepSink};
use crate::types::{Capability, Job, Output};

/// Grants lane time to memory consolidation.
#[derive(Debug, Default)]
pub struct Dreamer;

impl Engine for Dreamer {
    fn capability(&self) -> Capability {
        Capability::Consolidate
    }

    fn describe(&self) -> String {
        "dream: memory consolidation in the core, when a lane is idle".to_owned()
    }

    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn open(&mut self, _job: &Job, _sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(Dream { stopped: false }))
    }
}

struct Dream {
    stopped: bool,
}

impl Session for Dream {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        self.stopped = cancel.is_cancelled();
        if !self.stopped {
            sink.output = Some(Output::Consolidated { merged: 0 });
        }
        Ok(())
    }

    fn poll(&mut self, _sink: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(if self.stopped { Progress::Stopped } else { Progress::Done })
    }

    fn energy(&self) -> Option<f32> {
        Some(if self.stopped { 1.0 } else { 0.0 })
    }
}

//! Synthetic load: jobs of a fixed number of steps of a fixed cost, for overload runs and tests. `JobInput::Steps` flows
//! in; nothing but lane time flows out.

use crate::engine::{CancelToken, Engine, EngineError, Progress, SensorReader, Session, StepSink};
use crate::time::Clock;
use crate::types::{Capability, Job, JobInput, Nanos, Output};
use std::sync::Arc;

/// The engine behind `Capability::Load`.
pub struct Load {
    clock: Option<Arc<dyn Clock>>,
}

impl Load {
    /// Load that keeps the lane busy until the clock says that a step's time is over.
    pub fn busy(clock: Arc<dyn Clock>) -> Load {
        Load { clock: Some(clock) }
    }

    /// Load whose steps return at once: for virtual lanes, which charge the cost themselves.
    pub fn counted() -> Load {
        Load { clock: None }
    }
}

impl Engine for Load {
    fn capability(&self) -> Capability {
        Capability::Load
    }

    fn describe(&self) -> String {
        "load (synthetic)".to_owned()
    }

    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn open(&mut self, job: &Job, _sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let JobInput::Steps { steps, step_us } = job.input else {
            return Err(EngineError::Unsupported("load takes a number of steps and their cost".to_owned()));
        };
        let cost = Nanos::from_us(u64::from(step_us));
        Ok(Box::new(LoadSession { clock: self.clock.clone(), left: steps, steps, cost, progress: Progress::More }))
    }
}

struct LoadSession {
    clock: Option<Arc<dyn Clock>>,
    left: u32,
    steps: u32,
    cost: Nanos,
    progress: Progress,
}

impl Session for LoadSession {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        self.progress = Progress::Stopped;
        if cancel.is_cancelled() {
            return Ok(());
        }
        if let Some(clock) = &self.clock {
            let end = clock.now() + self.cost;
            while clock.now() < end {
                if cancel.is_cancelled() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
        }
        self.left = self.left.saturating_sub(1);
        self.progress = if self.left == 0 { Progress::Done } else { Progress::More };
        if self.left == 0 {
            sink.output = Some(Output::None);
        }
        Ok(())
    }

    fn poll(&mut self, _sink: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.progress)
    }

    fn energy(&self) -> Option<f32> {
        Some(self.left as f32 / self.steps.max(1) as f32)
    }
}

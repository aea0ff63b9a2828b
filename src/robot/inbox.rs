//! What the tick finds waiting: the receiving ends of the rings that `sense`, the voice and the lanes fill. Draining them
//! gives one `Inputs`; what cannot be taken is counted, never silent.

use crate::dispatch::LaneHandle;
use crate::sense::feed::Intake;
use crate::types::{Inputs, VoiceReport};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receiving ends, any of them absent.
#[derive(Default)]
pub struct Inbox {
    /// Features, status and health of all sources.
    pub sensors: Intake,
    /// The voice's reports; the newest counts.
    pub voice: Option<rtrb::Consumer<VoiceReport>>,
    /// Set by whoever releases a latched halt.
    pub release_halt: Arc<AtomicBool>,
}

impl Inbox {
    /// Moves all that waits into `inputs`, whose lists are empty. Lane events keep their order; what does not fit waits
    /// for the next tick.
    pub fn drain(&mut self, lanes: &mut [LaneHandle], inputs: &mut Inputs) {
        self.sensors.drain_into(inputs);
        if let Some(ring) = &mut self.voice {
            while let Ok(report) = ring.pop() {
                inputs.voice = Some(report);
            }
        }
        for lane in lanes {
            while !inputs.events.is_full()
                && let Some(event) = lane.event()
            {
                inputs.events.push(event);
            }
        }
        inputs.release_halt =
            self.release_halt.load(Ordering::Relaxed) && self.release_halt.swap(false, Ordering::AcqRel);
    }
}

//! What becomes of a tick's record after the tick. Records flow in, in order, live or left over at the end; they go to the
//! recorder, the digest, the tally and the view, and each decision is repeated on a second core, so that a difference
//! is found while it happens. Keyframes come from that second core and cost the tick nothing.

use super::session::Watch;
use super::tick::TickRecord;
use crate::config::CoreConfig;
use crate::core::Core;
use crate::observe::{Tally, Timing};
use crate::record::{Digest, TickTap};
use crate::types::{Nanos, Outputs, SourceKind};

/// A keyframe opens a recording and follows this often.
const KEYFRAME_EVERY: Nanos = Nanos::from_s(10);

/// See the module.
pub(super) struct Observer {
    config: CoreConfig,
    recorder: Option<TickTap>,
    replica: Core,
    repeated: Outputs,
    next_keyframe: Nanos,
    /// Which sources are missing.
    absent: Vec<bool>,
    /// Chain over all decisions so far.
    pub digest: Digest,
    /// Counts of the run.
    pub tally: Tally,
    /// First tick in which the second core decided otherwise.
    pub diverged: Option<u64>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(config: CoreConfig, recorder: Option<TickTap>) -> Observer {
        Observer {
            recorder,
            replica: Core::new(config.clone()),
            repeated: Outputs::default(),
            next_keyframe: Nanos::ZERO,
            // Until it says that it is there.
            absent: vec![true; config.sources.len()],
            digest: Digest::default(),
            tally: Tally::new(config.clone()),
            diverged: None,
            config,
        }
    }

    /// Takes the next tick in.
    pub fn observe(&mut self, record: &TickRecord, watch: &mut dyn Watch) {
        let (inputs, outputs) = (&record.inputs, &record.outputs);
        if let Some(tap) = self.recorder.as_mut() {
            if inputs.now >= self.next_keyframe {
                tap.keyframe(inputs.tick, &self.replica.keyframe());
                self.next_keyframe = inputs.now.after(KEYFRAME_EVERY);
            }
            tap.tick(inputs, outputs, record.woke, record.work);
        }
        self.replica.tick(inputs, &mut self.repeated);
        if self.diverged.is_none() && self.repeated != *outputs {
            self.diverged = Some(inputs.tick);
            watch.note(&format!("the second core decided otherwise in tick {}; please report this", inputs.tick));
        }
        self.digest.update(inputs.tick, outputs);
        let timing = Timing { lateness: record.woke.since(inputs.now), work: record.work };
        self.tally.tick(inputs, outputs, Some(timing));
        for health in &inputs.health {
            if let Some(absent) = self.absent.get_mut(usize::from(health.source.0)) {
                *absent = !health.present;
            }
        }
        watch.tick(record, timing);
    }

    /// Lets go of the recorder, so that it can be closed.
    pub fn finish(self) -> Observer {
        Observer { recorder: None, ..self }
    }

    /// Names of the devices that do not deliver.
    pub fn missing(&self) -> Vec<&str> {
        let sources = self.config.sources.iter().zip(&self.absent);
        let devices = sources.filter(|((kind, _), absent)| **absent && *kind != SourceKind::Status);
        devices.map(|((_, name), _)| name.as_str()).collect()
    }
}

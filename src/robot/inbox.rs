//! What the tick finds waiting: the receiving ends of the rings that `sense`, the voice and the lanes fill. Draining them
//! gives one `Inputs`; what cannot be taken is counted, never silent.

use crate::dispatch::LaneHandle;
use crate::types::{AudioFeatures, CameraFeatures, Inputs, MAX_SOURCES, SourceHealth, Status, VoiceReport};
use arrayvec::ArrayVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receiving ends, any of them absent.
#[derive(Default)]
pub struct Inbox {
    /// One ring per camera.
    pub cameras: Vec<rtrb::Consumer<CameraFeatures>>,
    /// One ring per microphone.
    pub microphones: Vec<rtrb::Consumer<AudioFeatures>>,
    /// The robot's own values.
    pub status: Option<rtrb::Consumer<Status>>,
    /// The voice's reports; the newest counts.
    pub voice: Option<rtrb::Consumer<VoiceReport>>,
    /// Changes of source health, one ring per reporter.
    pub health: Vec<rtrb::Consumer<SourceHealth>>,
    /// Set by whoever releases a latched halt.
    pub release_halt: Arc<AtomicBool>,
    /// Sources last reported as absent; for the health that the inbox adds itself. Starts as all false.
    pub absent: [bool; MAX_SOURCES],
}

impl Inbox {
    /// Moves all that waits into `inputs`, whose lists are empty. Of frames the newest count: older ones that do not fit
    /// are dropped and reported as such. Sound and lane events keep their order; what does not fit waits for the next
    /// tick.
    pub fn drain(&mut self, lanes: &mut [LaneHandle], inputs: &mut Inputs) {
        for ring in &mut self.health {
            while let Ok(health) = ring.pop() {
                if let Some(absent) = self.absent.get_mut(usize::from(health.source.0)) {
                    *absent = !health.present;
                }
                note(inputs, health);
            }
        }
        for ring in &mut self.cameras {
            while let Ok(features) = ring.pop() {
                if inputs.camera.is_full() {
                    let own = inputs.camera.iter().position(|older| older.source == features.source);
                    let source = inputs.camera.remove(own.unwrap_or(0)).source;
                    let present = !self.absent.get(usize::from(source.0)).copied().unwrap_or(false);
                    note(inputs, SourceHealth { source, present, dropped: 1 });
                }
                inputs.camera.push(features);
            }
        }
        inputs.camera.sort_unstable_by_key(|frame| (frame.captured, frame.source, frame.seq));
        for ring in &mut self.microphones {
            while !inputs.audio.is_full()
                && let Ok(features) = ring.pop()
            {
                inputs.audio.push(features);
            }
        }
        if let Some(ring) = &mut self.status {
            while let Ok(status) = ring.pop() {
                inputs.status = Some(merged(inputs.status, status));
            }
        }
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

/// The newer report, except that danger reported in between is not forgotten.
fn merged(before: Option<Status>, newer: Status) -> Status {
    let Some(before) = before else { return newer };
    let either = |a: Option<bool>, b: Option<bool>| if a == Some(true) { a } else { b.or(a) };
    Status {
        bumper: either(before.bumper, newer.bumper),
        estop: either(before.estop, newer.estop),
        range_mm: match (before.range_mm, newer.range_mm) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => b.or(a),
        },
        battery_percent: newer.battery_percent.or(before.battery_percent),
        ..newer
    }
}

/// Adds to what is already reported of the source in this tick.
fn note(inputs: &mut Inputs, health: SourceHealth) {
    let list: &mut ArrayVec<SourceHealth, MAX_SOURCES> = &mut inputs.health;
    match list.iter_mut().find(|known| known.source == health.source) {
        Some(known) => {
            known.present = health.present;
            known.dropped = known.dropped.saturating_add(health.dropped);
        }
        None => {
            let _ = list.try_push(health); // one entry per source fits always
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Looming, Nanos, SourceId, Stamp};

    fn frame(seq: u64) -> CameraFeatures {
        CameraFeatures {
            source: SourceId(0),
            seq,
            captured: Nanos(seq),
            stamp: Stamp::Device,
            luma: Default::default(),
            motion: Default::default(),
            looming: Looming::default(),
            lost: 0,
        }
    }

    #[test]
    fn of_too_many_frames_the_newest_are_kept_and_the_rest_is_reported_as_dropped() {
        let (mut frames, ring) = rtrb::RingBuffer::new(16);
        for seq in 0..7 {
            frames.push(frame(seq)).expect("room");
        }
        let mut inbox = Inbox { cameras: vec![ring], ..Inbox::default() };
        let mut inputs = Inputs::default();
        inbox.drain(&mut [], &mut inputs);
        assert_eq!(inputs.camera.iter().map(|f| f.seq).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(inputs.health.as_slice(), [SourceHealth { source: SourceId(0), present: true, dropped: 3 }]);
    }

    #[test]
    fn a_bumper_press_between_two_ticks_is_seen_even_if_it_was_released_again() {
        let (mut reports, ring) = rtrb::RingBuffer::new(4);
        let press = Status { bumper: Some(true), range_mm: Some(100), ..Status::default() };
        reports.push(press).expect("room");
        reports.push(Status { seq: 1, bumper: Some(false), ..Status::default() }).expect("room");
        let mut inbox = Inbox { status: Some(ring), ..Inbox::default() };
        let mut inputs = Inputs::default();
        inbox.drain(&mut [], &mut inputs);
        let status = inputs.status.expect("reported");
        assert_eq!((status.seq, status.bumper, status.range_mm), (1, Some(true), Some(100)));
    }
}

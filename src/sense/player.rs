//! Plays a timeline of payloads in real time through the same feeds as live devices. Payloads with the instants of their
//! log flow in; the same payloads, moved to this run's clock, flow to the feeds when they are due.

use super::feed::{Payload, SourceFeed};
use crate::time::Clock;
use crate::types::{Nanos, SourceId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest sleep between two looks at the stop flag.
const NAP: Nanos = Nanos::from_ms(50);

/// What was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Played {
    /// Frames handed on.
    pub frames: u64,
    /// Blocks of sound handed on.
    pub blocks: u64,
    /// Status reports handed on.
    pub statuses: u64,
    /// Payloads of sources that nobody asked for.
    pub ignored: u64,
    /// The timeline came to its end (else it was stopped).
    pub complete: bool,
}

/// Moves an instant of the log to the clock of this run.
fn moved(at: Nanos, origin: Nanos, start: Nanos) -> Nanos {
    if at >= origin { start.after(at.since(origin)) } else { start.since(origin.since(at)) }
}

/// Plays `timeline` (delivery instants in the log's time, in order) so that the instant `origin` of the log is `start`
/// on `clock`; feeds are found by their source. Returns at the end of the timeline or soon after `stop` is set.
pub fn play(
    timeline: impl Iterator<Item = (Nanos, Payload)>,
    feeds: &mut [SourceFeed],
    clock: &dyn Clock,
    origin: Nanos,
    start: Nanos,
    stop: &AtomicBool,
) -> Played {
    let mut played = Played::default();
    for (at, payload) in timeline {
        // The payload is already decoded here: what is left to do when it is due costs the same as for a device.
        let due = moved(at, origin, start);
        loop {
            if stop.load(Ordering::Relaxed) {
                return played;
            }
            let wait = due.since(clock.now());
            if wait == Nanos::ZERO {
                break;
            }
            std::thread::sleep(Duration::from_nanos(wait.0.min(NAP.0)));
        }
        deliver(payload, feeds, origin, start, &mut played);
    }
    played.complete = true;
    played
}

fn deliver(payload: Payload, feeds: &mut [SourceFeed], origin: Nanos, start: Nanos, played: &mut Played) {
    match payload {
        Payload::Frame(source, mut frame) => {
            frame.captured = moved(frame.captured, origin, start);
            if let Some(feed) = feed_of(feeds, source) {
                feed.frame(frame);
                played.frames += 1;
                return;
            }
        }
        Payload::Sound(source, mut block) => {
            block.captured = moved(block.captured, origin, start);
            if let Some(feed) = feed_of(feeds, source) {
                feed.sound(&block);
                played.blocks += 1;
                return;
            }
        }
        Payload::Status(mut status) => {
            status.captured = moved(status.captured, origin, start);
            // The status source is always the last one.
            if let Some(feed) = feeds.iter_mut().max_by_key(|f| f.source()) {
                feed.status(&status);
                played.statuses += 1;
                return;
            }
        }
    }
    played.ignored += 1;
}

fn feed_of(feeds: &mut [SourceFeed], source: SourceId) -> Option<&mut SourceFeed> {
    feeds.iter_mut().find(|f| f.source() == source)
}

#[cfg(test)]
mod tests {
    use super::super::feed::{Intake, NoRecorder, connect};
    use super::super::store::SensorStore;
    use super::*;
    use crate::time::Virtual;
    use crate::types::{Frame, Inputs, SourceKind, Status};
    use std::sync::Arc;

    #[test]
    fn payloads_arrive_at_their_instants_on_this_runs_clock() {
        let store = Arc::new(SensorStore::new(2));
        let (camera, a) = connect(SourceId(0), SourceKind::Camera, 70.0, store.clone(), Arc::new(NoRecorder));
        let (status, b) = connect(SourceId(1), SourceKind::Status, 70.0, store, Arc::new(NoRecorder));
        let mut feeds = [camera, status];
        let mut intake = Intake::new(vec![a, b]);
        let clock = Virtual::default();
        clock.set(Nanos::from_s(100));
        // The log counts from 1970; the first frame was captured 30 ms before it was written.
        let origin = Nanos::from_s(1_700_000_000);
        let frame = Frame { captured: origin.since(Nanos::from_ms(30)), ..Frame::default() };
        let report = Status { captured: origin.after(Nanos::from_ms(200)), ..Status::default() };
        let timeline = vec![
            (origin, Payload::Frame(SourceId(0), frame.clone())),
            (origin.after(Nanos::from_ms(200)), Payload::Status(report)),
            (origin.after(Nanos::from_ms(300)), Payload::Frame(SourceId(7), frame)),
        ];
        let pacer = clock.clone();
        let ticking = std::thread::spawn(move || {
            for ms in 0..400 {
                pacer.set(Nanos::from_ms(100_000 + ms));
                std::thread::yield_now();
            }
        });
        let start = Nanos::from_s(100);
        let played = play(timeline.into_iter(), &mut feeds, &clock, origin, start, &AtomicBool::new(false));
        assert!(clock.now() >= Nanos::from_ms(100_300), "the last payload was due 300 ms after the start");
        assert_eq!(played, Played { frames: 1, blocks: 0, statuses: 1, ignored: 1, complete: true });
        let mut inputs = Inputs::default();
        intake.drain_into(&mut inputs);
        assert_eq!(inputs.camera[0].captured, Nanos::from_ms(99_970));
        assert_eq!(inputs.status.map(|s| s.captured), Some(Nanos::from_ms(100_200)));
        assert!(ticking.join().is_ok());
    }

    #[test]
    fn stops_when_told() {
        let clock = Virtual::default();
        let far = vec![(Nanos::from_s(3_600), Payload::Status(Status::default()))];
        let played = play(far.into_iter(), &mut [], &clock, Nanos::ZERO, Nanos::ZERO, &AtomicBool::new(true));
        assert!(!played.complete);
    }
}

//! The tick allocates nothing after start-up: a loop with cameras, a microphone, a voice, a live lane, acts and records
//! runs under a counting allocator.

#[path = "dispatch_support/counting.rs"]
mod counting;
mod dispatch_support;

use counting::{Counting, calls};
use dispatch_support::{NoSensors, Talker};
use sage::config::ScheduleConfig;
use sage::dispatch::load::Load;
use sage::dispatch::{Executor, Schedule, Want};
use sage::robot::{Inbox, RobotParts, TickCore, TickLoop, record_rings};
use sage::sense::feed::{Intake, Sensed};
use sage::time::{Beat, Clock, Monotonic};
use sage::types::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A core that keeps every path of the loop busy: it wants work of all kinds, cancels, credits and acts.
struct BusyCore {
    schedule: Schedule,
    answer: Option<JobId>,
}

impl TickCore for BusyCore {
    fn tick(&mut self, inputs: &Inputs, out: &mut Outputs) {
        let now = inputs.now;
        for event in &inputs.events {
            self.schedule.observe(event, now, out);
        }
        let want = |capability, class, input| Want {
            capability,
            source: SourceId(0),
            class,
            input,
            deadline: now + Nanos::from_ms(100),
            fresh_until: now + Nanos::from_ms(200),
            credit_words: 3,
            based_on: Default::default(),
            why: Why::Periodic,
        };
        self.schedule.want(
            &want(Capability::Load, Class::Background, JobInput::Steps { steps: 1, step_us: 5 }),
            now,
            out,
        );
        match inputs.tick % 8 {
            0 => {
                let input = JobInput::Ask { prompt: Prompt::from("what is ahead").expect("short"), max_tokens: 9 };
                self.answer = self.schedule.want(&want(Capability::Reason, Class::Dialogue, input), now, out);
            }
            4 => {
                self.answer.map(|job| self.schedule.credit(job, 6, out));
            }
            7 => {
                self.answer.take().map(|job| self.schedule.cancel(job, Why::Spoken, out));
                out.act(Act::Silence);
            }
            _ => {
                out.act(Act::Heartbeat { at: now });
            }
        }
        self.schedule.tick(now, out);
    }
}

#[test]
fn ten_thousand_ticks_allocate_nothing() {
    let clock: Arc<dyn Clock> = Arc::new(Monotonic);
    let engines: Vec<Box<dyn sage::engine::Engine>> =
        vec![Box::new(Talker { words: 12 }), Box::new(Load::busy(Arc::clone(&clock)))];
    let (lane, handle) = Executor::spawn("lane", engines, Arc::new(NoSensors), Arc::clone(&clock)).expect("a thread");
    let (mut frames, camera) = rtrb::RingBuffer::new(8);
    let (mut sounds, microphone) = rtrb::RingBuffer::new(8);
    let (mut reports, voice) = rtrb::RingBuffer::new(8);
    let (acts, mut acts_out) = rtrb::RingBuffer::new(64);
    let (records, mut recorder) = record_rings(4);
    let mut body = TickLoop::new(RobotParts {
        core: Box::new(BusyCore { schedule: Schedule::new(&ScheduleConfig::default()), answer: None }),
        inbox: Inbox { sensors: Intake::new(vec![camera, microphone]), voice: Some(voice), ..Inbox::default() },
        lanes: vec![handle],
        acts,
        actor: Some(std::thread::current()),
        records,
        clock: Arc::clone(&clock),
    });
    let beats = body.beats();
    let gauges = lane.gauges();
    let mut spent = 0;
    let mut events = 0;
    let mut decisions = 0;
    for tick in 1..=10_000u64 {
        let captured = clock.now();
        let _ = frames.push(Sensed::Camera(features(tick, captured)));
        let _ = sounds.push(Sensed::Sound(sound(tick, captured)));
        let _ = reports.push(VoiceReport::default());
        let beat = Beat { tick, due: captured, woke: captured, skipped: 0 };
        let before = calls();
        body.serve(beat);
        spent += calls() - before;
        while acts_out.pop().is_ok() {}
        // Ticks follow each other without a pause here; the lane still gets its turn.
        while gauges.steps() < tick / 50 {
            std::thread::yield_now();
        }
        // Every third record is taken late, so that the path without a free record runs too.
        if tick % 6 == 0 {
            while let Ok(record) = recorder.full.pop() {
                events += record.inputs.events.len();
                decisions += record.outputs.decisions.len();
                recorder.free.push(record).expect("as many places as records");
            }
        }
    }
    lane.stop();
    assert_eq!(spent, 0, "allocations, reallocations and frees in 10,000 ticks");
    // And the loop really worked.
    assert_eq!(beats.ticks.load(Ordering::Relaxed), 10_000);
    assert!(beats.records_dropped.load(Ordering::Relaxed) > 1_000);
    assert!(events > 50 && decisions > 1_000, "{events} lane events, {decisions} decisions");
}

fn features(seq: u64, captured: Nanos) -> CameraFeatures {
    let (luma, motion) = (Grid::default(), Grid::default());
    let (stamp, looming) = (Stamp::Device, Looming::default());
    CameraFeatures { source: SourceId(0), seq, captured, stamp, luma, motion, looming, lost: 0 }
}

fn sound(seq: u64, captured: Nanos) -> AudioFeatures {
    AudioFeatures {
        source: SourceId(1),
        seq,
        captured,
        stamp: Stamp::Device,
        band_cdb: [0; BANDS],
        level_cdb: 0,
        heard_cdb: 0,
        voice_permille: 0,
        echo_permille: 0,
        lost: 0,
    }
}

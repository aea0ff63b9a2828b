//! Twice as much work as the lane can do: the core on a virtual lane keeps every reflex deadline, answers still begin,
//! and what was shed is counted.

mod dispatch_support;

use dispatch_support::{NoSensors, Plain, Talker};
use sage::act::body::{SilentVoice, Voice};
use sage::config::{Config, CoreConfig};
use sage::core::Core;
use sage::dispatch::VirtualLane;
use sage::dispatch::load::Load;
use sage::dispatch::tally::Tally;
use sage::dispatch::virtual_lane::{Dice, Faults};
use sage::engine::Engine;
use sage::engine::profile::{Profile, StepCost};
use sage::types::*;
use std::sync::Arc;

const SECONDS: u64 = 120;

fn config(load_ms_per_s: f32, refill_ms_per_s: f32) -> CoreConfig {
    let mut config = Config::default();
    config.camera.push(Default::default());
    config.microphone.push(Default::default());
    config.schedule.load_ms_per_s = load_ms_per_s;
    config.budget.refill_ms_per_s = refill_ms_per_s;
    config.core()
}

fn lane(seed: u64) -> VirtualLane {
    let step = |capability, p50_us, p999_us, steps_max| StepCost { capability, p50_us, p999_us, steps_max };
    let profile = Profile {
        name: "overload".to_owned(),
        steps: vec![
            step(Capability::Hear, 4_000.0, 6_000.0, 1),
            step(Capability::See, 6_000.0, 9_000.0, 1),
            step(Capability::Reason, 8_000.0, 12_000.0, 40),
            step(Capability::Consolidate, 3_000.0, 5_000.0, 1),
        ],
    };
    let plain = |capability, asks_every| Plain { capability, asks_every, jobs: 0 };
    let engines: Vec<Box<dyn Engine>> = vec![
        Box::new(plain(Capability::Hear, 500)),
        Box::new(plain(Capability::See, 0)),
        Box::new(plain(Capability::Consolidate, 0)),
        Box::new(Talker { words: 12 }),
        Box::new(Load::counted()),
    ];
    VirtualLane::new(engines, Arc::new(NoSensors), &profile, Some(seed), Faults::default()).expect("complete profile")
}

/// Two minutes of moving pictures and sound; what became of all jobs, and the lane time used.
fn run(config: &CoreConfig, seed: u64) -> (Tally, Nanos) {
    let (mut core, mut lane, mut out) = (Core::new(config.clone()), lane(seed), Outputs::default());
    let mut voice = SilentVoice::new(170);
    let mut told = VoiceReport::default();
    let mut dice = Dice::new(seed);
    let mut busy = Nanos::ZERO;
    for tick in 0..SECONDS * 100 {
        let now = Nanos::from_s(1) + Nanos::from_ms(10 * tick);
        let mut inputs = Inputs { tick, now, ..Inputs::default() };
        if tick % 3 == 0 {
            inputs.camera.push(frame(tick / 3, now, &mut dice));
        }
        if tick % 2 == 0 {
            inputs.audio.push(block(tick / 2, now.since(Nanos::from_ms(20))));
        }
        lane.advance(now);
        while !inputs.events.is_full() {
            let Some(event) = lane.event() else { break };
            if let LaneEvent::Done { busy: used, .. } = &event {
                busy += *used;
            }
            inputs.events.push(event);
        }
        let report = voice.report(now);
        if report != told {
            (told, inputs.voice) = (report, Some(report));
        }
        core.tick(&inputs, &mut out);
        assert_eq!(out.overflow, 0, "tick {tick}: outputs found no room");
        for command in &out.commands {
            lane.command(command, now);
        }
        for act in &out.acts {
            match act {
                Act::Say { utterance, index, word } => voice.say(now, *utterance, *index, word),
                Act::EndOfAnswer { utterance } => voice.end_of_answer(now, *utterance),
                Act::Silence => voice.silence(now),
                _ => {}
            }
        }
    }
    (*core.schedule().tally(), busy)
}

fn frame(seq: u64, captured: Nanos, dice: &mut Dice) -> CameraFeatures {
    let mut motion = Grid::default();
    motion.iter_mut().flatten().for_each(|cell| *cell = dice.below(40) as u8);
    let (stamp, looming, luma) = (Stamp::Device, Looming::default(), [[90; GRID_COLS]; GRID_ROWS]);
    CameraFeatures { source: SourceId(0), seq, captured, stamp, luma, motion, looming, lost: 0 }
}

fn block(seq: u64, captured: Nanos) -> AudioFeatures {
    AudioFeatures {
        source: SourceId(1),
        seq,
        captured,
        stamp: Stamp::Device,
        band_cdb: [-6_000; BANDS],
        level_cdb: -6_000,
        heard_cdb: -6_000,
        voice_permille: 0,
        echo_permille: 0,
        lost: 0,
    }
}

#[test]
fn at_twice_the_lanes_capacity_every_reflex_deadline_is_kept_and_what_was_shed_is_counted() {
    // Without a budget to hold it back, so that the lane itself is what is short.
    let (tally, busy) = run(&config(2_000.0, 1e6), 1);
    let reflex = tally.class(Class::Reflex);
    assert_eq!((reflex.missed, reflex.shed), (0, 0), "{tally:?}");
    assert!(reflex.kept + tally.superseded >= SECONDS * 1_000 / 40 - 5, "all sound was heard: {tally:?}");
    let dialogue = tally.class(Class::Dialogue);
    assert!(dialogue.kept >= 4 && dialogue.missed == 0, "answers still begin in time: {tally:?}");
    let background = tally.class(Class::Background);
    assert!(background.shed + background.missed >= SECONDS * 10 / 2, "half of the load has no place: {tally:?}");
    assert!(busy >= Nanos::from_s(SECONDS * 95 / 100), "the lane was saturated: {} ms", busy.as_ms());
}

#[test]
fn the_budget_keeps_overload_off_the_lane_before_it_hurts() {
    let (tally, busy) = run(&config(2_000.0, 700.0), 2);
    assert_eq!(tally.class(Class::Reflex).missed, 0, "{tally:?}");
    assert!(tally.class(Class::Background).shed >= SECONDS * 5, "{tally:?}");
    assert!(busy <= Nanos::from_s(SECONDS * 9 / 10), "the lane kept time to spare: {} ms", busy.as_ms());
    let (idle, _) = run(&config(0.0, 700.0), 2);
    assert_eq!(idle.class(Class::Background).shed, 0, "nothing is shed without overload: {idle:?}");
}

//! Preemption as a user meets it: urgent work never waits longer than one step, what is cancelled stops at once, what is
//! too late is never used, and an interrupted answer goes on where it was heard last.

mod dispatch_support;

use dispatch_support::{NoSensors, Order, Strings, Talker, job, puppet};
use sage::config::ScheduleConfig;
use sage::dispatch::lane::LANE_JOBS;
use sage::dispatch::load::Load;
use sage::dispatch::virtual_lane::Faults;
use sage::dispatch::{Executor, LaneHandle, Schedule, Verdict, VirtualLane, Want};
use sage::engine::Progress;
use sage::engine::profile::{Profile, StepCost};
use sage::time::{Clock, Virtual};
use sage::types::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const MS: fn(u64) -> Nanos = Nanos::from_ms;

/// A live lane with one puppet engine, on a clock that the test moves.
struct Rig {
    handle: LaneHandle,
    strings: Strings,
    clock: Virtual,
    _lane: Executor,
}

fn rig() -> Rig {
    let (engine, strings) = puppet(Capability::Load);
    let clock = Virtual::default();
    let (lane, handle) =
        Executor::spawn("lane", vec![engine], Arc::new(NoSensors), Arc::new(clock.clone())).expect("a thread");
    Rig { handle, strings, clock, _lane: lane }
}

impl Rig {
    fn send(&mut self, command: Command) {
        assert!(self.handle.send(&command));
        self.handle.wake();
    }

    fn submit(&mut self, id: u64, class: Class, deadline: Nanos) {
        self.send(Command::Submit(job(id, Capability::Load, class, deadline)));
    }

    /// The job whose step begins next.
    fn begun(&self) -> u64 {
        self.strings.began.recv_timeout(PATIENCE).expect("a step begins").0
    }

    fn order(&self, order: Order) {
        self.strings.orders.send(order).expect("the lane lives");
    }

    fn event(&mut self) -> LaneEvent {
        let gave_up = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.handle.event() {
                return event;
            }
            assert!(Instant::now() < gave_up, "no event came");
            std::thread::yield_now();
        }
    }

    fn ended(&mut self) -> (u64, Outcome) {
        loop {
            if let LaneEvent::Done { job, outcome, .. } = self.event() {
                return (job.0, outcome);
            }
        }
    }
}

#[test]
fn a_reflex_runs_right_after_the_step_that_was_running() {
    let mut rig = rig();
    rig.submit(1, Class::Background, Nanos::NEVER);
    assert_eq!(rig.begun(), 1);
    rig.submit(2, Class::Background, Nanos::NEVER);
    rig.submit(3, Class::Reflex, Nanos::NEVER);
    rig.order(Order::Go(Progress::More));
    assert_eq!(rig.begun(), 3, "not another step of 1, not 2");
    rig.order(Order::Go(Progress::Done));
    assert_eq!(rig.begun(), 1);
    rig.order(Order::Go(Progress::Done));
    assert_eq!(rig.ended(), (3, Outcome::Completed));
    let preempted = loop {
        if let LaneEvent::Done { job: JobId(1), preempted, steps, .. } = rig.event() {
            break (preempted, steps);
        }
    };
    assert_eq!(preempted, (1, 2));
    assert_eq!(rig.begun(), 2);
}

#[test]
fn a_cancel_stops_inside_the_step_and_says_how_long_the_lane_took_to_be_free() {
    let mut rig = rig();
    rig.submit(1, Class::Dialogue, Nanos::NEVER);
    assert_eq!(rig.begun(), 1);
    rig.send(Command::Cancel(JobId(1))); // the step was never allowed to end
    let (id, outcome) = rig.ended();
    assert_eq!(id, 1);
    assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome:?}");
    rig.submit(65, Class::Dialogue, Nanos::NEVER); // shares the token with 1, which must not stop it
    assert_eq!(rig.begun(), 65);
    rig.order(Order::Go(Progress::Done));
    assert_eq!(rig.ended(), (65, Outcome::Completed));
}

#[test]
fn a_cancel_that_reaches_a_job_sharing_the_token_only_repeats_its_step() {
    let mut rig = rig();
    rig.submit(1, Class::Reflex, Nanos::NEVER);
    rig.submit(65, Class::Background, Nanos::NEVER);
    assert_eq!(rig.begun(), 1);
    rig.send(Command::Cancel(JobId(65)));
    assert_eq!(rig.begun(), 1, "the step starts over");
    rig.order(Order::Go(Progress::Done));
    assert!(matches!(rig.ended(), (65, Outcome::Cancelled { .. })));
    assert_eq!(rig.ended(), (1, Outcome::Completed));
}

#[test]
fn an_expired_job_never_starts_and_a_newer_frame_takes_the_place_of_a_waiting_one() {
    let mut rig = rig();
    rig.submit(1, Class::Reflex, Nanos::NEVER);
    assert_eq!(rig.begun(), 1);
    rig.submit(2, Class::Awareness, MS(50));
    for (id, generation) in [(3, 1), (4, 2), (5, 3)] {
        let input = JobInput::Frame { seq: id };
        let source = SourceId(1);
        let frame = Job { input, generation, source, ..job(id, Capability::Load, Class::Awareness, Nanos::NEVER) };
        rig.send(Command::Submit(frame));
    }
    rig.clock.set(MS(51));
    rig.order(Order::Go(Progress::Done));
    assert_eq!(rig.begun(), 5);
    rig.order(Order::Go(Progress::Done));
    let mut ends: Vec<_> = (0..5).map(|_| rig.ended()).collect();
    ends.sort_by_key(|end| end.0);
    let (expired, superseded) = (Outcome::Expired, Outcome::Superseded);
    let completed = Outcome::Completed;
    assert_eq!(ends, [(1, completed), (2, expired), (3, superseded), (4, superseded), (5, completed)]);
}

#[test]
fn a_result_that_comes_after_its_deadline_is_labelled_late_and_not_to_be_used() {
    let mut rig = rig();
    let mut schedule = Schedule::new(&ScheduleConfig::default());
    let mut out = Outputs::default();
    let want = Want {
        capability: Capability::Load,
        source: SourceId(0),
        class: Class::Awareness,
        input: JobInput::Steps { steps: 1, step_us: 1 },
        deadline: MS(20),
        fresh_until: MS(100),
        credit_words: 0,
        based_on: Default::default(),
        why: Why::Salient,
    };
    let id = schedule.want(&want, MS(0), &mut out).expect("admitted");
    rig.send(out.commands[0].clone());
    rig.begun();
    rig.clock.set(MS(21));
    rig.order(Order::Go(Progress::Done));
    let verdict = loop {
        let event = rig.event();
        let verdict = schedule.observe(&event, MS(30), &mut out);
        if matches!(event, LaneEvent::Done { .. }) {
            break verdict;
        }
    };
    assert_eq!(verdict, Verdict::Late);
    assert_eq!(out.decisions.last(), Some(&Decision::Discard { job: id, age: MS(30), why: Why::Late }));
    assert_eq!(schedule.tally().class(Class::Awareness).missed, 1);
}

#[test]
fn an_engine_that_fails_or_panics_costs_one_job_and_the_lane_lives_on() {
    let mut rig = rig();
    let faults = [
        (1, Order::Fail, "unplugged"),
        (2, Order::Panic, "a bug in the engine"),
        (5, Order::PanicOfAWorker, "a bug in a worker"),
    ];
    for (id, order, sign) in faults {
        rig.submit(id, Class::Dialogue, Nanos::NEVER);
        assert_eq!(rig.begun(), id);
        rig.order(order);
        let (ended, outcome) = rig.ended();
        assert_eq!(ended, id);
        assert!(matches!(outcome, Outcome::Failed(why) if why.contains(sign)), "{outcome:?}");
    }
    let strange = job(3, Capability::See, Class::Reflex, Nanos::NEVER);
    rig.send(Command::Submit(strange));
    assert!(matches!(rig.ended(), (3, Outcome::Failed(_))), "no engine of this lane sees");
    rig.submit(4, Class::Dialogue, Nanos::NEVER);
    assert_eq!(rig.begun(), 4);
    rig.order(Order::Go(Progress::Done));
    assert_eq!(rig.ended(), (4, Outcome::Completed));
}

#[test]
fn stopping_a_lane_ends_a_step_that_would_never_end() {
    let mut rig = rig();
    rig.submit(1, Class::Dialogue, Nanos::NEVER);
    rig.begun();
    let Rig { _lane: lane, .. } = rig;
    assert_eq!(lane.stop().len(), 1, "and gives the engines back");
}

#[test]
fn a_lane_that_is_stuck_in_a_step_takes_a_bounded_number_of_commands_and_says_so() {
    let mut rig = rig();
    rig.submit(1, Class::Reflex, Nanos::NEVER);
    rig.begun();
    let mut sent = 0;
    while rig.handle.send(&Command::Submit(job(2 + sent, Capability::Load, Class::Background, Nanos::NEVER))) {
        sent += 1;
        assert!(sent < 10_000, "commands pile up without bound");
    }
    assert_eq!(rig.handle.unsent(), 1);
    rig.order(Order::Go(Progress::Done));
    // All that was sent is answered: what the lane has no place for is refused, not forgotten.
    assert_eq!(rig.ended(), (1, Outcome::Completed));
    for _ in 0..sent - LANE_JOBS as u64 {
        assert_eq!(rig.ended().1, Outcome::Refused);
    }
    rig.begun();
    rig.order(Order::Go(Progress::Done));
    assert_eq!(rig.ended(), (2, Outcome::Completed));
}

/// A virtual lane with a talker of 30 words (10 ms each) and load.
fn virtual_lane() -> VirtualLane {
    let profile = Profile {
        name: "test".to_owned(),
        steps: vec![StepCost { capability: Capability::Reason, p50_us: 10_000.0, p999_us: 12_000.0, steps_max: 40 }],
    };
    let engines = vec![Box::new(Talker { words: 30 }) as Box<dyn sage::engine::Engine>, Box::new(Load::counted())];
    VirtualLane::new(engines, Arc::new(NoSensors), &profile, None, Faults::default()).expect("complete profile")
}

fn ask(id: u64, credit_words: u16) -> Command {
    let input = JobInput::Ask { prompt: Default::default(), max_tokens: 99 };
    Command::Submit(Job { input, credit_words, ..job(id, Capability::Reason, Class::Dialogue, Nanos::NEVER) })
}

fn events(lane: &mut VirtualLane) -> Vec<LaneEvent> {
    std::iter::from_fn(|| lane.event()).collect()
}

fn words(events: &[LaneEvent]) -> Vec<u16> {
    let index = |event: &LaneEvent| match event {
        LaneEvent::Piece { piece: Piece::Word { index, .. }, .. } => Some(*index),
        _ => None,
    };
    events.iter().filter_map(index).collect()
}

#[test]
fn an_answer_runs_no_further_ahead_than_its_credit_and_goes_on_where_it_was_interrupted() {
    let mut lane = virtual_lane();
    lane.command(&ask(1, 5), Nanos::ZERO);
    lane.advance(MS(1_000));
    let before = events(&mut lane);
    assert_eq!(words(&before), [0, 1, 2, 3, 4]);
    assert!(matches!(before.last(), Some(LaneEvent::Waiting { job: JobId(1) })));
    assert!(lane.busy_until().is_none(), "the lane is free while the voice speaks");

    lane.command(&Command::Credit { job: JobId(1), words: 8 }, MS(1_000));
    lane.advance(MS(1_015));
    assert_eq!(words(&events(&mut lane)), [5]);
    lane.command(&Command::Cancel(JobId(1)), MS(1_015)); // in the middle of word 6
    let cancelled = events(&mut lane);
    assert_eq!(words(&cancelled), [0; 0], "the word in the making is not said");
    assert!(matches!(
        cancelled.as_slice(),
        [LaneEvent::Done { outcome: Outcome::Cancelled { idle_after }, .. }] if *idle_after < MS(1)
    ));

    let input = JobInput::Resume { of: JobId(1), from_word: 4 };
    let resume = Job { input, credit_words: 30, ..job(2, Capability::Reason, Class::Dialogue, Nanos::NEVER) };
    lane.command(&Command::Submit(resume), MS(2_000));
    lane.advance(MS(5_000));
    let rest = events(&mut lane);
    assert_eq!(words(&rest), (4..30).collect::<Vec<_>>(), "from the first word that was not heard");
    assert!(matches!(rest.last(), Some(LaneEvent::Done { outcome: Outcome::Completed, .. })));
}

#[test]
fn in_virtual_time_a_reflex_waits_at_most_one_step_while_background_work_saturates_the_lane() {
    let mut lane = virtual_lane();
    let step = MS(7);
    let load = |id: u64, class, steps| {
        let input = JobInput::Steps { steps, step_us: 7_000 };
        Command::Submit(Job { input, ..job(id, Capability::Load, class, Nanos::NEVER) })
    };
    for id in 1..=4 {
        lane.command(&load(id, Class::Background, 1_000), Nanos::ZERO);
    }
    for k in 0..200 {
        let sent = MS(13) + Nanos(k * 31_234_567);
        lane.command(&load(100 + k, Class::Reflex, 1), sent);
        lane.advance(sent + step);
        let started = events(&mut lane).into_iter().find_map(|event| match event {
            LaneEvent::Started { job, at } if job.0 == 100 + k => Some(at),
            _ => None,
        });
        let waited = started.expect("started within one step").since(sent);
        assert!(waited <= step, "reflex {k} waited {} us", waited.as_us());
    }
}

#[test]
fn the_live_lane_and_the_virtual_lane_tell_the_same_story() {
    let clock = Virtual::default();
    let engines = vec![Box::new(Talker { words: 30 }) as Box<dyn sage::engine::Engine>];
    let (_lane, mut handle) =
        Executor::spawn("lane", engines, Arc::new(NoSensors), Arc::new(clock.clone())).expect("a thread");
    assert_eq!(clock.now(), Nanos::ZERO);
    handle.send(&ask(1, 40));
    handle.wake();
    let mut live = Vec::new();
    let gave_up = Instant::now() + PATIENCE;
    while !matches!(live.last(), Some(LaneEvent::Done { .. })) {
        live.extend(handle.event());
        assert!(Instant::now() < gave_up, "the answer never ended");
    }
    let mut lane = virtual_lane();
    lane.command(&ask(1, 40), Nanos::ZERO);
    lane.advance(MS(1_000));
    let simulated = events(&mut lane);
    assert_eq!(live.len(), simulated.len());
    for (live, simulated) in live.iter().zip(&simulated) {
        match (live, simulated) {
            (LaneEvent::Done { steps: a, output: x, .. }, LaneEvent::Done { steps: b, output: y, .. }) => {
                assert_eq!((a, x), (b, y));
            }
            (live, simulated) => assert_eq!(live, simulated),
        }
    }
}

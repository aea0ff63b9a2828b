//! What a lane promises: order, expiry, supersession, waiting, and honest counts.

use super::*;
use crate::types::SourceId;

fn job(id: u64, class: Class, deadline_ms: u64) -> Job {
    Job {
        id: JobId(id),
        capability: Capability::Load,
        source: SourceId(0),
        generation: 0,
        class,
        input: JobInput::None,
        created: Nanos::ZERO,
        deadline: Nanos::from_ms(deadline_ms),
        fresh_until: Nanos::NEVER,
        credit_words: 4,
        based_on: ArrayVec::new(),
    }
}

fn frame(id: u64, generation: u32) -> Job {
    let input = JobInput::Frame { seq: id };
    Job { capability: Capability::See, generation, input, ..job(id, Class::Awareness, 1_000) }
}

fn none(event: LaneEvent) {
    panic!("nothing should end: {event:?}");
}

fn running(lane: &Lane, slot: Option<usize>) -> Option<u64> {
    lane.job(slot?).map(|job| job.id.0)
}

/// Ends seen during `act`: job and outcome.
fn ends(act: impl FnOnce(&mut dyn FnMut(LaneEvent))) -> Vec<(u64, Outcome)> {
    let mut seen = Vec::new();
    act(&mut |event| {
        if let LaneEvent::Done { job, outcome, .. } = event {
            seen.push((job.0, outcome));
        }
    });
    seen
}

#[test]
fn the_most_urgent_class_runs_first_then_the_earliest_deadline_then_first_come() {
    let mut lane = Lane::new(8);
    for job in [
        job(1, Class::Background, 10),
        job(2, Class::Awareness, 30),
        job(3, Class::Awareness, 20),
        job(4, Class::Reflex, 90),
        job(5, Class::Awareness, 20),
    ] {
        lane.submit(job, Nanos::ZERO, &mut none);
    }
    let mut order = Vec::new();
    while let Some(slot) = lane.next(Nanos::ZERO, &mut none) {
        order.extend(running(&lane, Some(slot)));
        lane.leave(slot, Outcome::Completed, Output::None, Nanos::ZERO, &mut |_| {});
    }
    assert_eq!(order, [4, 3, 5, 2, 1]);
}

#[test]
fn a_job_past_its_deadline_never_starts_but_one_that_started_goes_on() {
    let mut lane = Lane::new(8);
    lane.submit(job(1, Class::Awareness, 10), Nanos::ZERO, &mut none);
    lane.submit(job(2, Class::Awareness, 15), Nanos::ZERO, &mut none);
    let slot = lane.next(Nanos::from_ms(10), &mut none).expect("due exactly now may still start");
    lane.start(slot);
    let expired = ends(|ended| assert_eq!(lane.next(Nanos::from_ms(16), ended), Some(slot)));
    assert_eq!(expired, [(2, Outcome::Expired)]);
}

#[test]
fn a_newer_frame_takes_the_place_of_one_that_waits_and_leaves_a_running_one_alone() {
    let mut lane = Lane::new(8);
    lane.submit(frame(1, 1), Nanos::ZERO, &mut none);
    let slot = lane.next(Nanos::ZERO, &mut none).expect("one waits");
    lane.start(slot);
    lane.submit(frame(2, 2), Nanos::ZERO, &mut none);
    let superseded = ends(|ended| assert!(lane.submit(frame(3, 3), Nanos::ZERO, ended).is_some()));
    assert_eq!(superseded, [(2, Outcome::Superseded)]);
    assert_eq!(lane.len(), 2);
    let stale = ends(|ended| assert!(lane.submit(frame(4, 2), Nanos::ZERO, ended).is_none()));
    assert_eq!(stale, [(4, Outcome::Superseded)], "an old frame that comes late does not replace a newer one");
}

#[test]
fn a_full_lane_refuses() {
    let mut lane = Lane::new(2);
    lane.submit(job(1, Class::Reflex, 10), Nanos::ZERO, &mut none);
    lane.submit(job(2, Class::Reflex, 10), Nanos::ZERO, &mut none);
    let refused = ends(|ended| assert!(lane.submit(job(3, Class::Reflex, 10), Nanos::ZERO, ended).is_none()));
    assert_eq!(refused, [(3, Outcome::Refused)]);
}

#[test]
fn an_answer_without_credit_gives_the_lane_away_until_it_gets_more() {
    let mut lane = Lane::new(4);
    lane.submit(job(1, Class::Dialogue, 1_000), Nanos::ZERO, &mut none);
    lane.submit(job(2, Class::Background, 1_000), Nanos::ZERO, &mut none);
    let answer = lane.next(Nanos::ZERO, &mut none).expect("the answer");
    lane.start(answer);
    assert!(lane.wait(answer));
    assert!(!lane.wait(answer), "waiting is reported once");
    let slot = lane.next(Nanos::ZERO, &mut none);
    assert_eq!(running(&lane, slot), Some(2));
    assert_eq!(lane.credit(JobId(1), 4), None, "no more than it has");
    assert_eq!(lane.credit(JobId(1), 9), Some(answer));
    let slot = lane.next(Nanos::ZERO, &mut none);
    assert_eq!(running(&lane, slot), Some(1));
}

#[test]
fn preemptions_count_only_jobs_that_were_pushed_aside_between_two_steps() {
    let mut lane = Lane::new(4);
    let run = |lane: &mut Lane| {
        let slot = lane.next(Nanos::ZERO, &mut none).expect("work");
        lane.start(slot);
        lane.ran(slot, Nanos::from_ms(1), true, Some(0.25));
        slot
    };
    lane.submit(job(1, Class::Background, 1_000), Nanos::ZERO, &mut none);
    let low = run(&mut lane);
    run(&mut lane);
    for id in [2, 3] {
        lane.submit(job(id, Class::Reflex, 1_000), Nanos::ZERO, &mut none);
        let high = run(&mut lane);
        lane.leave(high, Outcome::Completed, Output::None, Nanos::ZERO, &mut |event| {
            assert!(matches!(event, LaneEvent::Done { preempted: 0, steps: 1, .. }));
        });
    }
    run(&mut lane);
    lane.leave(low, Outcome::Completed, Output::None, Nanos::ZERO, &mut |event| {
        let LaneEvent::Done { preempted, steps, busy, energy_permille, .. } = event else { panic!("done") };
        assert_eq!(energy_permille, Some(250), "the energy after its last step");
        assert_eq!((preempted, steps, busy), (1, 3, Nanos::from_ms(3)), "two reflexes in one gap are one preemption");
    });
}

#[test]
fn only_the_last_two_interrupted_answers_can_be_resumed() {
    let mut lane = Lane::new(4);
    for id in [1, 2, 3] {
        lane.keep(JobId(id));
    }
    let resume = |id: u64, of: u64| Job {
        input: JobInput::Resume { of: JobId(of), from_word: 3 },
        ..job(id, Class::Dialogue, 1_000)
    };
    let failed = ends(|ended| assert!(lane.submit(resume(4, 1), Nanos::ZERO, ended).is_none()));
    assert!(matches!(&failed[..], [(4, Outcome::Failed(why))] if why.contains("no longer kept")));
    let slot = lane.submit(resume(5, 2), Nanos::ZERO, &mut none).expect("still kept");
    lane.start(slot);
    assert_eq!(ends(|ended| assert!(lane.submit(resume(6, 2), Nanos::ZERO, ended).is_none())).len(), 1, "once only");
}

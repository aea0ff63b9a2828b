//! What admission promises: urgent work gets in, hopeless work is refused early, late results are never usable, and
//! every job is counted exactly once.

use super::*;
use crate::dispatch::lane::unstarted;
use crate::types::{BasedOn, Output, Piece, Word};

const MS: fn(u64) -> Nanos = Nanos::from_ms;

fn schedule(queue: u8) -> Schedule {
    Schedule::new(&ScheduleConfig { queue, ..ScheduleConfig::default() })
}

fn want(capability: Capability, class: Class, input: JobInput, captured: Nanos, deadline: Nanos) -> Want {
    let mut based_on = ArrayVec::new();
    based_on.push(BasedOn { source: SourceId(0), seq: 0, captured });
    let fresh_until = deadline + MS(100);
    Want {
        capability,
        source: SourceId(0),
        class,
        input,
        deadline,
        fresh_until,
        credit_words: 0,
        based_on,
        why: Why::Periodic,
    }
}

fn see(seq: u64, now: Nanos) -> Want {
    want(Capability::See, Class::Awareness, JobInput::Frame { seq }, now, now + MS(200))
}

fn hear(now: Nanos) -> Want {
    want(Capability::Hear, Class::Reflex, JobInput::Sound { upto_seq: 1 }, now, now + MS(60))
}

fn ask(now: Nanos) -> Want {
    let input = JobInput::Ask { prompt: Default::default(), max_tokens: 9 };
    want(Capability::Reason, Class::Dialogue, input, now, now + MS(500))
}

fn load(steps: u32, step_us: u32, now: Nanos) -> Want {
    want(Capability::Load, Class::Background, JobInput::Steps { steps, step_us }, now, now + MS(1_000))
}

fn done(job: JobId, outcome: Outcome, busy: Nanos, at: Nanos) -> LaneEvent {
    let (output, steps, longest, preempted, energy_permille) = (Output::None, 1, busy, 0, Some(0));
    LaneEvent::Done { job, outcome, output, steps, busy, longest, preempted, energy_permille, at }
}

fn word(job: JobId) -> LaneEvent {
    LaneEvent::Piece { job, piece: Piece::Word { index: 0, word: Word::from("hello").expect("short") } }
}

fn last(out: &Outputs) -> Decision {
    *out.decisions.last().expect("a decision")
}

#[test]
fn a_result_in_time_is_used_with_the_age_of_its_input_and_one_past_its_deadline_is_late() {
    let (mut schedule, mut out) = (schedule(8), Outputs::default());
    let job = schedule.want(&see(1, MS(5)), MS(10), &mut out).expect("admitted");
    assert!(matches!(&out.commands[0], Command::Submit(sent) if sent.id == job && sent.generation == 1));
    assert_eq!(
        last(&out),
        Decision::Admit { job, capability: Capability::See, class: Class::Awareness, why: Why::Periodic }
    );
    let verdict = schedule.observe(&done(job, Outcome::Completed, MS(5), MS(30)), MS(35), &mut out);
    assert_eq!((verdict, last(&out)), (Verdict::Use, Decision::Use { job, age: MS(30) }));

    let job = schedule.want(&see(2, MS(40)), MS(40), &mut out).expect("admitted");
    let verdict = schedule.observe(&done(job, Outcome::Completed, MS(5), MS(241)), MS(250), &mut out);
    assert_eq!((verdict, last(&out)), (Verdict::Late, Decision::Discard { job, age: MS(210), why: Why::Late }));

    let job = schedule.want(&see(3, MS(300)), MS(300), &mut out).expect("admitted");
    let verdict = schedule.observe(&done(job, Outcome::Completed, MS(5), MS(310)), MS(700), &mut out);
    assert_eq!(verdict, Verdict::Late, "in time, but it was seen when the frame was too old to act on");

    let tally = schedule.tally();
    assert_eq!(tally.class(Class::Awareness), super::super::tally::Deadlines { kept: 2, missed: 1, shed: 0 });
    assert_eq!((tally.late, schedule.open_jobs()), (2, 0));
}

#[test]
fn an_answer_is_judged_by_when_it_begins() {
    let (mut schedule, mut out) = (schedule(8), Outputs::default());
    let job = schedule.want(&ask(MS(0)), MS(1), &mut out).expect("admitted");
    assert_eq!(schedule.observe(&word(job), MS(400), &mut out), Verdict::Use);
    assert_eq!(schedule.observe(&word(job), MS(9_000), &mut out), Verdict::Use, "begun in time, all of it counts");
    assert_eq!(schedule.observe(&done(job, Outcome::Completed, MS(90), MS(9_100)), MS(9_100), &mut out), Verdict::Use);
    assert_eq!(schedule.tally().class(Class::Dialogue).kept, 1);

    out.clear();
    let job = schedule.want(&ask(MS(9_100)), MS(9_100), &mut out).expect("admitted");
    assert_eq!(schedule.observe(&word(job), MS(9_601), &mut out), Verdict::Late);
    assert_eq!(out.commands.last(), Some(&Command::Cancel(job)), "the rest of it is not worth the lane");
    assert_eq!(schedule.observe(&word(job), MS(9_602), &mut out), Verdict::Late);
    let cancelled = Outcome::Cancelled { idle_after: MS(1) };
    assert_eq!(schedule.observe(&done(job, cancelled, MS(9), MS(9_603)), MS(9_610), &mut out), Verdict::Ignore);
    assert_eq!((schedule.tally().class(Class::Dialogue).missed, schedule.tally().late), (1, 1));
}

#[test]
fn nothing_of_a_cancelled_job_is_usable_even_if_it_had_finished_by_then() {
    let (mut schedule, mut out) = (schedule(8), Outputs::default());
    let job = schedule.want(&see(1, MS(0)), MS(0), &mut out).expect("admitted");
    assert!(schedule.cancel(job, Why::StateForbids, &mut out));
    assert!(!schedule.cancel(job, Why::StateForbids, &mut out), "once");
    assert!(!schedule.is_open(job));
    let verdict = schedule.observe(&done(job, Outcome::Completed, MS(5), MS(10)), MS(10), &mut out);
    assert_eq!(
        (verdict, last(&out)),
        (Verdict::Ignore, Decision::Discard { job, age: MS(10), why: Why::StateForbids })
    );
    assert_eq!(schedule.tally().class(Class::Awareness).shed, 1);
}

#[test]
fn background_work_gives_way_to_a_reflex_when_the_queue_is_full_and_never_the_other_way() {
    let (mut schedule, mut out) = (schedule(2), Outputs::default());
    let first = schedule.want(&load(1, 100, MS(0)), MS(0), &mut out).expect("admitted");
    let second = schedule.want(&load(1, 100, MS(1)), MS(1), &mut out).expect("admitted");
    assert_eq!(schedule.want(&load(1, 100, MS(2)), MS(2), &mut out), None);
    assert!(matches!(last(&out), Decision::Shed { class: Class::Background, why: Why::QueueFull, .. }));
    let started = LaneEvent::Started { job: second, at: MS(2) };
    schedule.observe(&started, MS(2), &mut out);
    assert!(schedule.want(&hear(MS(3)), MS(3), &mut out).is_some());
    assert!(out.decisions.contains(&Decision::Cancel { job: first, why: Why::QueueFull }), "it had not started");
    assert!(schedule.is_open(second));
    assert_eq!(schedule.want(&see(1, MS(4)), MS(4), &mut out), None, "nothing waits that is less urgent");
}

#[test]
fn work_that_would_miss_behind_the_backlog_is_refused_at_once_except_a_reflex() {
    let (mut schedule, mut out) = (schedule(16), Outputs::default());
    let job = schedule.want(&see(0, MS(0)), MS(0), &mut out).expect("admitted");
    schedule.observe(&done(job, Outcome::Completed, MS(80), MS(80)), MS(80), &mut out);
    let mut reflex = hear(MS(80));
    for source in 0..3 {
        reflex.source = SourceId(source);
        let job = schedule.want(&reflex, MS(80), &mut out).expect("a reflex is never refused for time");
        schedule.observe(&LaneEvent::Started { job, at: MS(80) }, MS(80), &mut out);
        schedule.observe(&done(job, Outcome::Completed, MS(50), MS(81)), MS(81), &mut out);
        schedule.want(&reflex, MS(81), &mut out).expect("admitted");
    }
    out.clear();
    // Three reflexes of 50 ms are ahead, itself takes 80 ms, 200 ms are left.
    assert_eq!(schedule.want(&see(1, MS(81)), MS(81), &mut out), None);
    assert!(matches!(last(&out), Decision::Shed { capability: Capability::See, why: Why::WouldMiss, .. }));
    // An estimate that is never measured again fades, so that one slow job does not close the door for good.
    let tries = (0..200).take_while(|_| schedule.want(&see(1, MS(81)), MS(81), &mut out).is_none()).count();
    assert!((1..200).contains(&tries), "{tries}");
}

#[test]
fn every_job_ends_in_exactly_one_count() {
    let (mut schedule, mut out) = (schedule(16), Outputs::default());
    let outcomes = [
        Outcome::Completed,
        Outcome::Expired,
        Outcome::Superseded,
        Outcome::Refused,
        Outcome::Failed(Default::default()),
        Outcome::Cancelled { idle_after: MS(1) },
    ];
    for outcome in outcomes {
        let job = schedule.want(&see(1, MS(0)), MS(0), &mut out).expect("admitted");
        schedule.observe(&done(job, outcome, MS(1), MS(1)), MS(1), &mut out);
        schedule.observe(&unstarted(job, Outcome::Expired, MS(1)), MS(1), &mut out); // told twice: counted once
        out.clear();
    }
    let tally = *schedule.tally();
    let class = tally.class(Class::Awareness);
    assert_eq!((class.kept, class.missed, class.shed, tally.superseded), (1, 2, 2, 1));
    assert_eq!(tally.admitted, class.kept + class.missed + class.shed + tally.superseded);
}

#[test]
fn a_job_whose_lane_went_silent_is_given_up_and_its_place_is_free_again() {
    let (mut schedule, mut out) = (schedule(1), Outputs::default());
    let job = schedule.want(&hear(MS(0)), MS(0), &mut out).expect("admitted");
    schedule.observe(&LaneEvent::Started { job, at: MS(1) }, MS(1), &mut out);
    schedule.tick(MS(10_060), &mut out);
    assert_eq!(schedule.open_jobs(), 1);
    schedule.tick(MS(10_061), &mut out);
    assert_eq!((schedule.open_jobs(), schedule.tally().lost), (0, 1));
    assert!(schedule.want(&hear(MS(10_061)), MS(10_061), &mut out).is_some());
}

#[test]
fn a_schedule_restored_from_its_keyframe_decides_the_same() {
    let (mut one, mut out) = (schedule(4), Outputs::default());
    one.want(&see(1, MS(0)), MS(0), &mut out);
    one.want(&ask(MS(0)), MS(0), &mut out);
    let bytes = postcard::to_stdvec(&one).expect("serialises");
    let mut two: Schedule = postcard::from_bytes(&bytes).expect("and back");
    let (mut a, mut b) = (Outputs::default(), Outputs::default());
    for schedule_and_out in [(&mut one, &mut a), (&mut two, &mut b)] {
        let (schedule, out) = schedule_and_out;
        schedule.want(&see(2, MS(10)), MS(10), out);
        schedule.observe(&done(JobId(2), Outcome::Completed, MS(7), MS(20)), MS(20), out);
    }
    assert_eq!(a, b);
    assert_eq!(one, two);
}

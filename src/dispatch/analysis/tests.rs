//! The analysis against cases worked out by hand, and against a lane that really runs such jobs in virtual time.

use super::*;
use crate::dispatch::load::Load;
use crate::dispatch::virtual_lane::{Dice, Faults, VirtualLane};
use crate::engine::NoSensors;
use crate::engine::profile::Profile;
use crate::types::{Command, Job, JobId, JobInput, LaneEvent, Outcome, SourceId};
use std::sync::Arc;

const MS: fn(u64) -> Nanos = Nanos::from_ms;

fn demand(class: Class, every_ms: u64, deadline_ms: u64, steps: u32, step_ms: u64) -> Demand {
    Demand {
        capability: Capability::Load,
        class,
        every: MS(every_ms),
        jitter: Nanos::ZERO,
        deadline: MS(deadline_ms),
        steps,
        steps_to_result: steps,
        step: MS(step_ms),
        replaces: false,
    }
}

fn responses(demands: &[Demand]) -> Vec<Option<u64>> {
    analyse(demands).findings.iter().map(|finding| finding.response.map(Nanos::as_ms)).collect()
}

#[test]
fn a_reflex_waits_for_one_background_step_and_for_its_own_jitter() {
    let mut reflex = demand(Class::Reflex, 40, 60, 1, 3);
    let background = demand(Class::Background, 500, 500, 10, 7);
    assert_eq!(responses(&[reflex, background])[0], Some(10));
    reflex.jitter = MS(10);
    assert_eq!(responses(&[reflex, background])[0], Some(20));
}

#[test]
fn within_a_class_the_earliest_deadline_goes_first() {
    // By hand: A can find a step of B just begun (2 + 2). B meets two jobs of A before its deadline (4 + 2 + 2).
    let a = demand(Class::Reflex, 5, 5, 1, 2);
    let b = demand(Class::Reflex, 10, 10, 2, 2);
    assert_eq!(responses(&[a, b]), [Some(4), Some(8)]);
}

#[test]
fn an_answer_counts_until_its_first_word_and_suffers_from_every_reflex_in_that_time() {
    let reflex = demand(Class::Reflex, 40, 60, 1, 5);
    let answer = Demand { steps_to_result: 3, ..demand(Class::Dialogue, 2_000, 500, 40, 10) };
    let eye = demand(Class::Awareness, 200, 900, 1, 20);
    // 20 (a frame's step) + 3 · 10 + 2 · 5 (reflexes at 0 and 40).
    assert_eq!(responses(&[reflex, answer, eye])[1], Some(60));
}

#[test]
fn overload_has_no_bound_and_the_verdict_says_so_with_numbers() {
    let reflex = demand(Class::Reflex, 10, 10, 1, 4);
    let eye = demand(Class::Awareness, 10, 20, 1, 7);
    let analysis = analyse(&[reflex, eye]);
    assert!(!analysis.holds());
    assert!(analysis.findings[1].response.is_none());
    assert_eq!(analysis.utilisation_permille, 1_100);
    let text = analysis.to_string();
    assert!(text.contains("does not hold") && text.contains("110.0 %") && text.contains("no bound"), "{text}");
    assert!(analyse(&[demand(Class::Reflex, 20, 10, 1, 4)]).to_string().contains("holds under these inputs"));
}

#[test]
fn an_answer_that_the_next_question_replaces_waits_for_one_of_its_steps_and_not_for_all_it_would_have_said() {
    // 400 tokens of 40 ms are 16 s; a question comes every 5 s.
    let reflex = demand(Class::Reflex, 40, 60, 1, 5);
    let answer = Demand { steps_to_result: 3, ..demand(Class::Dialogue, 5_000, 500, 400, 40) };
    assert!(analyse(&[reflex, answer]).findings[1].response.is_none());
    let analysis = analyse(&[reflex, Demand { replaces: true, ..answer }]);
    // 40 (a step of the old answer) + 3 * 40 + 5 * 5 (reflexes at 0, 40, 80, 120, 160).
    assert_eq!(analysis.findings[1].response, Some(MS(185)));
    assert_eq!(analysis.findings[1].blocking, MS(40));
    // It takes all that the reflexes leave, and no more than there is.
    assert!((1_000..1_200).contains(&analysis.utilisation_permille), "{analysis}");
    assert!(analysis.to_string().contains("busy 100.0 % at most"), "{analysis}");
    // Work below it has no bound; work beside it is charged in full.
    let replacing = Demand { replaces: true, ..answer };
    let seen = demand(Class::Awareness, 500, 900, 1, 5);
    assert_eq!(analyse(&[reflex, replacing, seen]).findings[2].response, None);
    assert_eq!(analyse(&[replacing, demand(Class::Dialogue, 5_000, 500, 1, 1)]).findings[0].response, None);
}

fn random_demands(dice: &mut Dice) -> Vec<Demand> {
    let classes = [Class::Reflex, Class::Dialogue, Class::Awareness, Class::Background];
    (0..2 + dice.below(4))
        .map(|_| {
            let every = 10 + dice.below(90);
            let class = classes[dice.below(4) as usize];
            let steps = 1 + dice.below(4) as u32;
            let step = 1 + dice.below(5);
            let jitter = MS(dice.below(10));
            Demand { jitter, ..demand(class, every, every / 2 + dice.below(every), steps, step) }
        })
        .collect()
}

/// A set with one demand alone in its class whose jobs replace one another, often too long to end before that.
fn random_demands_that_replace(dice: &mut Dice) -> Vec<Demand> {
    let mut demands = random_demands(dice);
    let class = [Class::Dialogue, Class::Awareness][dice.below(2) as usize];
    demands.retain(|other| other.class != class);
    let (every, step) = (30 + dice.below(90), 1 + dice.below(6));
    let steps = 1 + dice.below(30) as u32;
    let deadline = every / 4 + dice.below(2 * every);
    let replacing =
        Demand { replaces: true, jitter: MS(dice.below(10)), ..demand(class, every, deadline, steps, step) };
    demands.push(replacing);
    demands
}

/// Runs the demands for two seconds, events as dense as allowed or sporadic, and returns the worst response of each.
/// A job that replaces the one before it cancels that one first, as the dialogue does.
fn observed(demands: &[Demand], dice: &mut Dice) -> Vec<Nanos> {
    let profile = Profile::default();
    let engines: Vec<Box<dyn crate::engine::Engine>> = vec![Box::new(Load::counted())];
    let mut lane = VirtualLane::new(engines, Arc::new(NoSensors), &profile, None, Faults::default())
        .expect("load needs no profile");
    let mut arrivals = Vec::new(); // (at the lane, event, demand)
    for (which, demand) in demands.iter().enumerate() {
        let mut event = MS(20) + Nanos(dice.below(3) * dice.below(demand.every.0));
        while event < MS(2_000) {
            // The first job of each comes as late as it can, the others in time: that packs them most densely.
            let jitter = if event < MS(20) + demand.every { demand.jitter } else { Nanos::ZERO };
            arrivals.push((event + jitter, event, which));
            event += demand.every + Nanos(dice.below(2) * dice.below(demand.every.0));
        }
    }
    arrivals.sort_unstable();
    let mut jobs = Vec::new();
    let mut worst = vec![Nanos::ZERO; demands.len()];
    let note = |lane: &mut VirtualLane, jobs: &[(Nanos, usize)], worst: &mut [Nanos]| {
        while let Some(event) = lane.event() {
            if let LaneEvent::Done { job, at, outcome: Outcome::Completed | Outcome::Expired, .. } = event {
                let (event, which) = jobs[job.0 as usize];
                worst[which] = worst[which].max(at.since(event));
            }
        }
    };
    for (at, event, which) in arrivals {
        let demand = demands[which];
        let input = JobInput::Steps { steps: demand.steps, step_us: demand.step.as_us() as u32 };
        let job = Job {
            id: JobId(jobs.len() as u64),
            capability: Capability::Load,
            source: SourceId(0),
            generation: 0,
            class: demand.class,
            input,
            created: at,
            deadline: event + demand.deadline,
            fresh_until: Nanos::NEVER,
            credit_words: 0,
            based_on: Default::default(),
        };
        if demand.replaces
            && let Some(last) = jobs.iter().rposition(|(_, other)| *other == which)
        {
            lane.command(&Command::Cancel(JobId(last as u64)), at);
        }
        jobs.push((event, which));
        lane.command(&Command::Submit(job), at);
        note(&mut lane, &jobs, &mut worst);
    }
    lane.advance(MS(60_000));
    note(&mut lane, &jobs, &mut worst);
    worst
}

#[test]
fn no_run_of_a_lane_is_ever_slower_than_its_bound() {
    no_run_is_slower(random_demands, |analysis, _| analysis.holds());
}

#[test]
fn nor_is_one_whose_jobs_replace_one_another() {
    // What else is on the lane may miss its deadlines: it is charged in full all the same.
    no_run_is_slower(random_demands_that_replace, |_, finding| finding.demand.replaces && finding.holds());
}

/// Runs 400 sets of demands; the bound of what `promised` says holds must hold, and must be met within 20 % often enough.
fn no_run_is_slower(random: impl Fn(&mut Dice) -> Vec<Demand>, promised: impl Fn(&Analysis, &Finding) -> bool) {
    let mut dice = Dice::new(7);
    let (mut held, mut tight) = (0, 0);
    for round in 0..400 {
        let demands = random(&mut dice);
        let analysis = analyse(&demands);
        if !analysis.findings.iter().any(|finding| promised(&analysis, finding)) {
            continue;
        }
        held += 1;
        let worst = observed(&demands, &mut dice);
        for (finding, worst) in analysis.findings.iter().zip(worst) {
            if !promised(&analysis, finding) {
                continue;
            }
            let bound = finding.response.expect("it holds");
            assert!(worst <= bound, "round {round}: {finding:?} took {} us", worst.as_us());
            tight += u32::from(worst.0 * 10 >= bound.0 * 8);
        }
    }
    assert!(held > 50, "only {held} sets held");
    assert!(2 * tight > held, "bounds are far from what happens: {tight} of {held} sets' demands came within 20 %");
}

//! Plans of robots that fit and of robots that do not.

use super::*;
use crate::config::{Beside, CameraConfig, Loading, MicrophoneConfig};
use crate::engine::profile::StepCost;
use crate::robot::engines::{self as loaded, LoadKind};

fn robot() -> Config {
    let mut config = Config { camera: vec![CameraConfig::default()], ..Config::default() };
    config.microphone = vec![MicrophoneConfig::default()];
    config
}

fn profile(reason_us: f32) -> Profile {
    let step = |capability, p999_us, steps_max| StepCost { capability, p50_us: p999_us / 2.0, p999_us, steps_max };
    let steps = vec![
        step(Capability::Hear, 100.0, 2),
        step(Capability::See, 700.0, 5),
        step(Capability::Reason, reason_us, 200),
        step(Capability::Consolidate, 1.0, 1),
    ];
    Profile { name: "test".to_owned(), steps }
}

fn beside(name: &str, weights_bytes: u64, loading: Loading) -> Beside {
    Beside { name: name.to_owned(), weights_bytes, loading, ..Beside::default() }
}

fn plan(config: &Config, device: &str) -> Plan {
    Plan::of(config, Device::named(device).expect("known"), &profile(900.0)).expect("files are there")
}

#[test]
fn the_predecessors_66_gb_model_beside_others_is_refused_before_anything_is_loaded() {
    // Qwen3-Omni read into memory of its own beside Qwen2.5-14B and 0.5B in 16 bits: the process was killed at 6 %.
    let mut config = robot();
    config.plan.beside = vec![
        beside("omni-30b", 66_000_000_000, Loading::Copied),
        beside("qwen2.5-14b", 29_500_000_000, Loading::Mapped),
        beside("qwen2.5-0.5b", 1_000_000_000, Loading::Mapped),
    ];
    let refused = plan(&config, "thor");
    let text = refused.to_string();
    assert!(!refused.admits() && text.contains("no:") && text.contains("while loading"), "{text}");
    assert!(text.contains("122.0 GB") && text.contains("omni-30b"), "{text}");
    // Mapped instead of copied it fits ...
    config.plan.beside[0].loading = Loading::Mapped;
    let fits = plan(&config, "thor");
    assert!(fits.admits(), "{fits}");
    // ... but not with the 72B model that the predecessor also names.
    config.plan.beside.push(beside("qwen2.5-72b", 72_000_000_000, Loading::Mapped));
    let refusals = plan(&config, "thor").refusals();
    assert_eq!(refusals.len(), 1);
    assert!(refusals[0].contains("too few"), "{refusals:?}");
}

#[test]
fn what_is_planned_is_at_least_what_loaded_engines_hold() {
    let config = robot();
    let planned = engines(&config).expect("files are there");
    let held = loaded::load(&config.engines, LoadKind::Counted).expect("shipped networks").engines;
    for (planned, held) in planned.iter().zip(&held) {
        let (planned, held) = (planned.total(), held.memory_bytes());
        assert!(planned >= held && planned < 3 * held + 10_000_000, "planned {planned}, held {held}");
    }
}

#[test]
fn a_slow_mind_is_refused_with_the_deadline_it_breaks() {
    let device = || Device::named("this").expect("Linux");
    let good = Plan::of(&robot(), device(), &profile(900.0)).expect("files are there");
    assert!(good.admits(), "{good}");
    assert!(good.to_string().contains("yes: it fits and holds under these inputs"));
    // A step of 31 ms, as a 14B model in 4 bits takes on Thor, blocks hearing for as long; one of 103 ms breaks its 60 ms.
    let good = Plan::of(&robot(), device(), &profile(31_000.0)).expect("files are there");
    assert!(good.refusals().iter().all(|reason| !reason.contains("Hear")), "{good}");
    let bad = Plan::of(&robot(), device(), &profile(103_000.0)).expect("files are there");
    assert!(bad.refusals().iter().any(|reason| reason.contains("Hear on lane 0")), "{bad}");
}

/// Costs of a 14B model in 4 bits on Thor as engines/qwen2.5-14b computes them: a quarter of a token is a step, answers have up
/// to 400 tokens.
fn fourteen_b_in_4_bits() -> Profile {
    let mut costs = profile(9_000.0);
    costs.steps[2].steps_max = 1_600;
    costs
}

#[test]
fn a_long_answer_that_the_next_question_replaces_is_admitted() {
    // 1,600 steps of 9 ms with a margin are 17 s, a question comes every 5.
    let mut config = robot();
    config.plan.assume.first_word_steps = 16;
    assert_eq!(config.plan.assume.question_every_s, 5.0);
    let plan =
        Plan::of(&config, Device::named("thor").expect("known"), &fourteen_b_in_4_bits()).expect("files are there");
    assert!(plan.admits(), "{plan}");
    let answer = plan.lanes[0].findings.iter().find(|finding| finding.demand.capability == Capability::Reason);
    let worst = answer.and_then(|finding| finding.response).expect("bounded").as_ms();
    assert!((180..400).contains(&worst), "17 steps of 10.8 ms and the reflexes meanwhile, not {worst} ms: {plan}");
}

#[test]
fn late_background_work_is_a_note_and_no_refusal() {
    let plan =
        Plan::of(&robot(), Device::named("thor").expect("known"), &fourteen_b_in_4_bits()).expect("files are there");
    assert!(!plan.lanes[0].holds() && plan.admits(), "{plan}");
    assert!(plan.to_string().contains("background work can be late"), "{plan}");
}

#[test]
fn a_profile_without_the_needed_costs_is_no_yes() {
    let plan = Plan::of(&robot(), Device::named("h200").expect("known"), &Profile::default()).expect("files are there");
    assert!(!plan.admits());
    assert!(plan.refusals()[0].contains("no step costs of Hear"), "{plan}");
}

#[test]
fn a_missing_network_is_one_sentence() {
    let mut config = robot();
    config.engines.mind = "no/such/mind".into();
    let error = Plan::of(&config, Device::named("thor").expect("known"), &profile(1.0)).expect_err("not there");
    assert!(error.contains("no/such/mind"), "{error}");
}

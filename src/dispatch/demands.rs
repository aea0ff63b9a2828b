//! What a configuration asks of the lanes in the worst case. `CoreConfig`, a profile and a few declared assumptions flow
//! in; the demands per lane flow out, ready for `analysis`.

use super::analysis::{Analysis, Demand, analyse};
use super::schedule::lane_of;
use crate::config::{CoreConfig, span_ms};
use crate::engine::profile::Profile;
use crate::types::{Capability, Class, Nanos, SourceKind};
use serde::{Deserialize, Serialize};

/// What no configuration says and the analysis needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assumptions {
    /// Step costs are taken this much higher than their 99.9th percentile, in thousandths.
    pub margin_permille: u32,
    /// How much slower a step is while other lanes work, in thousandths (1000: not at all); measured per machine.
    pub slowdown_permille: u32,
    /// Fastest camera, frames per second: while something looms, every frame is looked at as a reflex.
    pub frame_hz: f32,
    /// Shortest time between two questions, s.
    pub question_every_s: f32,
    /// Steps of an answer before its first word: prompt chunks and the first tokens.
    pub first_word_steps: u32,
}

impl Default for Assumptions {
    fn default() -> Assumptions {
        Assumptions {
            margin_permille: 1_200,
            slowdown_permille: 1_000,
            frame_hz: 30.0,
            question_every_s: 5.0,
            first_word_steps: 8,
        }
    }
}

/// The demands on lane `lane`. Capabilities that the profile does not know are left out: `missing` names them.
pub fn demands(config: &CoreConfig, profile: &Profile, assumed: &Assumptions, lane: usize) -> Vec<Demand> {
    let schedule = &config.schedule;
    let alone = schedule.lanes <= 1;
    let slowdown = if alone { 1.0 } else { f64::from(assumed.slowdown_permille) / 1_000.0 };
    let factor = f64::from(assumed.margin_permille) / 1_000.0 * slowdown;
    let mut list = Vec::new();
    let mut add = |capability, class, every: Nanos, deadline: Nanos, first: Option<u32>| {
        let Some(cost) = profile.cost(capability) else { return };
        if lane_of(capability, schedule.lanes) == lane {
            list.push(Demand {
                capability,
                class,
                every,
                jitter: config.period(),
                deadline,
                steps: cost.steps_max.max(1),
                steps_to_result: first.unwrap_or(cost.steps_max).clamp(1, cost.steps_max.max(1)),
                step: Nanos((f64::from(cost.p999_us.max(0.0)) * factor * 1_000.0) as u64),
                // There is one dialogue, whoever speaks: each question first breaks off the answer to the last
                // (`Dialogue::utterance`), and is shed if there is no room for both commands.
                replaces: capability == Capability::Reason,
            });
        }
    };
    for _ in config.sources_of(SourceKind::Microphone) {
        let every = span_ms(schedule.hear_every_ms.max(1));
        add(Capability::Hear, Class::Reflex, every, span_ms(schedule.hear_deadline_ms), None);
    }
    for _ in config.sources_of(SourceKind::Camera) {
        add(Capability::See, Class::Reflex, every_hz(assumed.frame_hz), span_ms(schedule.see_deadline_ms), None);
    }
    if config.sources_of(SourceKind::Microphone).next().is_some() {
        let every = every_hz(1.0 / assumed.question_every_s.max(0.001));
        let deadline = span_ms(schedule.reason_deadline_ms);
        add(Capability::Reason, Class::Dialogue, every, deadline, Some(assumed.first_word_steps));
    }
    if schedule.dream_hz > 0.0 {
        add(Capability::Consolidate, Class::Background, every_hz(schedule.dream_hz), Nanos::from_s(2), None);
    }
    list
}

/// Capabilities that the configuration needs and the profile does not know.
pub fn missing(config: &CoreConfig, profile: &Profile) -> Vec<Capability> {
    let has = |kind| config.sources_of(kind).next().is_some();
    let needs = [
        (Capability::Hear, has(SourceKind::Microphone)),
        (Capability::See, has(SourceKind::Camera)),
        (Capability::Reason, has(SourceKind::Microphone)),
    ];
    needs.into_iter().filter(|(need, used)| *used && profile.cost(*need).is_none()).map(|(need, _)| need).collect()
}

/// The analysis of every lane, in order.
pub fn analyse_lanes(config: &CoreConfig, profile: &Profile, assumed: &Assumptions) -> Vec<Analysis> {
    let lanes = usize::from(config.schedule.lanes.max(1));
    (0..lanes).map(|lane| analyse(&demands(config, profile, assumed, lane))).collect()
}

fn every_hz(hz: f32) -> Nanos {
    Nanos((1e9 / f64::from(hz.max(0.001))) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CameraConfig, Config, MicrophoneConfig};
    use crate::engine::profile::StepCost;

    fn robot(lanes: u8, eye_us: f32) -> (CoreConfig, Profile) {
        let mut config = Config { camera: vec![CameraConfig::default()], ..Config::default() };
        config.microphone = vec![MicrophoneConfig::default()];
        config.schedule.lanes = lanes;
        let step = |capability, p999_us, steps_max| StepCost { capability, p50_us: p999_us / 2.0, p999_us, steps_max };
        let steps = vec![
            step(Capability::Hear, 4_000.0, 1),
            step(Capability::See, eye_us, 1),
            step(Capability::Reason, 10_000.0, 200),
        ];
        (config.core(), Profile { name: "test".to_owned(), steps })
    }

    #[test]
    fn the_default_robot_holds_on_one_lane_and_a_slow_eye_breaks_hearing() {
        let (config, profile) = robot(1, 8_000.0);
        let analysis = &analyse_lanes(&config, &profile, &Assumptions::default())[0];
        assert!(analysis.holds(), "{analysis}");

        let (config, profile) = robot(1, 45_000.0);
        let analysis = &analyse_lanes(&config, &profile, &Assumptions::default())[0];
        let hear = &analysis.findings[0];
        assert!(!hear.holds(), "{analysis}");
        assert_eq!(hear.blocking, Nanos::from_ms(54), "one step of the eye, with a margin of a fifth");
    }

    #[test]
    fn lanes_of_their_own_protect_hearing_from_the_eye_and_unknown_costs_are_named() {
        let (config, profile) = robot(3, 25_000.0);
        let lanes = analyse_lanes(&config, &profile, &Assumptions::default());
        assert!(lanes[0].holds(), "{}", lanes[0]);
        assert_eq!(lanes.iter().map(|lane| lane.findings.len()).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(missing(&config, &Profile::default()), [Capability::Hear, Capability::See, Capability::Reason]);
    }
}

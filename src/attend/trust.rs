//! Trust per source and per capability: an exponential average of what came of its results. Outcomes and starvation
//! flow in, trust 0.02..=1 flows out. Without outcomes it drifts back to neutral; a starved source loses authority fast.

use super::detectors::ease;
use crate::types::{Capability, MAX_SOURCES, Nanos, SourceId};
use serde::{Deserialize, Serialize};

/// What is neither trusted nor distrusted.
const NEUTRAL: f32 = 0.7;
/// Nothing is distrusted entirely, so that it can recover.
const LEAST: f32 = 0.02;
/// A starved source sinks this many times as fast as outcomes move it.
const STARVED_SPEED: f32 = 8.0;
/// Drift to neutral is this many times as slow.
const DRIFT_SLOWNESS: f32 = 10.0;
/// Trust moves this often, s.
const STEP_S: f32 = 0.1;
/// Capabilities with a trust of their own.
const CAPABILITIES: usize = 5;

/// What came of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Came {
    /// It was used.
    Used,
    /// It was in time and not needed.
    Discarded,
    /// It came too late.
    Late,
    /// Another source said otherwise, or it failed.
    Contradicted,
}

impl Came {
    fn worth(self) -> f32 {
        match self {
            Came::Used => 1.0,
            Came::Discarded => 0.5,
            Came::Late => 0.3,
            Came::Contradicted => 0.0,
        }
    }
}

/// One average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Average {
    value: f32,
    last: Nanos,
}

impl Average {
    fn learn(&mut self, came: Came, now: Nanos, tau_s: f32) {
        // The time since the outcome before is its weight, so that fast sources do not learn faster; a first outcome after
        // long counts as one second's.
        let dt = (now.since(self.last).as_s() as f32).min(1.0);
        self.last = now;
        self.value = (self.value + ease(dt, tau_s) * (came.worth() - self.value)).clamp(LEAST, 1.0);
    }
}

/// All trusts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    sources: [Average; MAX_SOURCES],
    blocks: [Average; CAPABILITIES],
    starved: [bool; MAX_SOURCES],
    stepped: Nanos,
}

impl Default for Trust {
    fn default() -> Trust {
        let neutral = Average { value: NEUTRAL, last: Nanos::ZERO };
        Trust {
            sources: [neutral; MAX_SOURCES],
            blocks: [neutral; CAPABILITIES],
            starved: [false; MAX_SOURCES],
            stepped: Nanos::ZERO,
        }
    }
}

impl Trust {
    /// Trust in a source.
    pub fn source(&self, source: SourceId) -> f32 {
        self.sources.get(usize::from(source.0)).map_or(LEAST, |average| average.value)
    }

    /// Trust in what serves a capability.
    pub fn block(&self, capability: Capability) -> f32 {
        self.blocks[capability as usize].value
    }

    /// Whether the source delivers at all.
    pub fn starved(&mut self, source: SourceId, starved: bool) {
        if let Some(slot) = self.starved.get_mut(usize::from(source.0)) {
            *slot = starved;
        }
    }

    /// A result of `capability` from `source` came to something.
    pub fn came(&mut self, capability: Capability, source: SourceId, came: Came, now: Nanos, tau_s: f32) {
        if let Some(average) = self.sources.get_mut(usize::from(source.0)) {
            average.learn(came, now, tau_s);
        }
        self.blocks[capability as usize].learn(came, now, tau_s);
    }

    /// Lets time pass: drift to neutral, starvation.
    pub fn pass(&mut self, now: Nanos, tau_s: f32) {
        let dt = now.since(self.stepped).as_s() as f32;
        if dt < STEP_S {
            return;
        }
        self.stepped = now;
        let (drift, sink) = (ease(dt, tau_s * DRIFT_SLOWNESS), ease(dt, tau_s / STARVED_SPEED));
        for (average, starved) in self.sources.iter_mut().zip(self.starved) {
            average.value += if starved { sink * (LEAST - average.value) } else { drift * (NEUTRAL - average.value) };
        }
        self.blocks.iter_mut().for_each(|average| average.value += drift * (NEUTRAL - average.value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EYE: SourceId = SourceId(0);

    fn after(came: Came, times: u64, every_ms: u64) -> f32 {
        let mut trust = Trust::default();
        for i in 1..=times {
            let now = Nanos::from_ms(i * every_ms);
            trust.came(Capability::See, EYE, came, now, 20.0);
            trust.pass(now, 20.0);
        }
        trust.source(EYE)
    }

    #[test]
    fn good_results_raise_trust_and_bad_ones_lower_it_within_bounds() {
        assert!(after(Came::Used, 600, 100) > 0.9);
        assert!(after(Came::Contradicted, 600, 100) < 0.15);
        assert!(after(Came::Contradicted, 100_000, 100) >= LEAST);
        assert!(after(Came::Used, 100_000, 100) <= 1.0);
    }

    #[test]
    fn trust_moves_with_time_not_with_the_number_of_results() {
        assert!((after(Came::Late, 100, 200) - after(Came::Late, 1000, 20)).abs() < 0.02);
    }

    #[test]
    fn a_starved_source_loses_authority_and_recovers() {
        let mut trust = Trust::default();
        trust.starved(EYE, true);
        (1..=100).for_each(|i| trust.pass(Nanos::from_ms(i * 100), 20.0));
        assert!(trust.source(EYE) < 0.05);
        assert_eq!(trust.source(SourceId(1)), NEUTRAL);
        trust.starved(EYE, false);
        (101..=10_000).for_each(|i| trust.pass(Nanos::from_ms(i * 100), 20.0));
        assert!(trust.source(EYE) > 0.6);
    }
}

//! The five metabolic states. What happens flows in once per tick (salience, speech, hazards, energy), the state and the
//! reason of each change flow out. Every rule is in seconds and in bands: entering and leaving use different levels,
//! each state is held for a dwell time, and each can be reached and left.
//!
//! Differences from the predecessor (reference section 3): no rate per tick; no circadian bias; crisis ends when its
//! cause is over, or when the cause has not changed for long, whatever the energy; focus follows speech as well as salience.

use crate::config::{MetabolismConfig, span_s};
use crate::types::{Metabolic, Nanos, Why};
use serde::{Deserialize, Serialize};

/// Energy below which the robot rests, and above which it may wake again.
const LOW_ENERGY: (f32, f32) = (0.05, 0.3);
/// A hazard that has stood this many times `crisis_hold_s` without change is no crisis any more; halt stays latched.
const HABITUATED: f32 = 5.0;

/// What happens, as far as states care.
#[derive(Debug, Clone, Copy, Default)]
pub struct Situation {
    /// Highest salience × trust of all sources.
    pub salience: f32,
    /// Somebody speaks to the robot, or an answer is being made or spoken.
    pub dialogue: bool,
    /// A hazard is there now.
    pub hazard: Option<Why>,
    /// Share of the budget left, 0..=1.
    pub energy: f32,
    /// Salience from which rest and dream end.
    pub threshold: f32,
}

/// The state and its clocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metabolism {
    state: Metabolic,
    since: Nanos,
    quiet_since: Nanos,
    spoken_at: Option<Nanos>,
    hazard: Option<Why>,
    hazard_began: Nanos,
    hazard_last: Option<Nanos>,
    tired: bool,
    begun: bool,
}

impl Default for Metabolism {
    fn default() -> Metabolism {
        Metabolism {
            state: Metabolic::Wake,
            since: Nanos::ZERO,
            quiet_since: Nanos::ZERO,
            spoken_at: None,
            hazard: None,
            hazard_began: Nanos::ZERO,
            hazard_last: None,
            tired: false,
            begun: false,
        }
    }
}

impl Metabolism {
    /// The state.
    pub fn state(&self) -> Metabolic {
        self.state
    }

    /// When it was entered.
    pub fn since(&self) -> Nanos {
        self.since
    }

    /// One tick. A change is returned as (from, to, why); at most one per tick.
    pub fn tick(
        &mut self,
        now: Nanos,
        at: &Situation,
        config: &MetabolismConfig,
    ) -> Option<(Metabolic, Metabolic, Why)> {
        if !self.begun {
            (self.begun, self.since, self.quiet_since) = (true, now, now);
        }
        if at.dialogue {
            self.spoken_at = Some(now);
        }
        if at.dialogue || at.salience >= config.quiet {
            self.quiet_since = now;
        }
        let onset = at.hazard.is_some() && at.hazard != self.hazard;
        if onset {
            self.hazard_began = now;
        }
        if at.hazard.is_some() {
            self.hazard_last = Some(now);
        }
        self.hazard = at.hazard;
        self.tired = at.energy < if self.tired { LOW_ENERGY.1 } else { LOW_ENERGY.0 };

        let (to, why) = self.next(now, at, onset, config)?;
        let from = self.state;
        self.state = to;
        self.since = now;
        if to == Metabolic::Wake {
            self.quiet_since = now;
        }
        Some((from, to, why))
    }

    fn next(&self, now: Nanos, at: &Situation, onset: bool, config: &MetabolismConfig) -> Option<(Metabolic, Why)> {
        let stayed = now.since(self.since);
        let quiet = now.since(self.quiet_since);
        if let (true, Some(why)) = (onset && self.state != Metabolic::Crisis, at.hazard) {
            return Some((Metabolic::Crisis, why));
        }
        if self.state == Metabolic::Crisis {
            let hold = span_s(config.crisis_hold_s);
            let over = at.hazard.is_none() && self.hazard_last.is_none_or(|last| now.since(last) >= hold);
            let stale = now.since(self.hazard_began) >= span_s(config.crisis_hold_s * HABITUATED);
            let next = if at.dialogue { Metabolic::Focus } else { Metabolic::Wake };
            return (over || (stale && stayed >= hold)).then_some((next, Why::Over));
        }
        // Sleep yields at once; every other state is kept for its dwell time.
        if self.state != Metabolic::Dream && stayed < span_s(config.dwell_s) {
            return None;
        }
        match self.state {
            Metabolic::Focus => {
                let spoken = self.spoken_at.is_some_and(|at| now.since(at) < span_s(config.focus_hold_s));
                (!spoken && at.salience < config.focus_exit).then_some((Metabolic::Wake, Why::Over))
            }
            _ if at.dialogue => Some((Metabolic::Focus, Why::Spoken)),
            Metabolic::Wake if at.salience >= config.focus_enter => Some((Metabolic::Focus, Why::Salient)),
            Metabolic::Wake if self.tired => Some((Metabolic::Rest, Why::LowEnergy)),
            Metabolic::Wake => (quiet >= span_s(config.rest_after_s)).then_some((Metabolic::Rest, Why::Quiet)),
            Metabolic::Rest | Metabolic::Dream if at.salience >= at.threshold && !self.tired => {
                Some((Metabolic::Wake, Why::Salient))
            }
            Metabolic::Rest => {
                let long = quiet.0.min(stayed.0) >= span_s(config.dream_after_s).0;
                long.then_some((Metabolic::Dream, Why::LongQuiet))
            }
            Metabolic::Dream => (stayed >= span_s(config.dream_max_s)).then_some((Metabolic::Wake, Why::Over)),
            Metabolic::Crisis => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Metabolic::*;

    /// Runs a script of (seconds, situation) at a tick rate and tells every change as (seconds, state, why).
    fn run(rate_hz: u64, script: &[(f32, Situation)]) -> Vec<(f32, Metabolic, Why)> {
        let (mut body, mut changes, mut tick) = (Metabolism::default(), Vec::new(), 0u64);
        let mut end = 0.0;
        for (seconds, at) in script {
            end += seconds;
            while (tick as f32) < end * rate_hz as f32 {
                let now = Nanos(tick * 1_000_000_000 / rate_hz);
                if let Some((_, to, why)) = body.tick(now, at, &MetabolismConfig::default()) {
                    changes.push((now.as_s() as f32, to, why));
                }
                tick += 1;
            }
        }
        changes
    }

    const CALM: Situation = Situation { salience: 0.0, dialogue: false, hazard: None, energy: 1.0, threshold: 0.15 };
    const SPEECH: Situation = Situation { dialogue: true, ..CALM };
    const HAZARD: Situation = Situation { hazard: Some(Why::Looming), ..CALM };

    fn states(changes: &[(f32, Metabolic, Why)]) -> Vec<Metabolic> {
        changes.iter().map(|change| change.1).collect()
    }

    #[test]
    fn every_state_is_reached_and_left() {
        let changes = run(100, &[(14.0, CALM), (2.0, SPEECH), (6.0, CALM), (1.0, HAZARD), (4.0, CALM)]);
        assert_eq!(states(&changes), [Rest, Dream, Focus, Wake, Crisis, Wake]);
        let whys: Vec<Why> = changes.iter().map(|change| change.2).collect();
        assert_eq!(whys, [Why::Quiet, Why::LongQuiet, Why::Spoken, Why::Over, Why::Looming, Why::Over]);
    }

    #[test]
    fn the_same_seconds_pass_at_any_tick_rate() {
        let script = [(14.0, CALM), (2.0, SPEECH), (20.0, CALM), (1.0, HAZARD), (10.0, CALM)];
        let (slow, fast) = (run(20, &script), run(1000, &script));
        assert_eq!(states(&slow), states(&fast));
        assert!(slow.iter().zip(&fast).all(|(a, b)| (a.0 - b.0).abs() < 0.11), "{slow:?} {fast:?}");
    }

    #[test]
    fn focus_is_held_while_the_dialogue_goes_on() {
        let changes = run(100, &[(1.0, CALM), (60.0, SPEECH), (3.0, CALM), (1.0, SPEECH), (3.9, CALM)]);
        assert_eq!(states(&changes), [Focus]);
    }

    #[test]
    fn salience_alone_leads_to_focus_and_back_without_flutter() {
        let at = |salience| Situation { salience, ..CALM };
        assert_eq!(states(&run(100, &[(1.0, at(0.6)), (5.0, at(0.3)), (2.0, at(0.2))])), [Focus, Wake]);
        let mut flutter = Vec::new();
        (0..500).for_each(|i| flutter.push((0.02, at(if i % 2 == 0 { 0.6 } else { 0.2 }))));
        assert!(run(100, &flutter).len() <= 21, "ten seconds hold at most twenty changes with half a second of dwell");
    }

    #[test]
    fn a_hazard_is_a_crisis_at_once_and_an_unchanging_one_not_for_ever() {
        let changes = run(100, &[(1.0, CALM), (0.1, SPEECH), (60.0, HAZARD), (0.5, CALM), (1.0, HAZARD)]);
        assert_eq!(states(&changes)[..2], [Focus, Crisis]);
        assert!(changes[1].0 < 1.12, "no dwell before a crisis");
        assert!(changes[2].0 < 12.5 && changes[2].1 == Wake, "habituated: {changes:?}");
        assert_eq!(states(&changes).last(), Some(&Crisis), "a new onset is a new crisis");
    }

    #[test]
    fn an_empty_tank_brings_rest_until_it_is_filled() {
        let tired = Situation { energy: 0.01, salience: 0.3, ..CALM };
        let filling = Situation { energy: 0.2, salience: 0.3, ..CALM };
        let full = Situation { energy: 0.5, salience: 0.3, ..CALM };
        let changes = run(100, &[(1.0, tired), (3.0, filling), (1.0, full)]);
        assert_eq!(states(&changes), [Rest, Wake]);
        assert_eq!(changes[0].2, Why::LowEnergy);
        assert!(changes[1].0 >= 4.0);
    }

    #[test]
    fn dream_ends_by_itself_and_yields_to_any_salience() {
        assert_eq!(states(&run(20, &[(140.0, CALM)])), [Rest, Dream, Wake, Rest]);
        let loud = Situation { salience: 0.2, ..CALM };
        let changes = run(100, &[(12.2, CALM), (0.1, loud)]);
        assert_eq!(changes.last().map(|change| (change.1, change.2)), Some((Wake, Why::Salient)));
    }
}

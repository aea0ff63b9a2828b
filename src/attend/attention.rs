//! Attention over all sources: salience as observations arrive, starvation, conflict between sources, trust, and what has
//! the focus. A tick's inputs flow in; the strongest source, changes of focus and of health flow out as decisions.

use super::appraisal::learn_from_failure;
use super::detectors::Conflict;
use super::irp::{Halting, Progress, Refinement, Telemetry};
use super::memory::EPISODES;
use super::salience::SourceSalience;
use super::trust::Trust;
use crate::config::{CoreConfig, span_ms};
use crate::types::{Decision, Inputs, MAX_SOURCES, Nanos, Outputs, Salience, SourceHealth, SourceId, SourceKind};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Activity of all sources is compared this often.
const CONFLICT_EVERY: Nanos = Nanos::from_ms(100);
/// Trust from which a source counts in full; below it counts proportionally less.
const FULL_TRUST: f32 = 0.7;
/// The focus moves only to what is this much more salient, or when it has faded for [`FOCUS_HOLD`].
const FOCUS_BAND: f32 = 0.05;
/// How long a faded focus stays.
const FOCUS_HOLD: Nanos = Nanos::from_ms(500);

/// Prototypes that one step of consolidation looks at, per source.
const DREAM_ROWS: usize = 4;
/// Consolidation has converged when a whole pass over memory changed nothing.
const DREAM_HALTS: Halting = Halting { epsilon: 1e-3, window: (EPISODES / DREAM_ROWS) as u8, most_states: 200 };

/// Whether a source delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Health {
    present: bool,
    starved: bool,
    since: Option<Nanos>,
}

/// Attention's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    sources: Vec<SourceSalience>,
    health: [Health; MAX_SOURCES],
    conflict: Conflict,
    conflict_at: Nanos,
    weights: [f32; 5],
    trust: Trust,
    focus: Option<SourceId>,
    focus_faded: Nanos,
    /// Memory consolidation as an IRP: its energy is how full memory is.
    dream: Option<(Refinement, Progress)>,
}

impl Attention {
    /// For the sources of a configuration; allocates here and never again.
    pub fn new(config: &CoreConfig) -> Attention {
        let kinds = config.sources.iter().take(MAX_SOURCES).enumerate();
        let sources: Vec<SourceSalience> =
            kinds.map(|(index, source)| SourceSalience::new(SourceId(index as u8), source.0)).collect();
        Attention {
            conflict: Conflict::new(sources.len()),
            sources,
            health: [Health { present: true, starved: false, since: None }; MAX_SOURCES],
            conflict_at: Nanos::ZERO,
            weights: config.attention.weights,
            trust: Trust::default(),
            focus: None,
            focus_faded: Nanos::ZERO,
            dream: None,
        }
    }

    /// One source, if it is configured.
    pub fn source(&self, source: SourceId) -> Option<&SourceSalience> {
        self.sources.get(usize::from(source.0))
    }

    /// All sources, in order.
    pub fn sources(&self) -> &[SourceSalience] {
        &self.sources
    }

    /// Trust in sources and blocks.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Trust, to tell it of outcomes.
    pub fn trust_mut(&mut self) -> &mut Trust {
        &mut self.trust
    }

    /// What has the focus.
    pub fn focus(&self) -> Option<SourceId> {
        self.focus
    }

    /// Salience × authority of a source: what states and rates go by.
    pub fn weight(&self, source: SourceId) -> f32 {
        let authority = (self.trust.source(source) / FULL_TRUST).min(1.0);
        self.source(source).map_or(0.0, |known| known.snarc.total(&self.weights) * authority)
    }

    /// The strongest source's weight, 0 without sources.
    pub fn strongest(&self) -> f32 {
        self.sources.iter().map(|known| self.weight(known.source)).fold(0.0, f32::max)
    }

    /// Takes one tick's observations.
    pub fn observe(&mut self, inputs: &Inputs, config: &CoreConfig, out: &mut Outputs) {
        let now = inputs.now;
        for features in &inputs.camera {
            if let Some(source) = self.of_kind(features.source, SourceKind::Camera) {
                source.see(features, &config.attention, &config.gate);
            }
        }
        for features in &inputs.audio {
            if let Some(source) = self.of_kind(features.source, SourceKind::Microphone) {
                source.hear(features, &config.attention);
            }
        }
        let mut body = self.sources.iter_mut().filter(|source| source.kind == SourceKind::Status);
        if let (Some(status), Some(source)) = (&inputs.status, body.next()) {
            source.feel(status, &config.attention);
        }
        self.check_health(&inputs.health, now, span_ms(config.attention.starved_ms), out);
        self.trust.pass(now, config.attention.trust_s);
        if now.since(self.conflict_at) >= CONFLICT_EVERY {
            self.conflict_at = now;
            let activity: ArrayVec<f32, MAX_SOURCES> =
                self.sources.iter().map(|source| source.snarc.activity()).collect();
            self.conflict.sample(&activity);
        }
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.snarc.conflict = self.conflict.of(index) * source.snarc.activity();
        }
        self.refocus(now, config.attention.threshold, out);
    }

    fn of_kind(&mut self, source: SourceId, kind: SourceKind) -> Option<&mut SourceSalience> {
        self.sources.get_mut(usize::from(source.0)).filter(|known| known.kind == kind)
    }

    /// Finds sources that stopped delivering, or came back. The robot's own values starve only once they were reported:
    /// a robot without them misses nothing.
    fn check_health(&mut self, changes: &[SourceHealth], now: Nanos, starved_after: Nanos, out: &mut Outputs) {
        for change in changes {
            if let Some(health) = self.health.get_mut(usize::from(change.source.0)) {
                health.present = change.present;
            }
        }
        for (known, health) in self.sources.iter_mut().zip(&mut self.health) {
            let began = *health.since.get_or_insert(now);
            let waiting = known.kind == SourceKind::Status && known.captured.is_none();
            let newest = known.captured.unwrap_or(began);
            let starved = !waiting && (!health.present || now.since(newest) > starved_after);
            if starved != health.starved {
                health.starved = starved;
                self.trust.starved(known.source, starved);
                out.decide(Decision::Starved { source: known.source, on: starved });
            }
            if starved {
                known.silence();
            }
        }
    }

    fn refocus(&mut self, now: Nanos, threshold: f32, out: &mut Outputs) {
        let mut best: Option<(SourceId, f32)> = None;
        for known in &self.sources {
            let weight = self.weight(known.source);
            if weight > threshold && best.is_none_or(|(_, most)| weight > most) {
                best = Some((known.source, weight));
            }
        }
        let held = self.focus.map_or(0.0, |source| self.weight(source));
        if held > threshold {
            self.focus_faded = now;
        }
        let moves = match (self.focus, best) {
            (None, None) => false,
            (None, Some(_)) => true,
            (Some(focus), Some((source, _))) if source == focus => false,
            (Some(_), Some((_, most))) => {
                most > held + FOCUS_BAND && now.since(self.focus_faded) >= Nanos(FOCUS_HOLD.0 / 2)
                    || now.since(self.focus_faded) >= FOCUS_HOLD
            }
            (Some(_), None) => now.since(self.focus_faded) >= FOCUS_HOLD,
        };
        if moves {
            self.focus = best.map(|(source, _)| source);
            self.focus_faded = now;
            let salience_permille = best.map_or(0, |(_, most)| (most * 1000.0) as u16);
            out.decide(Decision::Focus { source: self.focus, salience_permille });
        }
    }

    /// Something came of what these sources show now: remembered as a reward 0..=1 or a failure below 0, which also moves
    /// weight off the salience part that misled most.
    pub fn outcome(&mut self, source: SourceId, value: f32, now: Nanos) {
        let Some(known) = self.sources.get_mut(usize::from(source.0)) else { return };
        known.outcome(value, now);
        if value < 0.0 {
            learn_from_failure(&mut self.weights, &known.snarc);
        }
    }

    /// A dream begins: consolidation starts anew.
    pub fn dream(&mut self) {
        self.dream = Some((Refinement::new(DREAM_HALTS, self.fullness()), Progress::Moving));
    }

    /// Whether consolidation still has something to gain.
    pub fn consolidates(&self) -> bool {
        matches!(self.dream, Some((_, Progress::Moving | Progress::Slow)))
    }

    /// How consolidation is getting on.
    pub fn dream_telemetry(&self) -> Option<Telemetry> {
        self.dream.as_ref().map(|(refinement, _)| refinement.telemetry())
    }

    /// Share of memory in use, 0..=1.
    fn fullness(&self) -> f32 {
        let kept: usize = self.sources.iter().map(|source| source.episodes.len()).sum();
        kept as f32 / (self.sources.len().max(1) * EPISODES) as f32
    }

    /// One bounded step of memory consolidation on each source; how many prototypes merged.
    pub fn consolidate_step(&mut self) -> u16 {
        let mut merged = 0;
        for source in &mut self.sources {
            merged += (0..DREAM_ROWS).filter(|_| source.episodes.consolidate_step()).count() as u16;
        }
        let energy = self.fullness();
        if let Some((refinement, progress)) = &mut self.dream {
            *progress = refinement.step(energy);
        }
        merged
    }

    /// The numbers of every source that has shown something.
    pub fn report(&self) -> ArrayVec<Salience, MAX_SOURCES> {
        let seen = self.sources.iter().filter(|source| source.captured.is_some());
        seen.map(|source| source.report(&self.weights, self.trust.source(source.source))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::types::Status;

    fn config() -> CoreConfig {
        let mut config = Config::default();
        config.camera.push(Default::default());
        config.microphone.push(Default::default());
        config.core()
    }

    #[test]
    fn a_dream_consolidates_until_nothing_is_left_to_gain() {
        let mut attention = Attention::new(&config());
        for i in 0..20u32 {
            let mut at = [0.0; crate::attend::memory::SITUATION];
            at[0] = (i / 2 * 50) as f32 + (i % 2) as f32 * 0.1;
            attention.sources[0].episodes.outcome(&at, 0.5, i as f32);
            at[0] += 1.5;
            attention.sources[0].episodes.outcome(&at, 0.5, i as f32);
        }
        let full = attention.fullness();
        assert!(!attention.consolidates());
        attention.dream();
        let mut steps = 0;
        while attention.consolidates() && steps < 100 {
            attention.consolidate_step();
            steps += 1;
        }
        assert!((8..30).contains(&steps), "{steps}");
        let telemetry = attention.dream_telemetry().expect("it dreamt");
        assert!(attention.fullness() <= full && telemetry.steps == steps);
    }

    fn starvation(out: &Outputs) -> Vec<(u8, bool)> {
        let starved = out.decisions.iter().filter_map(|decision| match decision {
            Decision::Starved { source, on } => Some((source.0, *on)),
            _ => None,
        });
        starved.collect()
    }

    #[test]
    fn a_silent_source_is_reported_once_and_again_when_it_is_back() {
        let config = config();
        let (mut attention, mut told) = (Attention::new(&config), Vec::new());
        for tick in 0..500u64 {
            let mut inputs = Inputs { tick, now: Nanos::from_ms(tick * 10), ..Inputs::default() };
            if tick == 300 {
                inputs.health.push(SourceHealth { source: SourceId(0), present: false, dropped: 0 });
            }
            if tick == 100 || tick == 400 {
                inputs.status = Some(Status { captured: inputs.now, ..Status::default() });
            }
            let mut out = Outputs::default();
            attention.observe(&inputs, &config, &mut out);
            told.extend(starvation(&out).into_iter().map(|(source, on)| (tick, source, on)));
        }
        assert_eq!(told, [(101, 0, true), (101, 1, true), (201, 2, true), (400, 2, false)]);
        assert!(attention.trust().source(SourceId(0)) < 0.5);
    }
}

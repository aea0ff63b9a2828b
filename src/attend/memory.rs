//! Episodic memory of one source: a bounded set of prototypes of what it has shown, each with how often it occurred and
//! what came of it. Situations and outcomes flow in; novelty and expected reward flow out. Consolidation merges
//! alike prototypes in bounded steps, so that it can be background work of the dream state.

use super::detectors::Floor;
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Numbers that describe a situation.
pub const SITUATION: usize = 24;
/// Prototypes kept per source.
pub const EPISODES: usize = 32;
/// Outcomes after which a prototype's value is a moving rather than a plain mean.
const OUTCOMES_MEMORY: u16 = 10;
/// Distance, in units, below which two prototypes are one.
const MERGE: f32 = 0.4;
/// Novelty from which a situation becomes a prototype of its own.
const STORE: f32 = 0.25;

/// What a source shows at one moment; the distance between two that differ "by one unit" in every element is 1.
pub type Situation = [f32; SITUATION];

/// One prototype.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Episode {
    at: Situation,
    weight: u32,
    last_s: f32,
    value: f32,
    outcomes: u16,
}

/// The prototypes of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episodes {
    kept: ArrayVec<Episode, EPISODES>,
    /// How many elements of a situation are in use.
    used: u8,
    /// Distance to the nearest prototype that noise alone makes.
    noise: Floor,
    cursor: u8,
    forgotten: u32,
}

fn distance(a: &Situation, b: &Situation, used: u8) -> f32 {
    let sum: f32 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
    libm::sqrtf(sum / f32::from(used.max(1)))
}

impl Episodes {
    /// For situations whose first `used` elements mean something; the others stay 0.
    pub fn new(used: usize) -> Episodes {
        Episodes {
            kept: ArrayVec::new(),
            used: used.min(SITUATION) as u8,
            noise: Floor::default(),
            cursor: 0,
            forgotten: 0,
        }
    }

    /// Prototypes kept now.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Nothing is remembered yet.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Prototypes given up for lack of room.
    pub fn forgotten(&self) -> u32 {
        self.forgotten
    }

    fn nearest(&self, at: &Situation) -> Option<(usize, f32)> {
        let mut best = None;
        for (index, episode) in self.kept.iter().enumerate() {
            let d = distance(&episode.at, at, self.used);
            if best.is_none_or(|(_, least)| d < least) {
                best = Some((index, d));
            }
        }
        best
    }

    /// Novelty 0..=1 of a situation: 1 when nothing is remembered, else `1 - exp(-d)` of its distance from the nearest
    /// prototype beyond what noise makes. Then remembers it. `now_s` orders forgetting.
    ///
    /// The predecessor compared by cosine (blind to brightness) with every stored frame (time grew with history).
    pub fn novelty(&mut self, at: &Situation, now_s: f32, dt_s: f32, floor_s: f32) -> f32 {
        let Some((index, d)) = self.nearest(at) else {
            self.remember(at, now_s);
            return 1.0;
        };
        let beyond = (d - self.noise.upper()).max(0.0);
        let novelty = 1.0 - libm::expf(-beyond);
        self.noise.learn(d, dt_s, floor_s);
        if novelty > STORE {
            self.remember(at, now_s);
        } else {
            let episode = &mut self.kept[index];
            episode.weight = episode.weight.saturating_add(1);
            episode.last_s = now_s;
        }
        novelty
    }

    fn remember(&mut self, at: &Situation, now_s: f32) {
        let fresh = Episode { at: *at, weight: 1, last_s: now_s, value: 0.0, outcomes: 0 };
        if self.kept.try_push(fresh).is_ok() {
            return;
        }
        // Full: the one not met for longest makes room; what had outcomes stays ten minutes longer.
        let key = |e: &Episode| e.last_s + if e.outcomes > 0 { 600.0 } else { 0.0 };
        let mut oldest = 0;
        for (index, episode) in self.kept.iter().enumerate() {
            if key(episode) < key(&self.kept[oldest]) {
                oldest = index;
            }
        }
        self.kept[oldest] = fresh;
        self.forgotten = self.forgotten.saturating_add(1);
    }

    /// Something came of a situation: `value` -1..=1 is added to the mean of its nearest prototype.
    pub fn outcome(&mut self, at: &Situation, value: f32, now_s: f32) {
        let found = self.nearest(at).filter(|(_, d)| *d < MERGE).map(|(index, _)| index);
        if found.is_none() {
            self.remember(at, now_s);
        }
        let Some(index) = found.or_else(|| self.nearest(at).map(|(index, _)| index)) else { return };
        let episode = &mut self.kept[index];
        episode.outcomes = (episode.outcomes + 1).min(OUTCOMES_MEMORY);
        episode.value += (value.clamp(-1.0, 1.0) - episode.value) / f32::from(episode.outcomes);
        episode.last_s = now_s;
    }

    /// Expected reward 0..=1 of a situation: mean outcome of the like ones, by likeness. 0 without outcomes and for bad
    /// ones; the predecessor's 0.5 without outcomes and `(r + 1) / 2` made everything half rewarding.
    pub fn reward(&self, at: &Situation) -> f32 {
        let (mut sum, mut weights, mut most) = (0.0, 0.0, 0.0f32);
        for episode in self.kept.iter().filter(|episode| episode.outcomes > 0) {
            let like = libm::expf(-distance(&episode.at, at, self.used));
            sum += like * episode.value;
            weights += like;
            most = most.max(like);
        }
        if weights > 0.0 { (most * sum / weights).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// One bounded step of consolidation: looks at one prototype and merges its nearest like into it. Returns whether
    /// two became one.
    pub fn consolidate_step(&mut self) -> bool {
        if self.kept.len() < 2 {
            return false;
        }
        let here = usize::from(self.cursor) % self.kept.len();
        self.cursor = ((here + 1) % EPISODES) as u8;
        let at = self.kept[here].at;
        let mut like = None;
        for (index, episode) in self.kept.iter().enumerate().filter(|(index, _)| *index != here) {
            let d = distance(&episode.at, &at, self.used);
            if d < MERGE && like.is_none_or(|(_, least)| d < least) {
                like = Some((index, d));
            }
        }
        let Some((other, _)) = like else { return false };
        let (a, b) = (self.kept[here], self.kept[other]);
        let share = b.weight as f32 / (a.weight as f32 + b.weight as f32);
        let mut merged = a;
        for (x, y) in merged.at.iter_mut().zip(&b.at) {
            *x += share * (y - *x);
        }
        merged.weight = a.weight.saturating_add(b.weight);
        merged.last_s = a.last_s.max(b.last_s);
        let outcomes = a.outcomes + b.outcomes;
        if outcomes > 0 {
            merged.value = (a.value * f32::from(a.outcomes) + b.value * f32::from(b.outcomes)) / f32::from(outcomes);
        }
        merged.outcomes = outcomes.min(OUTCOMES_MEMORY);
        self.kept[here] = merged;
        self.kept.swap_remove(other);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scalar situation on the reference's scale, where 10 is one unit.
    fn scalar(x: f32) -> Situation {
        let mut at = [0.0; SITUATION];
        at[0] = x / 10.0;
        at
    }

    fn novelty(memory: &mut Episodes, x: f32) -> f32 {
        memory.novelty(&scalar(x), 0.0, 0.1, 4.0)
    }

    /// Case 2: same numbers as the reference.
    #[test]
    fn the_first_and_the_far_are_new_and_the_repeated_is_not() {
        let mut memory = Episodes::new(1);
        assert_eq!(novelty(&mut memory, 5.0), 1.0);
        assert!((0..50).all(|_| novelty(&mut memory, 5.0) == 0.0));
        assert!((novelty(&mut memory, 100.0) - 0.999925).abs() < 1e-5);
        assert_eq!(novelty(&mut memory, 100.0), 0.0, "now it is remembered");

        let mut other = Episodes::new(1);
        novelty(&mut other, 3.238);
        assert!((novelty(&mut other, 1.508) - 0.158862).abs() < 1e-5);
    }

    #[test]
    fn memory_stays_bounded_and_counts_what_it_forgets() {
        let mut memory = Episodes::new(1);
        (0..500).for_each(|i| memory.outcome(&scalar(i as f32 * 20.0), 0.1, i as f32));
        assert_eq!(memory.len(), EPISODES);
        assert_eq!(memory.forgotten() as usize, 500 - EPISODES);
    }

    /// Case 4. Differences: 0 (not 0.5) without outcomes; 0.85 (not 0.925) from outcomes .8, .9, .85.
    #[test]
    fn reward_comes_from_outcomes_alone() {
        let mut memory = Episodes::new(1);
        novelty(&mut memory, 5.0);
        assert_eq!(memory.reward(&scalar(5.0)), 0.0);
        for (x, value) in [(5.0, 0.8), (5.1, 0.9), (5.2, 0.85)] {
            memory.outcome(&scalar(x), value, 1.0);
        }
        let reward = memory.reward(&scalar(5.15));
        assert!(reward > 0.7 && (reward - 0.85).abs() < 0.02, "{reward}");
        assert!(memory.reward(&scalar(500.0)) < 0.01, "far from every outcome");
        memory.outcome(&scalar(200.0), -1.0, 1.0);
        assert_eq!(memory.reward(&scalar(200.0)), 0.0, "bad outcomes are not rewarding");
    }

    #[test]
    fn consolidation_merges_like_prototypes_and_keeps_their_outcomes() {
        let mut memory = Episodes::new(1);
        for x in [0.0, 100.0, 200.0] {
            memory.remember(&scalar(x), 0.0);
            memory.remember(&scalar(x + 2.0), 0.0);
        }
        memory.outcome(&scalar(0.0), 0.6, 0.0);
        let merged = (0..EPISODES).filter(|_| memory.consolidate_step()).count();
        assert_eq!((merged, memory.len()), (3, 3));
        assert!(memory.reward(&scalar(1.0)) > 0.5);
        assert!(!(0..EPISODES).any(|_| memory.consolidate_step()), "nothing alike is left");
    }
}

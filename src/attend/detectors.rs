//! The measuring parts of salience: tracked noise floors, ranks above them, and the windowed correlation behind
//! conflict. Magnitudes and the time since the one before flow in; scores 0..=1 flow out. Every memory is bounded, every
//! rate is per second of the observations' own time, and nothing depends on how often the loop ticks.

use crate::types::MAX_SOURCES;
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Spreads above the mean at which a magnitude leaves the noise. Spread is the mean absolute deviation, 0.8 σ of
/// Gaussian noise, so this is 4 σ: about one in 30,000 observations.
const FLOOR_SPREADS: f32 = 5.0;
/// Magnitudes kept for ranks, as in the predecessor (last 100).
const RANKED: usize = 100;
/// Shortest spacing of kept magnitudes, s, so that fast sources do not forget within a second.
const RANK_SPACING_S: f32 = 0.05;
/// Samples in a correlation window.
const WINDOW: usize = 20;
/// Least samples that give a correlation.
const WINDOW_LEAST: usize = 5;
/// Share by which an expected correlation follows each new sample.
const EXPECT: f32 = 0.1;

/// Share of the way that an exponential average with time constant `tau_s` goes in `dt_s`.
pub fn ease(dt_s: f32, tau_s: f32) -> f32 {
    if tau_s <= 0.0 { 1.0 } else { 1.0 - libm::expf(-dt_s.max(0.0) / tau_s) }
}

/// Like [`ease`], but a plain mean over the first observations, so that a cold start learns at once.
fn warm(dt_s: f32, tau_s: f32, seen: u32) -> f32 {
    ease(dt_s, tau_s).max(1.0 / (seen.min(1 << 20) as f32 + 1.0))
}

/// How far `magnitude` is above `floor`, 0..1, where `scale` above it is one half.
pub fn saturate(magnitude: f32, floor: f32, scale: f32) -> f32 {
    let above = magnitude - floor;
    if above > 0.0 { above / (above + scale.max(0.0)) } else { 0.0 }
}

/// The noise floor of a magnitude: mean and mean absolute deviation, exponentially averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    mean: f32,
    spread: f32,
    seen: u32,
}

impl Floor {
    /// What the noise does not exceed.
    pub fn upper(&self) -> f32 {
        self.mean + FLOOR_SPREADS * self.spread
    }

    /// Learns one magnitude. Before anything is known of the spread it is taken as half the first magnitude.
    pub fn learn(&mut self, magnitude: f32, dt_s: f32, tau_s: f32) {
        let share = warm(dt_s, tau_s, self.seen);
        if self.seen == 0 {
            self.spread = magnitude.abs() * 0.5;
        } else {
            self.spread += share * ((magnitude - self.mean).abs() - self.spread);
        }
        self.mean += share * (magnitude - self.mean);
        self.seen = self.seen.saturating_add(1);
    }
}

/// Rank of a magnitude among the recent ones, counted only above the noise floor.
///
/// The predecessor ranked without a floor, so that the loudest of any noise scored 1; and before ten observations it
/// divided by an absolute 10. Here rank × saturation above the floor replaces both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    floor: Floor,
    recent: ArrayVec<f32, RANKED>,
    next: u32,
    since_kept_s: f32,
}

impl Ranked {
    /// Scores a magnitude, then learns it. `unit` is the height above the floor that scores one half when the floor
    /// is lower than that. The first magnitude has nothing to be compared with and scores 0.
    pub fn score(&mut self, magnitude: f32, dt_s: f32, tau_s: f32, unit: f32) -> f32 {
        let upper = self.floor.upper();
        let strong = if self.floor.seen == 0 { 0.0 } else { saturate(magnitude, upper, unit.max(upper)) };
        let score = if strong > 0.0 {
            let below = self.recent.iter().filter(|kept| **kept < magnitude).count();
            strong * below as f32 / self.recent.len().max(1) as f32
        } else {
            0.0
        };
        self.floor.learn(magnitude, dt_s, tau_s);
        self.since_kept_s += dt_s;
        if self.recent.is_empty() || self.since_kept_s >= RANK_SPACING_S {
            self.since_kept_s = 0.0;
            if self.recent.try_push(magnitude).is_err() {
                self.recent[self.next as usize % RANKED] = magnitude;
            }
            self.next = (self.next + 1) % RANKED as u32;
        }
        score
    }
}

/// A vector signal with a running mean and noise floor per element; says how far a new value leaves them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cells {
    mean: Vec<f32>,
    floor: Vec<f32>,
    seen: u32,
}

/// How [`Cells`] measure.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// Time constant of the mean, s.
    pub mean_s: f32,
    /// Time constant of the floors, s.
    pub floor_s: f32,
    /// Resolution of the signal: smaller differences are nothing.
    pub step: f32,
    /// Only what is above the mean counts.
    pub rising: bool,
}

/// Mean deviations that an element's difference must exceed.
const CELL_SPREADS: f32 = 3.0;

impl Cells {
    /// For vectors of `len` elements; allocates here and never again.
    pub fn new(len: usize) -> Cells {
        Cells { mean: vec![0.0; len], floor: vec![0.0; len], seen: 0 }
    }

    /// The running mean of each element.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Root mean square, over the elements, of what exceeds each element's floor; then learns `values`.
    pub fn excess(&mut self, values: impl Iterator<Item = f32>, dt_s: f32, how: Measure) -> f32 {
        let (follow, learn) = (warm(dt_s, how.mean_s, self.seen), warm(dt_s, how.floor_s, self.seen));
        let first = self.seen == 0;
        let mut sum = 0.0;
        for ((mean, floor), value) in self.mean.iter_mut().zip(&mut self.floor).zip(values) {
            if first {
                *mean = value;
                continue;
            }
            let difference = value - *mean;
            let distance = difference.abs();
            if difference > 0.0 || !how.rising {
                let over = (distance - CELL_SPREADS * *floor - how.step).max(0.0);
                sum += over * over;
            }
            *floor += learn * (distance - *floor);
            *mean += follow * difference;
        }
        self.seen = self.seen.saturating_add(1);
        libm::sqrtf(sum / self.mean.len().max(1) as f32)
    }
}

/// Conflict: sources that used to move together no longer do, or the other way round. Pearson's r over a sliding window
/// against its expected value, per pair.
///
/// The predecessor compared with an expectation of 0 at first, so that two sources that agree were in conflict, and
/// appended each sample once per source. Here the first correlation becomes the expectation, and each sample counts once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    window: Vec<ArrayVec<f32, WINDOW>>,
    next: u32,
    expected: Vec<Option<f32>>,
    score: [f32; MAX_SOURCES],
}

impl Conflict {
    /// For `sources` sources, at most [`MAX_SOURCES`].
    pub fn new(sources: usize) -> Conflict {
        let sources = sources.min(MAX_SOURCES);
        Conflict {
            window: vec![ArrayVec::new(); sources],
            next: 0,
            expected: vec![None; sources * sources],
            score: [0.0; MAX_SOURCES],
        }
    }

    /// Takes one sample of every source; call it at a fixed rate in time.
    pub fn sample(&mut self, values: &[f32]) {
        let sources = self.window.len();
        for (window, value) in self.window.iter_mut().zip(values) {
            if window.try_push(*value).is_err() {
                window[self.next as usize % WINDOW] = *value;
            }
        }
        self.next = (self.next + 1) % WINDOW as u32;
        self.score = [0.0; MAX_SOURCES];
        for a in 0..sources {
            for b in a + 1..sources {
                let Some(r) = pearson(&self.window[a], &self.window[b]) else { continue };
                let expected = &mut self.expected[a * sources + b];
                let odd = expected.map_or(0.0, |expected| (r - expected).abs().min(1.0));
                *expected = Some(expected.map_or(r, |expected| expected + EXPECT * (r - expected)));
                self.score[a] = self.score[a].max(odd);
                self.score[b] = self.score[b].max(odd);
            }
        }
    }

    /// Conflict of source `index` with the others, 0..=1.
    pub fn of(&self, index: usize) -> f32 {
        self.score.get(index).copied().unwrap_or(0.0)
    }
}

/// Pearson's correlation; `None` with too few samples or a constant side.
fn pearson(a: &[f32], b: &[f32]) -> Option<f32> {
    let n = a.len();
    if n < WINDOW_LEAST || n != b.len() {
        return None;
    }
    let (mut sum_a, mut sum_b) = (0.0f32, 0.0f32);
    for (x, y) in a.iter().zip(b) {
        sum_a += x;
        sum_b += y;
    }
    let (mean_a, mean_b) = (sum_a / n as f32, sum_b / n as f32);
    let (mut aa, mut bb, mut ab) = (0.0f32, 0.0f32, 0.0f32);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    let norm = libm::sqrtf(aa * bb);
    (norm > 1e-6).then(|| (ab / norm).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Measure = Measure { mean_s: 0.3, floor_s: 4.0, step: 0.0, rising: false };

    fn surprise(series: impl Iterator<Item = f32>) -> f32 {
        let (mut cells, mut ranked) = (Cells::new(1), Ranked::default());
        series.fold(0.0, |_, x| {
            let e = cells.excess(std::iter::once(x), 0.1, ALONE);
            ranked.score(e, 0.1, 4.0, 0.0)
        })
    }

    /// Case 1 of the reference. Difference: a steady ramp is predictable, so it scores 0 here, not 0.1 to 0.32.
    #[test]
    fn a_jump_after_stillness_surprises_and_a_ramp_does_not() {
        assert!(surprise((0..50).map(|_| 0.0).chain([10.0])) > 0.7);
        assert_eq!(surprise((0..60).map(|_| 7.0)), 0.0);
        assert!(surprise((0..50).map(|i| i as f32)) < 0.05);
    }

    /// Case 3. Difference: the first observation alone (5.0) scores 0, not 0.5, for want of an absolute scale.
    #[test]
    fn a_strong_value_among_weak_ones_arouses() {
        let mut arousal = Ranked::default();
        for i in 0..50 {
            arousal.score((i * 37 % 50) as f32 / 50.0, 0.1, 4.0, 0.0);
        }
        assert!(arousal.score(100.0, 0.1, 4.0, 0.0) > 0.9);
        assert_eq!(Ranked::default().score(5.0, 0.1, 4.0, 0.0), 0.0);
    }

    #[test]
    fn noise_alone_ranks_as_nothing() {
        let (mut ranked, mut seed, mut sum, mut n) = (Ranked::default(), 1u32, 0.0, 0);
        for i in 0..4000 {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let score = ranked.score(10.0 + (seed >> 16) as f32 / 65536.0, 0.02, 4.0, 0.5);
            if i > 100 {
                sum += score;
                n += 1;
            }
        }
        assert!(sum / (n as f32) < 0.001, "{sum} over {n}");
    }

    /// Case 5: one sensor alone has no conflict; sensors that agreed and then oppose have.
    #[test]
    fn opposing_what_used_to_agree_is_conflict() {
        let mut one = Conflict::new(1);
        (0..30).for_each(|i| one.sample(&[libm::sinf(i as f32)]));
        assert_eq!(one.of(0), 0.0);

        let mut two = Conflict::new(2);
        for i in 0..30 {
            let x = libm::sinf(i as f32 * 0.3);
            two.sample(&[x, x]);
        }
        assert!(two.of(0) < 1e-3, "agreement as ever is no conflict: {}", two.of(0));
        let mut last = [0.0; 20];
        for (i, slot) in last.iter_mut().enumerate() {
            let x = libm::sinf((30 + i) as f32 * 0.3);
            two.sample(&[x, -x]);
            *slot = two.of(1);
        }
        assert!(last[10..].iter().sum::<f32>() / 10.0 > 0.5, "{last:?}");
    }

    #[test]
    fn a_constant_side_has_no_correlation() {
        let mut two = Conflict::new(2);
        (0..40).for_each(|i| two.sample(&[0.0, libm::sinf(i as f32)]));
        assert_eq!(two.of(0), 0.0);
    }
}

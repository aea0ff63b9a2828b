//! SNARC salience of each source from what it really shows: luma and motion grids, looming, band levels, voice, the
//! robot's own values. Features flow in as they arrive; five parts and their weighted sum, each 0..=1, flow out. What
//! repeats, and what stays within the tracked noise, scores 0. Rates are per second of capture time.

use super::detectors::{Cells, Measure, Ranked, saturate};
use super::memory::{Episodes, SITUATION, Situation};
use crate::config::{AttentionConfig, GateConfig};
use crate::types::{
    AudioFeatures, BANDS, CameraFeatures, GRID_COLS, GRID_ROWS, Nanos, Salience, SourceId, SourceKind, Status,
};
use serde::{Deserialize, Serialize};

/// Cells of a luma or motion grid.
const CELLS: usize = GRID_COLS * GRID_ROWS;
/// Luma and motion are pooled to this many columns and rows for memory.
const POOL: (usize, usize) = (4, 3);
/// Luma difference of a pooled region that is one unit of memory.
const LUMA_UNIT: f32 = 32.0;
/// Motion of a pooled region, in quarter steps, that is one unit of memory.
const MOTION_UNIT: f32 = 60.0;
/// Root mean square luma change over the grid that scores one half: 60 steps in 1 % of the picture's cells give 6.
const CHANGE_UNIT: f32 = 4.0;
/// Root mean square motion over the grid, in quarter steps, that scores one half.
const MOVING_UNIT: f32 = 10.0;
/// Band levels never count as lower than this, hundredths of a decibel.
const SILENCE_CDB: i16 = -9_000;
/// Difference of band levels that is one unit of memory, dB.
const BAND_UNIT_DB: f32 = 12.0;
/// Rise or change of band levels that scores one half, dB.
const LOUD_UNIT_DB: f32 = 6.0;
/// Resolution of band levels of a 20 ms block, dB.
const BAND_STEP_DB: f32 = 2.0;
/// Longest gap between two observations that counts as time passed, s.
const LONGEST_GAP_S: f32 = 2.0;

/// The five parts before weighting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Snarc {
    /// Unlike what was predicted.
    pub surprise: f32,
    /// Unlike anything remembered.
    pub novelty: f32,
    /// Strong.
    pub arousal: f32,
    /// Led to good outcomes before.
    pub reward: f32,
    /// At odds with the other sources.
    pub conflict: f32,
}

impl Snarc {
    /// In the order of `AttentionConfig::weights`.
    pub fn parts(&self) -> [f32; 5] {
        [self.surprise, self.novelty, self.arousal, self.reward, self.conflict]
    }

    /// What happens at all: nothing is rewarding or in conflict while nothing happens.
    pub fn activity(&self) -> f32 {
        self.surprise.max(self.novelty).max(self.arousal)
    }

    /// Weighted sum, 0..=1.
    pub fn total(&self, weights: &[f32; 5]) -> f32 {
        self.parts().iter().zip(weights).map(|(part, weight)| part * weight).sum::<f32>().clamp(0.0, 1.0)
    }
}

/// Salience of one source and all it has learned of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceSalience {
    /// Which source.
    pub source: SourceId,
    /// What it delivers.
    pub kind: SourceKind,
    /// Capture of the newest observation; `None` before the first.
    pub captured: Option<Nanos>,
    /// Sequence number of the newest observation.
    pub seq: u64,
    /// What the newest observation scored.
    pub snarc: Snarc,
    /// What the source shows now, as memory keeps it.
    pub situation: Situation,
    /// Prototypes of what it has shown.
    pub episodes: Episodes,
    predicted: Cells,
    strength: Cells,
    surprise: Ranked,
    arousal: Ranked,
    voice: Ranked,
}

impl SourceSalience {
    /// For one source of the configuration; allocates here and never again.
    pub fn new(source: SourceId, kind: SourceKind) -> SourceSalience {
        let (elements, used) = match kind {
            SourceKind::Camera => (CELLS, SITUATION),
            SourceKind::Microphone => (BANDS, BANDS),
            SourceKind::Status => (4, 4),
        };
        SourceSalience {
            source,
            kind,
            captured: None,
            seq: 0,
            snarc: Snarc::default(),
            situation: [0.0; SITUATION],
            episodes: Episodes::new(used),
            predicted: Cells::new(elements),
            strength: Cells::new(elements),
            surprise: Ranked::default(),
            arousal: Ranked::default(),
            voice: Ranked::default(),
        }
    }

    /// Seconds since the observation before; a source that was away for long starts no storm when it returns.
    fn step(&mut self, captured: Nanos, seq: u64) -> f32 {
        let dt = self.captured.map_or(0.0, |before| captured.since(before).as_s() as f32);
        self.captured = Some(self.captured.map_or(captured, |before| before.max(captured)));
        self.seq = seq;
        dt.clamp(0.0, LONGEST_GAP_S)
    }

    /// Takes one frame's features. A growing region (looming) counts as strong at once, without a floor: its scale is
    /// the gate's own threshold.
    pub fn see(&mut self, features: &CameraFeatures, attention: &AttentionConfig, gate: &GateConfig) {
        let dt = self.step(features.captured, features.seq);
        let floor_s = attention.floor_s;
        let luma = || features.luma.iter().flatten().map(|v| f32::from(*v));
        let motion = || features.motion.iter().flatten().map(|v| f32::from(*v));
        let how = Measure { mean_s: attention.predictor_s, floor_s, step: 1.0, rising: false };
        let change = self.predicted.excess(luma(), dt, how);
        let how = Measure { mean_s: floor_s, floor_s, step: 2.0, rising: true };
        let moving = self.strength.excess(motion(), dt, how);

        self.situation = pooled(&features.luma, &features.motion, self.strength.mean());
        self.snarc.surprise = self.surprise.score(change, dt, floor_s, CHANGE_UNIT);
        self.snarc.arousal = self.arousal.score(moving, dt, floor_s, MOVING_UNIT);
        if features.looming.cells >= gate.looming_cells {
            let growth = features.looming.growth_permille_per_s.max(0) as f32;
            let strong = saturate(growth, 0.0, gate.looming_permille_per_s.max(1) as f32 / 2.0);
            self.snarc.arousal = self.snarc.arousal.max(strong);
        }
        self.remember(dt, floor_s);
    }

    /// Takes one block's features. What the loudspeaker explains of it counts for nothing.
    pub fn hear(&mut self, features: &AudioFeatures, attention: &AttentionConfig) {
        let dt = self.step(features.captured, features.seq);
        let floor_s = attention.floor_s;
        let foreign = 1.0 - f32::from(features.echo_permille.min(1000)) / 1000.0;
        let bands = || features.band_cdb.iter().map(|cdb| f32::from((*cdb).max(SILENCE_CDB)) / 100.0);
        let how = Measure { mean_s: attention.predictor_s, floor_s, step: BAND_STEP_DB, rising: false };
        let change = self.predicted.excess(bands(), dt, how);
        let how = Measure { mean_s: floor_s, floor_s, step: BAND_STEP_DB, rising: true };
        let loud = self.strength.excess(bands(), dt, how);

        // Memory keeps the smoothed spectrum, so that each sound of a sentence is no event of its own.
        for (slot, level) in self.situation.iter_mut().zip(self.predicted.mean()) {
            *slot = level / BAND_UNIT_DB;
        }
        self.snarc.surprise = foreign * self.surprise.score(change, dt, floor_s, LOUD_UNIT_DB);
        let loud = self.arousal.score(loud, dt, floor_s, LOUD_UNIT_DB);
        let voice = self.voice.score(f32::from(features.voice_permille) / 1000.0, dt, floor_s, 0.25);
        self.snarc.arousal = foreign * loud.max(voice);
        self.remember(dt, floor_s);
        self.snarc.novelty *= foreign;
    }

    /// Takes one report of the robot's own values. Unknown values count as unchanged.
    pub fn feel(&mut self, status: &Status, attention: &AttentionConfig) {
        let dt = self.step(status.captured, status.seq);
        let mut now = [self.situation[0], self.situation[1], self.situation[2], self.situation[3]];
        // One unit: 25 % of charge, a factor of 2 in range, a bumper, the emergency stop.
        let values = [
            status.battery_percent.map(|percent| f32::from(percent) / 25.0),
            status.range_mm.map(|mm| libm::log2f(mm.clamp(1, 20_000) as f32)),
            status.bumper.map(|on| f32::from(u8::from(on)) * 2.0),
            status.estop.map(|on| f32::from(u8::from(on)) * 2.0),
        ];
        for (slot, value) in now.iter_mut().zip(values) {
            *slot = value.unwrap_or(*slot);
        }
        self.situation[..4].copy_from_slice(&now);
        let floor_s = attention.floor_s;
        let how = Measure { mean_s: attention.predictor_s, floor_s, step: 0.02, rising: false };
        let change = self.predicted.excess(now.into_iter(), dt, how);
        self.snarc.surprise = self.surprise.score(change, dt, floor_s, 0.25);
        let urgent = status.bumper == Some(true) || status.estop == Some(true);
        self.snarc.arousal = if urgent { self.snarc.surprise } else { 0.0 };
        self.remember(dt, floor_s);
    }

    fn remember(&mut self, dt: f32, floor_s: f32) {
        let now_s = self.captured.unwrap_or_default().as_s() as f32;
        self.snarc.novelty = self.episodes.novelty(&self.situation, now_s, dt, floor_s);
        self.snarc.reward = self.episodes.reward(&self.situation) * self.snarc.activity();
    }

    /// The source has stopped delivering: what it showed last says nothing any more.
    pub fn silence(&mut self) {
        self.snarc = Snarc::default();
    }

    /// Something good (up to 1) or bad (down to -1) came of what the source shows now.
    pub fn outcome(&mut self, value: f32, now: Nanos) {
        self.episodes.outcome(&self.situation, value, now.as_s() as f32);
    }

    /// The numbers for the record.
    pub fn report(&self, weights: &[f32; 5], trust: f32) -> Salience {
        let Snarc { surprise, novelty, arousal, reward, conflict } = self.snarc;
        Salience {
            source: self.source,
            surprise,
            novelty,
            arousal,
            reward,
            conflict,
            total: self.snarc.total(weights),
            trust,
        }
    }
}

/// Luma, and motion above its running mean, pooled to a coarse grid and scaled to units of memory.
fn pooled(luma: &[[u8; GRID_COLS]; GRID_ROWS], motion: &[[u8; GRID_COLS]; GRID_ROWS], usual: &[f32]) -> Situation {
    let (cols, rows) = (GRID_COLS / POOL.0, GRID_ROWS / POOL.1);
    let mut at = [0.0; SITUATION];
    for row in 0..GRID_ROWS {
        for col in 0..GRID_COLS {
            let region = (row / rows) * POOL.0 + col / cols;
            at[region] += f32::from(luma[row][col]);
            let above = f32::from(motion[row][col]) - usual.get(row * GRID_COLS + col).copied().unwrap_or(0.0);
            at[POOL.0 * POOL.1 + region] += above.max(0.0);
        }
    }
    let each = (cols * rows) as f32;
    let (light, moving) = at.split_at_mut(POOL.0 * POOL.1);
    light.iter_mut().for_each(|v| *v /= each * LUMA_UNIT);
    moving.iter_mut().for_each(|v| *v /= each * MOTION_UNIT);
    at
}

#[cfg(test)]
mod tests;

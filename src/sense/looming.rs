//! What grows in the picture, from motion alone. Reduced frames flow in; growth, size and bearing of the moving region
//! flow out. `f64` from `libm` in a fixed order, rounded to integers at the end.
//!
//! The moving region is the largest connected set of cells that differ from the frame about 100 ms before. Its width
//! (of its upper part: legs swing) and height are followed for 0.6 s. An approaching thing widens to both sides
//! and grows in height by the same rate (Lee 1976); a sideways walker moves both edges the same way, a waving arm
//! changes one of the two, so the smaller growth counts, less the standard error of its fit.

use super::features::{COLS, Luma, NOISE_LUMA, ROWS};
use crate::types::{Looming, Nanos};
use std::collections::VecDeque;

/// Compare with the newest frame at least this old.
const BASELINE: Nanos = Nanos::from_ms(90);
/// Growth is fitted over this long.
const HISTORY: Nanos = Nanos::from_ms(600);
/// Less history than this says nothing.
const LEAST_HISTORY: Nanos = Nanos::from_ms(250);
/// A gap this long starts anew.
const LONGEST_GAP: Nanos = Nanos::from_ms(250);
/// Growth seen before the thing reached the side of the picture counts this long.
const BRIDGED: Nanos = Nanos::from_ms(300);
/// Frames kept: 0.6 s at up to 60 Hz would be 36; denser frames are skipped.
const KEPT: usize = 24;
/// Regions smaller than this many cells of the reduced frame are noise or far away.
const LEAST_CELLS: u16 = 24;
/// Narrower regions are too small to measure, cells.
const LEAST_WIDTH: u8 = 4;
/// One grid cell of the features is this many reduced cells.
const GRID_CELL: u16 = 25;

/// Extent of a moving region in one frame.
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    at: Nanos,
    cells: u16,
    left: u8,
    right: u8,
    top: u8,
    bottom: u8,
    /// Extent of the upper part.
    upper_left: u8,
    upper_right: u8,
}

impl Region {
    fn touches(&self, other: &Region) -> bool {
        self.left <= other.right && other.left <= self.right && self.top <= other.bottom && other.top <= self.bottom
    }

    fn width(&self) -> u8 {
        self.upper_right - self.upper_left + 1
    }

    fn at_a_side(&self) -> bool {
        self.upper_left == 0 || usize::from(self.upper_right) == COLS - 1
    }

    fn at_top_or_bottom(&self) -> bool {
        self.top == 0 || usize::from(self.bottom) == ROWS - 1
    }
}

/// Follows the largest moving region of one camera.
#[derive(Debug, Clone)]
pub struct LoomingTracker {
    fov_mrad: i32,
    frames: VecDeque<(Nanos, Luma)>,
    track: VecDeque<Region>,
    mask: Box<[[bool; COLS]; ROWS]>,
    stack: Vec<(u8, u8)>,
}

impl LoomingTracker {
    /// A tracker for a camera with this horizontal field of view in degrees.
    pub fn new(fov_deg: f32) -> LoomingTracker {
        LoomingTracker {
            fov_mrad: (f64::from(fov_deg) * 1_000.0 * core::f64::consts::PI / 180.0) as i32,
            frames: VecDeque::with_capacity(KEPT + 1),
            track: VecDeque::with_capacity(KEPT + 1),
            mask: Box::new([[false; COLS]; ROWS]),
            stack: Vec::with_capacity(COLS * ROWS),
        }
    }

    /// Forgets all frames.
    pub fn reset(&mut self) {
        self.frames.clear();
        self.track.clear();
    }

    /// Takes the next frame and says what grows.
    pub fn push(&mut self, at: Nanos, luma: &Luma) -> Looming {
        if self.frames.back().is_some_and(|last| at <= last.0 || at.since(last.0) > LONGEST_GAP) {
            self.reset();
        }
        let baseline = self.frames.iter().rposition(|f| at.since(f.0) >= BASELINE);
        let region = baseline.and_then(|index| {
            self.mark(luma, index);
            self.largest(at)
        });
        self.keep(at, luma);
        let Some(region) = region else {
            self.track.clear();
            return Looming::default();
        };
        if self.track.back().is_some_and(|last| !last.touches(&region)) {
            self.track.clear();
        }
        while self.track.front().is_some_and(|first| at.since(first.at) > HISTORY) || self.track.len() >= KEPT {
            self.track.pop_front();
        }
        self.track.push_back(region);
        Looming {
            growth_permille_per_s: self.growth(),
            cells: region.cells / GRID_CELL,
            bearing_mrad: self.bearing(&region),
        }
    }

    fn keep(&mut self, at: Nanos, luma: &Luma) {
        // At high frame rates only what spans the baseline with enough frames is kept.
        if self.frames.back().is_some_and(|last| at.since(last.0) < Nanos::from_ms(12)) {
            return;
        }
        let mut kept = if self.frames.len() >= KEPT {
            self.frames.pop_front().map_or_else(Luma::default, |f| f.1)
        } else {
            Luma::default()
        };
        kept.0.clone_from(&luma.0);
        self.frames.push_back((at, kept));
    }

    fn mark(&mut self, luma: &Luma, baseline: usize) {
        let before = &self.frames[baseline].1;
        for ((mask, a), b) in self.mask.iter_mut().zip(luma.0.iter()).zip(before.0.iter()) {
            for ((m, a), b) in mask.iter_mut().zip(a).zip(b) {
                *m = a.abs_diff(*b) > NOISE_LUMA;
            }
        }
    }

    /// The largest connected region of the mask; cells up to two apart are connected. Clears the mask.
    fn largest(&mut self, at: Nanos) -> Option<Region> {
        let mut best: Option<(Region, u64)> = None;
        let mut best_rows = [(u8::MAX, 0u8); ROWS];
        for y in 0..ROWS {
            for x in 0..COLS {
                if !self.mask[y][x] {
                    continue;
                }
                let mut rows = [(u8::MAX, 0u8); ROWS];
                let region = self.flood(at, x as u8, y as u8, &mut rows);
                let area = u64::from(region.right - region.left + 1) * u64::from(region.bottom - region.top + 1);
                if region.cells >= LEAST_CELLS && best.is_none_or(|(_, size)| area > size) {
                    best = Some((region, area));
                    best_rows = rows;
                }
            }
        }
        let (mut region, _) = best?;
        let upper = region.top + (region.bottom - region.top) * 3 / 5;
        (region.upper_left, region.upper_right) = best_rows[usize::from(region.top)..=usize::from(upper)]
            .iter()
            .fold((u8::MAX, 0), |(left, right), row| (left.min(row.0), right.max(row.1)));
        region.cells = u16::from(region.right - region.left + 1) * u16::from(region.bottom - region.top + 1);
        Some(region)
    }

    fn flood(&mut self, at: Nanos, x: u8, y: u8, rows: &mut [(u8, u8); ROWS]) -> Region {
        let mut region = Region { at, left: x, right: x, top: y, bottom: y, ..Region::default() };
        self.mask[usize::from(y)][usize::from(x)] = false;
        self.stack.push((x, y));
        while let Some((x, y)) = self.stack.pop() {
            region.cells += 1;
            region.left = region.left.min(x);
            region.right = region.right.max(x);
            region.top = region.top.min(y);
            region.bottom = region.bottom.max(y);
            let row = &mut rows[usize::from(y)];
            *row = (row.0.min(x), row.1.max(x));
            for ny in y.saturating_sub(2)..=(y + 2).min(ROWS as u8 - 1) {
                for nx in x.saturating_sub(2)..=(x + 2).min(COLS as u8 - 1) {
                    let cell = &mut self.mask[usize::from(ny)][usize::from(nx)];
                    if *cell {
                        *cell = false;
                        self.stack.push((nx, ny));
                    }
                }
            }
        }
        region
    }

    fn growth(&self) -> i32 {
        // A thing cut off by the side of the picture cannot be measured: what it did before counts for a while.
        let whole = self.track.iter().take_while(|r| !r.at_a_side()).count();
        let (Some(first), Some(now)) = (self.track.front(), self.track.back()) else { return 0 };
        let Some(last) = whole.checked_sub(1).and_then(|index| self.track.get(index)) else { return 0 };
        let measurable = self.track.iter().take(whole).all(|r| r.width() >= LEAST_WIDTH);
        if whole < 3 || !measurable || last.at.since(first.at) < LEAST_HISTORY || now.at.since(last.at) > BRIDGED {
            return 0;
        }
        // Both edges must go outward.
        let left = i32::from(first.upper_left) - i32::from(last.upper_left);
        let right = i32::from(last.upper_right) - i32::from(first.upper_right);
        if left < 1 || right < 1 || 5 * left.min(right) < left.max(right) {
            return 0;
        }
        let width = self.slope(whole, |r| f64::from(r.width()));
        let height = if self.track.iter().take(whole).any(Region::at_top_or_bottom) {
            width
        } else {
            self.slope(whole, |r| f64::from(r.bottom - r.top + 1))
        };
        (libm::floor(width.min(height) * 1_000.0) as i32).max(0)
    }

    /// Slope of the logarithm of `size` per second over the first `count` regions by least squares, less its standard
    /// error.
    fn slope(&self, count: usize, size: impl Fn(&Region) -> f64) -> f64 {
        let origin = self.track.front().map_or(Nanos::ZERO, |r| r.at);
        let n = count as f64;
        let points = || self.track.iter().take(count).map(|r| (r.at.since(origin).0 as f64 / 1e9, libm::log(size(r))));
        let (mut mean_t, mut mean_y) = (0.0, 0.0);
        for (t, y) in points() {
            mean_t += t / n;
            mean_y += y / n;
        }
        let (mut tt, mut ty, mut yy) = (0.0, 0.0, 0.0);
        for (t, y) in points() {
            tt += (t - mean_t) * (t - mean_t);
            ty += (t - mean_t) * (y - mean_y);
            yy += (y - mean_y) * (y - mean_y);
        }
        if tt <= 0.0 {
            return 0.0;
        }
        let slope = ty / tt;
        let rest = (yy - slope * ty).max(0.0) / (n - 2.0).max(1.0);
        slope - libm::sqrt(rest / tt)
    }

    fn bearing(&self, region: &Region) -> i16 {
        // Pinhole: tan(bearing) = offset / half width · tan(half the field of view).
        let centre = (f64::from(region.left) + f64::from(region.right) + 1.0) / 2.0;
        let offset = centre / (COLS as f64 / 2.0) - 1.0;
        let half = libm::tan(f64::from(self.fov_mrad) / 2_000.0);
        libm::floor(libm::atan(offset * half) * 1_000.0 + 0.5) as i16
    }
}

//! Features of a camera frame: a small luma grid, a motion grid and what grows in the picture. Frames flow in, in order;
//! `CameraFeatures` flow out. Integers only, so the same frames give the same bytes on every machine.
//!
//! A frame is first reduced to 80×60 luma cells ([`Luma`]), each the mean of a few evenly placed pixels: enough to
//! average sensor noise away, few enough to stay far below 300 µs.

use super::looming::LoomingTracker;
use crate::types::{CameraFeatures, Frame, GRID_COLS, GRID_ROWS, Grid, SourceId};

/// Columns of the reduced frame.
pub const COLS: usize = 80;
/// Rows of the reduced frame.
pub const ROWS: usize = 60;
/// Reduced cells per grid cell, both ways.
const SIDE: usize = COLS / GRID_COLS;
/// A cell's change below this is sensor noise: 4 standard deviations of a difference of two means of 16 pixels that
/// each have σ = 4 of 255.
pub const NOISE_LUMA: u8 = 5;
const _: () = assert!(COLS == GRID_COLS * SIDE && ROWS == GRID_ROWS * SIDE);

/// A frame reduced to mean luma per cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luma(pub Box<[[u8; COLS]; ROWS]>);

impl Default for Luma {
    fn default() -> Self {
        Luma(Box::new([[0; COLS]; ROWS]))
    }
}

impl Luma {
    /// Reduces an RGB frame. A frame with too few bytes for its size is taken as black.
    pub fn reduce(&mut self, frame: &Frame) {
        let (width, height) = (frame.width as usize, frame.height as usize);
        if width == 0 || height == 0 || frame.bytes.len() < width * height * 3 {
            self.0.iter_mut().for_each(|row| row.fill(0));
            return;
        }
        // About 4 × 4 pixels per cell, spread evenly.
        let step_y = (height / (4 * ROWS)).max(1);
        let step_x = (width / (4 * COLS)).max(1);
        for (row, out) in self.0.iter_mut().enumerate() {
            let ys = span(row, ROWS, height);
            let mut sums = [0u32; COLS];
            let mut rows = 0;
            for y in ys.step_by(step_y) {
                let line = &frame.bytes[y * width * 3..(y + 1) * width * 3];
                if width == 8 * COLS {
                    add_line_640(line, &mut sums);
                } else {
                    add_line(line, width, step_x, &mut sums);
                }
                rows += 1;
            }
            for (col, (cell, sum)) in out.iter_mut().zip(sums).enumerate() {
                let count = rows * span(col, COLS, width).step_by(step_x).len() as u32;
                // Weights sum to 256; rounded to the nearest.
                *cell = ((sum + 128 * count) / (256 * count)) as u8;
            }
        }
    }
}

/// Pixels of cell `index` of `cells` over `length` pixels; at least one.
fn span(index: usize, cells: usize, length: usize) -> std::ops::Range<usize> {
    let from = (index * length / cells).min(length - 1);
    from..((index + 1) * length / cells).max(from + 1)
}

/// BT.601 luma, times 256.
fn luma(pixel: &[u8]) -> u32 {
    77 * u32::from(pixel[0]) + 150 * u32::from(pixel[1]) + 29 * u32::from(pixel[2])
}

fn add_line(line: &[u8], width: usize, step: usize, sums: &mut [u32; COLS]) {
    for (col, sum) in sums.iter_mut().enumerate() {
        for x in span(col, COLS, width).step_by(step) {
            *sum += luma(&line[3 * x..3 * x + 3]);
        }
    }
}

/// The common width: 8 pixels per cell, every second one.
fn add_line_640(line: &[u8], sums: &mut [u32; COLS]) {
    for (sum, cell) in sums.iter_mut().zip(line.chunks_exact(24)) {
        *sum += luma(&cell[0..3]) + luma(&cell[6..9]) + luma(&cell[12..15]) + luma(&cell[18..21]);
    }
}

/// Computes the features of one camera, frame by frame.
#[derive(Debug, Clone)]
pub struct CameraFeatureExtractor {
    source: SourceId,
    luma: Luma,
    before: Luma,
    looming: LoomingTracker,
    seen: Option<(u64, u32, u32)>,
}

impl CameraFeatureExtractor {
    /// An extractor for the camera `source` with frames of `width`×`height` pixels (only a first guess: frames say their
    /// own size) and a horizontal field of view of `fov_deg` degrees.
    pub fn new(source: SourceId, width: u32, height: u32, fov_deg: f32) -> CameraFeatureExtractor {
        let _ = (width, height);
        CameraFeatureExtractor {
            source,
            luma: Luma::default(),
            before: Luma::default(),
            looming: LoomingTracker::new(fov_deg),
            seen: None,
        }
    }

    /// Features of the next frame. After a change of size the first frame counts as still.
    pub fn extract(&mut self, frame: &Frame) -> CameraFeatures {
        std::mem::swap(&mut self.luma, &mut self.before);
        self.luma.reduce(frame);
        let known = self.seen.is_some_and(|(_, width, height)| (width, height) == (frame.width, frame.height));
        if !known {
            self.before.0.clone_from(&self.luma.0);
            self.looming.reset();
        }
        let lost = self.seen.map_or(0, |(seq, ..)| frame.seq.saturating_sub(seq + 1));
        self.seen = Some((frame.seq, frame.width, frame.height));
        CameraFeatures {
            source: self.source,
            seq: frame.seq,
            captured: frame.captured,
            stamp: frame.stamp,
            luma: mean_grid(&self.luma),
            motion: motion_grid(&self.luma, &self.before),
            looming: self.looming.push(frame.captured, &self.luma),
            lost: lost.min(u64::from(u16::MAX)) as u16,
        }
    }
}

fn mean_grid(luma: &Luma) -> Grid {
    let mut grid = [[0; GRID_COLS]; GRID_ROWS];
    for (row, cells) in grid.iter_mut().enumerate() {
        let mut sums = [0u32; GRID_COLS];
        for line in &luma.0[row * SIDE..(row + 1) * SIDE] {
            for (sum, part) in sums.iter_mut().zip(line.chunks_exact(SIDE)) {
                *sum += part.iter().map(|v| u32::from(*v)).sum::<u32>();
            }
        }
        let count = (SIDE * SIDE) as u32;
        for (cell, sum) in cells.iter_mut().zip(sums) {
            *cell = ((sum + count / 2) / count) as u8;
        }
    }
    grid
}

/// Mean of what changed beyond sensor noise, in quarters of a luma step.
fn motion_grid(now: &Luma, before: &Luma) -> Grid {
    let mut grid = [[0; GRID_COLS]; GRID_ROWS];
    for (row, cells) in grid.iter_mut().enumerate() {
        let mut sums = [0u32; GRID_COLS];
        for (a, b) in now.0[row * SIDE..(row + 1) * SIDE].iter().zip(&before.0[row * SIDE..(row + 1) * SIDE]) {
            for ((sum, a), b) in sums.iter_mut().zip(a.chunks_exact(SIDE)).zip(b.chunks_exact(SIDE)) {
                *sum += a.iter().zip(b).map(|(a, b)| beyond_noise(*a, *b)).sum::<u32>();
            }
        }
        for (cell, sum) in cells.iter_mut().zip(sums) {
            *cell = (4 * sum / (SIDE * SIDE) as u32).min(255) as u8;
        }
    }
    grid
}

/// A change, zero if noise explains it.
fn beyond_noise(a: u8, b: u8) -> u32 {
    let change = a.abs_diff(b);
    if change <= NOISE_LUMA { 0 } else { u32::from(change) }
}

#[cfg(test)]
mod tests;

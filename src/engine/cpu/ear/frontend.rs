//! Log-mel front end of the ear. 16 kHz samples flow in, in blocks of any size; every 10 ms one row of 40 values
//! flows out. The normalisation is constant, so there are no statistics that drift. As `engines/ear/model.py`.

use super::fft::{BINS, PowerSpectrum, SIZE};

/// Values in a row.
pub const BANDS: usize = 40;
/// Samples from one row to the next: 10 ms.
pub const HOP: usize = 160;
/// Samples a row looks at: 25 ms.
pub const WINDOW: usize = 400;

const FLOOR: f32 = 1e-6;
const MEAN: f32 = -1.5;
const SCALE: f32 = 4.0;
const LOW_HZ: f64 = 60.0;
const HIGH_HZ: f64 = 7_600.0;
const RATE_HZ: f64 = 16_000.0;

/// One triangle: its first bin and its weights from there.
#[derive(Debug, Clone)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Turns samples into rows; remembers at most one window of samples.
#[derive(Debug, Clone)]
pub struct FrontEnd {
    hann: Vec<f32>,
    bands: Vec<Band>,
    spectrum: PowerSpectrum,
    kept: [f32; WINDOW],
    filled: usize,
}

/// Triangles of peak 1, linear in Hz, with edges equally spaced in mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy 1987).
fn bands() -> Vec<Band> {
    let mel = |hz: f64| 2_595.0 * libm::log10(1.0 + hz / 700.0);
    let (low, high) = (mel(LOW_HZ), mel(HIGH_HZ));
    let edge = |i: usize| {
        let at = low + (high - low) * i as f64 / (BANDS + 1) as f64;
        700.0 * (libm::pow(10.0, at / 2_595.0) - 1.0)
    };
    (0..BANDS)
        .map(|m| {
            let (a, b, c) = (edge(m), edge(m + 1), edge(m + 2));
            let weight = |bin: usize| {
                let hz = bin as f64 * RATE_HZ / SIZE as f64;
                ((hz - a) / (b - a).max(1e-3)).min((c - hz) / (c - b).max(1e-3)).max(0.0) as f32
            };
            let first = (0..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
            let weights = (first..BINS).map(weight).take_while(|&w| w > 0.0).collect();
            Band { first, weights }
        })
        .collect()
}

impl Default for FrontEnd {
    fn default() -> Self {
        let turn = 2.0 * std::f64::consts::PI / WINDOW as f64;
        FrontEnd {
            hann: (0..WINDOW).map(|n| (0.5 - 0.5 * libm::cos(turn * n as f64)) as f32).collect(),
            bands: bands(),
            spectrum: PowerSpectrum::default(),
            kept: [0.0; WINDOW],
            filled: 0,
        }
    }
}

impl FrontEnd {
    /// Forgets all samples.
    pub fn reset(&mut self) {
        self.filled = 0;
    }

    /// The samples it still keeps; with them the next rows are determined.
    pub fn kept(&self) -> &[f32] {
        &self.kept[..self.filled]
    }

    /// Takes samples in [-1, 1] from the front of `samples` until a row is complete or none are left. Returns how many it
    /// took and whether `row` was written.
    pub fn take(&mut self, samples: &[f32], row: &mut [f32; BANDS]) -> (usize, bool) {
        let count = samples.len().min(WINDOW - self.filled);
        self.kept[self.filled..self.filled + count].copy_from_slice(&samples[..count]);
        self.filled += count;
        if self.filled < WINDOW {
            return (count, false);
        }
        self.row(row);
        self.kept.copy_within(HOP.., 0);
        self.filled = WINDOW - HOP;
        (count, true)
    }

    fn row(&mut self, row: &mut [f32; BANDS]) {
        let mut framed = [0.0; SIZE];
        for ((out, sample), window) in framed.iter_mut().zip(&self.kept).zip(&self.hann) {
            *out = sample * window;
        }
        let mut power = [0.0; BINS];
        self.spectrum.of(&framed, &mut power);
        for (out, band) in row.iter_mut().zip(&self.bands) {
            let energy: f32 = power[band.first..].iter().zip(&band.weights).map(|(p, w)| p * w).sum();
            *out = (libm::logf(energy + FLOOR) - MEAN) / SCALE;
        }
    }
}

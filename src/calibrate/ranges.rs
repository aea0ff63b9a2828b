//! What was seen of the numbers in the network: the largest, and a histogram of sizes. Rows of activations flow in while
//! tokens are read; ranges for quantisation flow out.
//!
//! Bins are sixteenths of an octave, the same for every histogram, so nothing is rescaled, and the order in which samples are
//! read does not matter.

use crate::engine::cpu::qwen2::{Seen, Site};
use crate::model::lowbit::{self, Format};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bins of an octave: the highest four bits of the fraction.
pub const PER_OCTAVE: usize = 16;
/// Exponent of the smallest size that has a bin of its own; what is smaller counts there too.
pub const LEAST_EXPONENT: i32 = -40;
/// Octaves from there on; what is larger counts in the last bin.
const OCTAVES: usize = 64;
/// Number of the first bin among all the upper twelve bits of an f32 can say.
const FIRST: usize = (127 + LEAST_EXPONENT) as usize * PER_OCTAVE;
/// Octaves below the largest that [`Histogram::least_error`] tries.
const TRIED_OCTAVES: usize = 4;

/// Sizes of many numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Numbers that are 0.
    pub zeros: u64,
    /// Numbers seen.
    pub total: u64,
    /// The largest size.
    pub largest: f32,
    /// Numbers that are infinite or not a number.
    pub broken: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; OCTAVES * PER_OCTAVE], zeros: 0, total: 0, largest: 0.0, broken: 0 }
    }
}

/// Smallest size of a bin.
fn edge(bin: usize) -> f32 {
    f32::from_bits(((bin + FIRST) as u32) << 19)
}

impl Histogram {
    /// Counts numbers.
    pub fn add(&mut self, numbers: &[f32]) {
        for x in numbers {
            let size = x.abs();
            self.total += 1;
            if size == 0.0 {
                self.zeros += 1;
            } else if !size.is_finite() {
                self.broken += 1;
            } else {
                self.largest = self.largest.max(size);
                let bin = ((size.to_bits() >> 19) as usize).saturating_sub(FIRST).min(self.counts.len() - 1);
                self.counts[bin] += 1;
            }
        }
    }

    /// The size below which `share` of the numbers lie, at most a sixteenth of an octave too large.
    pub fn percentile(&self, share: f64) -> f32 {
        let wanted = (self.total - self.broken) as f64 * share;
        let mut below = self.zeros;
        for (bin, count) in self.counts.iter().enumerate() {
            below += count;
            if *count > 0 && below as f64 >= wanted {
                return edge(bin + 1).min(self.largest);
            }
        }
        self.largest
    }

    /// The range with the least squared error when numbers are rounded as inputs of `format` are: of the largest and the
    /// edges of bins in the four octaves below it.
    pub fn least_error(&self, format: Format) -> f32 {
        let mut points = Vec::new();
        for (bin, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (low, high) = (edge(bin), edge(bin + 1).min(self.largest.max(edge(bin))));
            // Three places stand for the numbers of a bin.
            points.extend([1.0f32, 3.0, 5.0].map(|sixth| (low + (high - low) * sixth / 6.0, count as f64)));
        }
        let error = |range: f32| -> f64 {
            let scale = range / format.input_limit();
            let of = |&(size, count): &(f32, f64)| {
                let mut rounded = [size];
                lowbit::round(format, scale, &mut rounded);
                f64::from(rounded[0] - size).powi(2) * count
            };
            points.iter().map(of).sum()
        };
        let (mut best, mut least) = (self.largest, error(self.largest));
        let last = ((self.largest.to_bits() >> 19) as usize).saturating_sub(FIRST).min(self.counts.len() - 1);
        for bin in (last.saturating_sub(TRIED_OCTAVES * PER_OCTAVE)..=last).rev() {
            let tried = error(edge(bin));
            if tried < least {
                (best, least) = (edge(bin), tried);
            }
        }
        best
    }

    /// For people and audits: counts as `[bin, count]`; bin b begins at 2^(-40 + b / 16), fractions linear within an octave.
    pub fn json(&self) -> Value {
        let counts: Vec<[u64; 2]> =
            self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(bin, &n)| [bin as u64, n]).collect();
        json!({"total": self.total, "zeros": self.zeros, "largest": self.largest, "counts": counts})
    }
}

/// Histograms by layer and place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges(BTreeMap<(usize, Site), Histogram>);

impl Ranges {
    /// What was seen there.
    pub fn get(&self, layer: usize, site: Site) -> Option<&Histogram> {
        self.0.get(&(layer, site))
    }

    /// All that was seen, by layer and place.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Site, &Histogram)> {
        self.0.iter().map(|(&(layer, site), histogram)| (layer, site, histogram))
    }
}

impl Seen for Ranges {
    fn seen(&mut self, layer: usize, site: Site, rows: &[f32], _columns: usize) {
        self.0.entry((layer, site)).or_default().add(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_the_largest_are_what_was_put_in() {
        let mut seen = Histogram::default();
        seen.add(&(1..=1000).map(|i| i as f32 * if i % 2 == 0 { -0.01 } else { 0.01 }).collect::<Vec<_>>());
        seen.add(&[0.0, f32::NAN]);
        assert_eq!((seen.largest, seen.zeros, seen.total, seen.broken), (10.0, 1, 1002, 1));
        for (share, want) in [(0.5, 5.0), (0.9, 9.0), (0.999, 9.99)] {
            let got = seen.percentile(share);
            assert!(got >= want * 0.999 && got <= want * 1.07, "{share}: {got}");
        }
        assert_eq!(seen.percentile(1.0), 10.0);
    }

    #[test]
    fn one_outlier_is_cut_off_where_that_makes_the_error_less() {
        let mut seen = Histogram::default();
        seen.add(&(0..200_000).map(|i| ((i % 2001) as f32 - 1000.0) / 1000.0).collect::<Vec<_>>());
        assert!(seen.least_error(Format::Int8) > 0.9);
        seen.add(&[8.0]);
        let range = seen.least_error(Format::Int8);
        // n · (r / 127)² / 12 + (8 - r)² is least at 3.93; the edges of bins there are 3.875 and 4.
        assert!((3.8..4.1).contains(&range), "INT8 steps are worth more than one outlier: {range}");
        // A float's steps are relative, so little is won by cutting.
        assert!(seen.least_error(Format::Fp8) > 4.0);
    }

    #[test]
    fn tiny_and_huge_numbers_have_a_bin() {
        let mut seen = Histogram::default();
        seen.add(&[f32::MIN_POSITIVE, 1e-30, 1e30]);
        assert_eq!((seen.total, seen.largest), (3, 1e30));
        assert_eq!(seen.counts.iter().sum::<u64>(), 3);
    }
}

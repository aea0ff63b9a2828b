//! A histogram of durations with a relative error under 1.6 % and fixed memory: log-linear buckets, 64 per power of two.
//! Nanoseconds flow in, quantiles flow out. (hdrhistogram would bring its serialisation and resizing along.)

use crate::types::Nanos;
use serde::{Deserialize, Serialize};

/// Buckets per power of two.
const SUB: usize = 64;
/// log2(SUB).
const SUB_BITS: u32 = 6;
/// Powers of two covered: up to 2^44 ns, almost five hours.
const BUCKETS: usize = SUB * (45 - SUB_BITS as usize);

/// Durations, counted in log-linear buckets.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Nanos,
}

/// The quantiles that reports show, in the unit named by the field that holds them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
    /// How many values.
    pub n: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0, max: Nanos::ZERO }
    }
}

/// Index of the bucket that holds `ns`.
fn bucket(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    let index = (exponent - SUB_BITS + 1) as usize * SUB + ((ns >> (exponent - SUB_BITS)) as usize - SUB);
    index.min(BUCKETS - 1)
}

/// Largest value of the bucket.
fn upper(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = (index / SUB - 1) as u32;
    ((((index % SUB) + SUB + 1) as u64) << shift) - 1
}

impl Histogram {
    /// Counts one duration. Never allocates.
    pub fn add(&mut self, span: Nanos) {
        self.counts[bucket(span.0)] += 1;
        self.total += 1;
        self.max = self.max.max(span);
    }

    /// How many durations were counted.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The smallest value that at least the share `q` of the durations does not exceed; zero when empty.
    pub fn quantile(&self, q: f64) -> Nanos {
        let rank = (q * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Nanos(upper(index)).min(self.max);
            }
        }
        self.max
    }

    /// The reported quantiles, each divided by `unit_ns` (1e3: µs, 1e6: ms).
    pub fn quantiles(&self, unit_ns: f64) -> Quantiles {
        let of = |q| (self.quantile(q).0 as f64 / unit_ns * 1e3).round() / 1e3;
        if self.is_empty() {
            return Quantiles::default();
        }
        Quantiles { p50: of(0.5), p95: of(0.95), p99: of(0.99), p999: of(0.999), max: of(1.0), n: self.total }
    }

    /// Non-empty buckets as (upper bound, count), in order.
    pub fn buckets(&self) -> impl Iterator<Item = (Nanos, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (Nanos(upper(index)), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        let mut values: Vec<u64> = (0..10_000_u64).map(|i| (i * i * 7919) % 50_000_000).collect();
        for value in &values {
            histogram.add(Nanos(*value));
        }
        values.sort_unstable();
        for q in [0.01, 0.5, 0.9, 0.99, 0.999] {
            let exact = values[((q * 10_000.0) as usize).max(1) - 1] as f64;
            let found = histogram.quantile(q).0 as f64;
            assert!((found - exact).abs() <= 0.016 * exact + 1.0, "q {q}: {found} against {exact}");
        }
        assert_eq!(histogram.quantile(1.0).0, *values.last().expect("not empty"));
    }

    #[test]
    fn bucket_bounds_are_where_the_next_bucket_begins() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(upper(index)), index);
            assert_eq!(bucket(upper(index) + 1), index + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}

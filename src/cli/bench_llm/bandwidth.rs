//! How fast this machine reads mapped weights: the limit of decoding. A model folder and a number of threads flow in, bytes per
//! second flow out.

use crate::engine::cpu::pool::Pool;
use crate::model::checkpoint::Checkpoint;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Streams a thread reads at a time: one long run, or eight far-apart ones. What is faster depends on the machine.
const STREAMS: [usize; 2] = [1, 8];
/// A cache line.
const LINE: usize = 64;

/// Reads a model's mapped weight files as a decode step does: every thread its share of each tensor.
pub struct Meter {
    checkpoint: Checkpoint,
    pool: Pool,
    threads: usize,
    /// Bytes per second of each pass, by way of reading.
    rates: [Vec<f64>; STREAMS.len()],
}

impl Meter {
    /// Maps the files and starts the threads.
    ///
    /// # Errors
    /// The files cannot be mapped or the system refuses a thread.
    pub fn new(folder: &Path, threads: usize) -> anyhow::Result<Meter> {
        let mut meter = Meter {
            checkpoint: Checkpoint::open(folder)?,
            pool: Pool::new(threads)?,
            threads,
            rates: Default::default(),
        };
        // The first pass maps the pages.
        meter.pass(1);
        Ok(meter)
    }

    /// Reads all once in each of the ways.
    pub fn read(&mut self) {
        for (way, streams) in STREAMS.into_iter().enumerate() {
            let rate = self.pass(streams);
            self.rates[way].push(rate);
        }
    }

    /// Bytes per second of the faster way, in the median of all that was read. A median, for it is compared with one: the best of
    /// a few passes is a lucky moment of the machine.
    pub fn bytes_per_s(&mut self) -> f64 {
        let median = |rates: &mut Vec<f64>| {
            rates.sort_unstable_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied().unwrap_or(0.0)
        };
        self.rates.iter_mut().map(median).fold(0.0, f64::max)
    }

    fn pass(&mut self, streams: usize) -> f64 {
        let tensors: Vec<&[u8]> = self.checkpoint.tensors().map(|(_, tensor)| tensor.bytes()).collect();
        let total: usize = tensors.iter().map(|bytes| bytes.len()).sum();
        let (sum, threads) = (AtomicU64::new(0), self.threads);
        let began = Instant::now();
        self.pool.run(&|worker| {
            let mut own = 0u64;
            for bytes in &tensors {
                let part = bytes.len().div_ceil(threads);
                let from = (worker * part).min(bytes.len());
                own = own.wrapping_add(sum_of(&bytes[from..(from + part).min(bytes.len())], streams));
            }
            sum.fetch_add(own, Relaxed);
        });
        let rate = total as f64 / began.elapsed().as_secs_f64();
        std::hint::black_box(sum.load(Relaxed));
        rate
    }
}

/// The sum of all 8-byte words, read as `streams` far-apart runs.
fn sum_of(bytes: &[u8], streams: usize) -> u64 {
    let part = bytes.len() / streams / LINE * LINE;
    let mut sums = [0u64; LINE / 8];
    for at in (0..part).step_by(LINE) {
        for stream in 0..streams {
            let line = &bytes[stream * part + at..][..LINE];
            for (sum, word) in sums.iter_mut().zip(line.chunks_exact(8)) {
                *sum = sum.wrapping_add(u64::from_ne_bytes([
                    word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
                ]));
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_reading_reads_every_line() {
        let bytes: Vec<u8> = (0..8 * 64 * 5u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(sum_of(&bytes, 1), sum_of(&bytes, 8));
        assert_ne!(sum_of(&bytes, 1), sum_of(&bytes[..bytes.len() - 64], 1));
    }
}

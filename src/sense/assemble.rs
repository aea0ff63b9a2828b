//! Chunks of any size and jittery time stamps become blocks of 20 ms with steady ones. 16 kHz samples with the instant of
//! the first flow in, in the order of capture; `AudioBlock`s flow out. Lost sound becomes a gap in the sequence numbers.

use crate::types::{AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, Nanos, Stamp};

/// A time stamp this far from where it is expected is no jitter: sound was lost or the clock jumped.
const JUMP: Nanos = Nanos::from_ms(60);
/// Share of a stamp's error that is corrected at once: chunks come every 10 to 20 ms, so drift is followed within a
/// second and jitter of a millisecond shows as 60 µs.
const CORRECTION: i64 = 16;

/// See the module.
#[derive(Debug, Clone)]
pub struct BlockAssembler {
    samples: [i16; AUDIO_BLOCK],
    filled: usize,
    /// Instant of the first of `samples`.
    begun: Nanos,
    /// Where the next sample is expected.
    expected: Option<Nanos>,
    seq: u64,
    /// Times the stream had to be taken up anew.
    pub jumps: u64,
}

impl Default for BlockAssembler {
    fn default() -> Self {
        BlockAssembler::new()
    }
}

fn length_of(samples: usize) -> Nanos {
    Nanos(samples as u64 * 1_000_000_000 / u64::from(AUDIO_RATE_HZ))
}

impl BlockAssembler {
    /// Starts with block 0.
    pub fn new() -> BlockAssembler {
        BlockAssembler { samples: [0; AUDIO_BLOCK], filled: 0, begun: Nanos::ZERO, expected: None, seq: 0, jumps: 0 }
    }

    /// Takes the next samples, the first of them captured at `captured`, and hands each full block to `each`. The echo
    /// reference is left silent.
    pub fn push(&mut self, captured: Nanos, stamp: Stamp, samples: &[i16], mut each: impl FnMut(AudioBlock)) {
        let mut at = self.place(captured);
        for sample in samples {
            if self.filled == 0 {
                self.begun = at;
            }
            self.samples[self.filled] = *sample;
            self.filled += 1;
            at = at.after(length_of(1));
            if self.filled == AUDIO_BLOCK {
                each(AudioBlock {
                    seq: self.seq,
                    captured: self.begun,
                    stamp,
                    samples: self.samples,
                    played: [0; AUDIO_BLOCK],
                });
                self.seq += 1;
                self.filled = 0;
            }
        }
        self.expected = Some(at);
    }

    /// The stream was interrupted: what comes next begins anew, and the sequence shows a gap.
    pub fn interrupted(&mut self) {
        if self.expected.take().is_some() {
            self.filled = 0;
            self.seq += 1;
            self.jumps += 1;
        }
    }

    fn place(&mut self, captured: Nanos) -> Nanos {
        let Some(expected) = self.expected else { return captured };
        let error = captured.0 as i64 - expected.0 as i64;
        if error.unsigned_abs() <= JUMP.0 {
            return Nanos((expected.0 as i64 + error / CORRECTION) as u64);
        }
        // Whole lost blocks, and the broken one that was being filled.
        let lost = captured.since(expected).0 / length_of(AUDIO_BLOCK).0;
        self.seq += lost.max(1);
        self.filled = 0;
        self.jumps += 1;
        captured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_smoothed_and_no_sample_is_lost() {
        let mut assembler = BlockAssembler::new();
        let mut blocks = Vec::new();
        // Chunks of 171 samples, stamped up to 2 ms early or late.
        let (mut sent, mut seed) = (0usize, 1u32);
        while sent < 16_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let jitter = i64::from(seed >> 20) * 4_000_000 / 4_096 - 2_000_000;
            let at = (Nanos::from_s(1).after(length_of(sent)).0 as i64 + jitter) as u64;
            let chunk: Vec<i16> = (sent..sent + 171).map(|n| n as i16).collect();
            assembler.push(Nanos(at), Stamp::Device, &chunk, |b| blocks.push(b));
            sent += 171;
        }
        assert_eq!((blocks.len(), assembler.jumps), (50, 0));
        for (k, block) in blocks.iter().enumerate() {
            assert_eq!((block.seq, block.samples[0]), (k as u64, (k * AUDIO_BLOCK) as i16));
            let ideal = Nanos::from_s(1).after(Nanos::from_ms(20 * k as u64));
            let error = block.captured.0.abs_diff(ideal.0);
            assert!(error < 2_500_000, "block {k}: {error} ns");
            if let Some(before) = k.checked_sub(1) {
                let step = block.captured.since(blocks[before].captured).0;
                assert!(step.abs_diff(20_000_000) < 400_000, "block {k}: {step} ns");
            }
        }
    }

    #[test]
    fn lost_sound_is_a_gap_in_the_sequence() {
        let mut assembler = BlockAssembler::new();
        let mut seen = Vec::new();
        let chunk = [1i16; 480];
        assembler.push(Nanos::from_ms(100), Stamp::Device, &chunk, |b| seen.push((b.seq, b.captured.as_ms())));
        // 30 ms were taken; 100 ms are missing.
        assembler.push(Nanos::from_ms(230), Stamp::Device, &chunk, |b| seen.push((b.seq, b.captured.as_ms())));
        assembler.interrupted();
        assembler.push(Nanos::from_s(9), Stamp::Device, &chunk, |b| seen.push((b.seq, b.captured.as_ms())));
        assert_eq!(seen, [(0, 100), (6, 230), (8, 9_000)]);
        assert_eq!(assembler.jumps, 2);
    }
}

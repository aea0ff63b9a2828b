//! What the loudspeaker plays, by the instant at which each sample leaves it: the reference for taking the robot's own
//! voice out of its microphone. The audio output writes, the microphone's thread reads; neither ever waits.

use crate::types::{AUDIO_RATE_HZ, Nanos};
use std::sync::atomic::{AtomicU64, Ordering};

/// Samples kept: a little over four seconds.
const KEPT: usize = 1 << 16;

/// A ring of samples at 16 kHz; sample number n leaves the loudspeaker at n/16000 s of CLOCK_MONOTONIC. Each slot holds
/// the number of its sample and the sample, so that a reader knows an old one from a new one.
#[derive(Debug)]
pub struct PlayedSound {
    slots: Box<[AtomicU64]>,
}

impl Default for PlayedSound {
    fn default() -> Self {
        PlayedSound::new()
    }
}

impl PlayedSound {
    /// Nothing was played yet.
    pub fn new() -> PlayedSound {
        PlayedSound { slots: (0..KEPT).map(|_| AtomicU64::new(u64::MAX)).collect() }
    }

    /// Number of the sample at this instant.
    pub fn sample_at(at: Nanos) -> u64 {
        (u128::from(at.0) * u128::from(AUDIO_RATE_HZ) / 1_000_000_000) as u64
    }

    /// Says that these samples leave the loudspeaker from sample number `first` on. At most the last four seconds are
    /// kept. One writer at a time.
    pub fn write(&self, first: u64, samples: &[i16]) {
        for (n, sample) in samples.iter().enumerate() {
            let number = first + n as u64;
            let slot = &self.slots[number as usize % KEPT];
            slot.store(number << 16 | u64::from(*sample as u16), Ordering::Relaxed);
        }
    }

    /// Takes back what was announced from sample number `first` on: it was silenced before it left.
    pub fn take_back(&self, first: u64, upto: u64) {
        for number in first..upto.min(first + KEPT as u64) {
            self.slots[number as usize % KEPT].store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// What left the loudspeaker from `at` on; zero where nothing did.
    pub fn read(&self, at: Nanos, samples: &mut [i16]) {
        self.read_from(PlayedSound::sample_at(at), samples);
    }

    /// What left the loudspeaker from sample number `first` on; zero where nothing did.
    pub fn read_from(&self, first: u64, samples: &mut [i16]) {
        for (n, sample) in samples.iter_mut().enumerate() {
            let number = first + n as u64;
            let slot = self.slots[number as usize % KEPT].load(Ordering::Relaxed);
            *sample = if slot >> 16 == number & (u64::MAX >> 16) { slot as u16 as i16 } else { 0 };
        }
    }
}

/// An estimate this far off, twice in a row, means that sound was lost: 100 ms.
const JUMP: u64 = AUDIO_RATE_HZ as u64 / 10;
/// A mean error beyond this is drift, not jitter: 5 ms.
const DRIFT: i64 = AUDIO_RATE_HZ as i64 * 5 / 1_000;
/// Estimates over which the error is averaged: some seconds.
const AVERAGED: i64 = 256;
/// Drift is followed by one sample in so many estimates: three a second or more, 200 ppm. Each costs the echo filter some of
/// what it knows.
const SLEW: u32 = 16;
/// First estimates, of which each is followed quickly: devices start with wild ones.
const SETTLING: u32 = 16;

/// Sample numbers of a device's stream. A device's samples follow each other without a seam, but what it says of their
/// instants jitters by milliseconds, which an echo filter cannot follow. Jittery numbers flow in, steady ones flow out.
#[derive(Debug, Clone, Default)]
pub struct SampleClock {
    next: Option<u64>,
    /// Mean error, in samples times [`AVERAGED`].
    error: i64,
    placed: u32,
    far: bool,
}

impl SampleClock {
    /// Takes its first number as it comes.
    pub fn new() -> SampleClock {
        SampleClock::default()
    }

    /// The stream was interrupted: the next number is taken as it comes.
    pub fn interrupted(&mut self) {
        *self = SampleClock::new();
    }

    /// Number of the first of `count` samples, of which the device says that it is about `estimate`.
    pub fn place(&mut self, estimate: u64, count: usize) -> u64 {
        let expected = self.next.unwrap_or(estimate);
        let error = estimate as i64 - expected as i64;
        let far = error.unsigned_abs() > JUMP;
        let mut number = expected;
        if far && self.far {
            self.interrupted();
            number = estimate;
        } else if self.placed < SETTLING {
            number = expected.saturating_add_signed(error / 4);
        } else if !far {
            self.error += error - self.error / AVERAGED;
            let mean = self.error / AVERAGED;
            if mean.abs() > DRIFT && self.placed.is_multiple_of(SLEW) {
                number = expected.saturating_add_signed(mean.signum());
                self.error -= mean.signum() * AVERAGED;
            }
        }
        self.far = far && number != estimate;
        self.placed = self.placed.saturating_add(1);
        self.next = Some(number + count as u64);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_at_their_instant_and_nowhere_else() {
        let played = PlayedSound::new();
        let at = Nanos::from_ms(90_000_020);
        let first = PlayedSound::sample_at(at);
        played.write(first, &[-5, 6, 7]);
        let mut heard = [9i16; 4];
        played.read(at, &mut heard);
        assert_eq!(heard, [-5, 6, 7, 0]);
        played.read(Nanos(at.0 - 62_500), &mut heard);
        assert_eq!(heard, [0, -5, 6, 7]);
        // Four seconds later the slots hold other sound.
        played.write(first + KEPT as u64, &[1]);
        played.read(at, &mut heard);
        assert_eq!(heard, [0, 6, 7, 0]);
        played.take_back(first + 2, first + 3);
        played.read(at, &mut heard);
        assert_eq!(heard, [0, 6, 0, 0]);
    }

    #[test]
    fn numbers_are_steady_under_jitter_follow_drift_and_jump_only_for_a_gap() {
        let mut clock = SampleClock::new();
        let (mut seed, mut before) = (3u32, None);
        let mut seams = 0;
        for k in 0..3_000u64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // A device that runs 100 ppm fast, with 10 ms of jitter, which loses a second after two thirds.
            let truth = k * 320 + k * 320 / 10_000 + if k >= 2_000 { 16_000 } else { 0 };
            let number = clock.place(truth + u64::from(seed >> 24) * 320 / 256, 320);
            let gap = before.is_some_and(|b: u64| number != b + 320);
            if k > 50 {
                seams += u32::from(gap && number.abs_diff(before.unwrap_or(0) + 320) > 1);
                let off = number as i64 - truth as i64 - 160;
                assert!(off.abs() < 200 || (2_000..2_020).contains(&k), "block {k}: {off} samples off");
            }
            before = Some(number);
        }
        assert!((1..=SETTLING + 1).contains(&seams), "{seams} seams of more than a sample");
    }
}

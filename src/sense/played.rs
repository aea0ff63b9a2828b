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
        let first = PlayedSound::sample_at(at);
        for (n, sample) in samples.iter_mut().enumerate() {
            let number = first + n as u64;
            let slot = self.slots[number as usize % KEPT].load(Ordering::Relaxed);
            *sample = if slot >> 16 == number & (u64::MAX >> 16) { slot as u16 as i16 } else { 0 };
        }
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
}

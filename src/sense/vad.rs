//! Voice activity from band levels: how far speech bands stand above a noise floor that is tracked per band. Levels of
//! one block in hundredths of a decibel flow in, 0..=1000 flows out. Integers only.
//!
//! The floor falls at once, rises slowly (3 dB/s) under anything that moves as speech does, and quickly under a sound
//! that stays level for `STEADY_BLOCKS`: a fan that starts is noise within two seconds, a long sentence is not.

use crate::types::BANDS;

/// Blocks of 20 ms over which a band must stay level to be called steady.
const STEADY_BLOCKS: usize = 50;
/// A band is steady if its levels, smoothed over four blocks, stay within this, cdB.
const STEADY_RANGE_CDB: i32 = 700;
/// Rise of the floor per block: 3 dB/s.
const RISE_CDB: i32 = 6;
/// Standing this far above the floor is no voice yet, cdB.
const VOICE_FROM_CDB: i32 = 450;
/// Standing this far above the floor is voice for certain, cdB.
const VOICE_FULL_CDB: i32 = 1_100;
/// Quieter than this is never voice, cdB.
const INAUDIBLE_CDB: i32 = -7_000;
/// Fall of the activity per block once the voice pauses.
const RELEASE_PERMILLE: i32 = 80;
/// Bands that count: 300 Hz to 4.4 kHz; the lowest and highest hold hum and hiss.
const SPEECH_BANDS: std::ops::Range<usize> = 1..7;

/// The tracked floors and the activity.
#[derive(Debug, Clone)]
pub struct VoiceActivity {
    floor: [i32; BANDS],
    smooth: [i32; BANDS],
    recent: Box<[[i32; STEADY_BLOCKS]; BANDS]>,
    blocks: u32,
    permille: i32,
}

impl Default for VoiceActivity {
    fn default() -> Self {
        VoiceActivity::new()
    }
}

impl VoiceActivity {
    /// Starts without a floor: the first blocks set it.
    pub fn new() -> VoiceActivity {
        VoiceActivity {
            floor: [0; BANDS],
            smooth: [0; BANDS],
            recent: Box::new([[0; STEADY_BLOCKS]; BANDS]),
            blocks: 0,
            permille: 0,
        }
    }

    /// Takes the band levels of one block and, per band, a level below which nothing counts (what an imperfectly removed
    /// echo may have left); gives the activity 0..=1000.
    pub fn push(&mut self, levels: &[i16; BANDS], masked: &[i16; BANDS]) -> u16 {
        let slot = self.blocks as usize % STEADY_BLOCKS;
        let mut above = 0;
        for band in 0..BANDS {
            let level = i32::from(levels[band]);
            if self.blocks == 0 {
                self.floor[band] = level;
                self.smooth[band] = level;
            }
            self.smooth[band] += (level - self.smooth[band]) / 4;
            self.recent[band][slot] = self.smooth[band];
            self.track(band, level);
            if SPEECH_BANDS.contains(&band) {
                let floor = self.floor[band].max(i32::from(masked[band])).max(INAUDIBLE_CDB);
                above += (level - floor).clamp(0, 2_000);
            }
        }
        self.blocks = self.blocks.saturating_add(1);
        above /= SPEECH_BANDS.len() as i32;
        let now = (above - VOICE_FROM_CDB) * 1_000 / (VOICE_FULL_CDB - VOICE_FROM_CDB);
        self.permille = now.clamp(0, 1_000).max(self.permille - RELEASE_PERMILLE);
        self.permille as u16
    }

    fn track(&mut self, band: usize, level: i32) {
        let floor = &mut self.floor[band];
        if level < *floor {
            *floor += (level - *floor) / 3;
            return;
        }
        let seen = (self.blocks as usize + 1).min(STEADY_BLOCKS);
        let recent = &self.recent[band][..seen];
        let low = recent.iter().copied().min().unwrap_or(level);
        let high = recent.iter().copied().max().unwrap_or(level);
        let steady = seen == STEADY_BLOCKS && high - low <= STEADY_RANGE_CDB;
        // The floor lies under the mean of a noise by about what its blocks vary.
        *floor = (*floor + if steady { ((low - *floor) / 10).max(RISE_CDB) } else { RISE_CDB }).min(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform noise of ±`spread` around `level`.
    fn noisy(seed: &mut u32, level: i32, spread: i32) -> [i16; BANDS] {
        std::array::from_fn(|_| {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (level + (*seed >> 16) as i32 % (2 * spread + 1) - spread) as i16
        })
    }

    #[test]
    fn a_fan_that_starts_is_noise_within_two_seconds() {
        let (mut vad, mut seed) = (VoiceActivity::new(), 7);
        let none = [i16::MIN; BANDS];
        for _ in 0..200 {
            vad.push(&noisy(&mut seed, -6_500, 250), &none);
        }
        for _ in 0..100 {
            vad.push(&noisy(&mut seed, -4_000, 250), &none);
        }
        let worst = (0..500).map(|_| vad.push(&noisy(&mut seed, -4_000, 250), &none)).max();
        assert_eq!(worst, Some(0));
    }

    #[test]
    fn syllables_stay_voice_however_long_somebody_talks() {
        let (mut vad, mut seed) = (VoiceActivity::new(), 7);
        let none = [i16::MIN; BANDS];
        for _ in 0..100 {
            vad.push(&noisy(&mut seed, -6_000, 250), &none);
        }
        // 200 ms syllables with 60 ms gaps, for twenty seconds.
        for block in 0..1_000 {
            let voiced = block % 13 < 10;
            let activity = vad.push(&noisy(&mut seed, if voiced { -3_000 } else { -5_800 }, 400), &none);
            if voiced {
                assert!(activity > 900, "block {block}: {activity}");
            }
        }
    }

    #[test]
    fn what_the_echo_may_have_left_is_no_voice() {
        let (mut vad, mut seed) = (VoiceActivity::new(), 7);
        for _ in 0..100 {
            vad.push(&noisy(&mut seed, -6_000, 250), &[i16::MIN; BANDS]);
        }
        for _ in 0..50 {
            assert_eq!(vad.push(&noisy(&mut seed, -4_500, 250), &[-4_300; BANDS]), 0);
        }
        assert!(vad.push(&noisy(&mut seed, -2_500, 250), &[-4_300; BANDS]) > 900);
    }
}

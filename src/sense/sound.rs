//! Features of sound: band levels, loudness, voice activity and echo share of each 20 ms block, and the block as the ear
//! should hear it. Raw blocks with what was played flow in; `AudioFeatures` and the cleaned block flow out. The same
//! blocks in the same order give the same bytes on every machine.

use super::echo::EchoReducer;
use super::spectrum::{BINS, Complex, Fourier, POINTS};
use super::vad::VoiceActivity;
use crate::types::{AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, AudioFeatures, BANDS, SourceId};

/// Edges of the bands, Hz: about equal steps on the mel scale.
pub const BAND_EDGES_HZ: [u32; BANDS + 1] = [100, 300, 550, 900, 1_350, 2_000, 2_900, 4_400, 7_600];
/// The quietest level that is told apart, cdB below full scale.
const QUIETEST_CDB: i16 = -12_000;
/// What the echo filter is known to leave, and this much more, is no voice, cdB ...
const ECHO_MARGIN_CDB: f64 = 800.0;
/// ... and at least this far below the echo never is, cdB.
const LEAST_MASK_CDB: f64 = -1_500.0;

/// Computes the features of one microphone, block by block.
#[derive(Debug, Clone)]
pub struct AudioFeatureExtractor {
    source: SourceId,
    fourier: Fourier,
    window: Box<[f32; AUDIO_BLOCK]>,
    /// Power of a full-scale sine in one bin sum, times the bins of its main lobe.
    full_scale: f32,
    echo: EchoReducer,
    voice: VoiceActivity,
    cleaned: AudioBlock,
    next_seq: Option<u64>,
}

impl AudioFeatureExtractor {
    /// An extractor for the microphone `source`.
    pub fn new(source: SourceId) -> AudioFeatureExtractor {
        let mut window = Box::new([0.0f32; AUDIO_BLOCK]);
        let mut energy = 0.0f32;
        for (n, w) in window.iter_mut().enumerate() {
            let angle = 2.0 * core::f64::consts::PI * (n as f64 + 0.5) / AUDIO_BLOCK as f64;
            *w = (0.5 - 0.5 * libm::cos(angle)) as f32;
            energy += *w * *w;
        }
        AudioFeatureExtractor {
            source,
            fourier: Fourier::new(),
            window,
            // Parseval over one half of the spectrum: a sine of amplitude 1 has power 1/2 per sample.
            full_scale: energy * 0.5 * POINTS as f32 / 2.0,
            echo: EchoReducer::new(),
            voice: VoiceActivity::new(),
            cleaned: AudioBlock {
                seq: 0,
                captured: Default::default(),
                stamp: Default::default(),
                samples: [0; AUDIO_BLOCK],
                played: [0; AUDIO_BLOCK],
            },
            next_seq: None,
        }
    }

    /// Features of the next block. Levels and voice are those of the sound without the robot's own voice.
    pub fn extract(&mut self, block: &AudioBlock) -> AudioFeatures {
        let cleaned = self.echo.clean(block);
        self.cleaned = AudioBlock { samples: cleaned.samples, ..*block };
        let (bands, level) = self.levels(&cleaned.samples.map(|s| f32::from(s) / 32_768.0));
        let heard = if cleaned.active { self.levels(&block.samples.map(|s| f32::from(s) / 32_768.0)).1 } else { level };
        let masked = if cleaned.active {
            let rest = 1_000.0 * libm::log10(f64::from(cleaned.leak)) + ECHO_MARGIN_CDB;
            let rest = libm::floor(rest.max(LEAST_MASK_CDB)) as i16;
            self.levels(&cleaned.echo).0.map(|cdb| cdb.saturating_add(rest))
        } else {
            [i16::MIN; BANDS]
        };
        let lost = self.next_seq.map_or(0, |next| block.seq.saturating_sub(next));
        self.next_seq = Some(block.seq + 1);
        AudioFeatures {
            source: self.source,
            seq: block.seq,
            captured: block.captured,
            stamp: block.stamp,
            band_cdb: bands,
            level_cdb: level,
            heard_cdb: heard,
            voice_permille: self.voice.push(&bands, &masked),
            echo_permille: cleaned.echo_permille,
            lost: lost.min(u64::from(u16::MAX)) as u16,
        }
    }

    /// The last block without the echo of the robot's own voice: what the ear hears.
    pub fn cleaned(&self) -> &AudioBlock {
        &self.cleaned
    }

    fn levels(&self, samples: &[f32; AUDIO_BLOCK]) -> ([i16; BANDS], i16) {
        let mut padded = [0.0f32; POINTS];
        for ((p, s), w) in padded.iter_mut().zip(samples).zip(self.window.iter()) {
            *p = s * w;
        }
        let mut bins = [Complex::default(); BINS];
        self.fourier.forward(&padded, &mut bins);
        let bin_of = |hz: u32| (hz as usize * POINTS + AUDIO_RATE_HZ as usize / 2) / AUDIO_RATE_HZ as usize;
        let mut total = 0.0f32;
        let bands = std::array::from_fn(|band| {
            let power: f32 =
                bins[bin_of(BAND_EDGES_HZ[band])..bin_of(BAND_EDGES_HZ[band + 1])].iter().map(|b| b.power()).sum();
            total += power;
            self.cdb(power)
        });
        (bands, self.cdb(total))
    }

    /// Power to hundredths of a decibel relative to a full-scale sine.
    fn cdb(&self, power: f32) -> i16 {
        if power <= 0.0 {
            return QUIETEST_CDB;
        }
        let cdb = libm::floor(1_000.0 * libm::log10(f64::from(power) / f64::from(self.full_scale)) + 0.5);
        cdb.clamp(f64::from(QUIETEST_CDB), 600.0) as i16
    }
}

#[cfg(test)]
pub(super) mod tests;

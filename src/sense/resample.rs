//! Any sample rate to 16 kHz, streaming: a windowed-sinc filter in polyphase form. Interleaved or mono samples flow in
//! in pieces of any size; 16 kHz mono flows out, the same whatever the pieces were.

use crate::types::AUDIO_RATE_HZ;

/// Zero crossings of the sinc on each side at the lower of the two rates; more is steeper and slower.
const CROSSINGS: usize = 16;
/// Share of the lower Nyquist frequency that passes.
const PASS: f64 = 0.92;
/// Most phases that are tabulated; other ratios take the nearest (error at most 1/512 of a sample).
const MAX_PHASES: u64 = 512;
/// Rates outside are refused, Hz.
const RATES_HZ: std::ops::RangeInclusive<u32> = 4_000..=384_000;

/// Converts one stream. After construction nothing is allocated.
#[derive(Debug, Clone)]
pub struct Resampler {
    rate_hz: u32,
    channels: usize,
    taps: usize,
    phases: u64,
    table: Vec<f32>,
    history: Vec<f32>,
    filled: usize,
    /// Position of the next output between two inputs, in units of 1 / 16000 of an input sample.
    fraction: u64,
    frame: usize,
    sum: f32,
    through: bool,
}

impl Resampler {
    /// A converter from `rate_hz` with `channels` interleaved channels, which are averaged.
    ///
    /// # Errors
    /// A sentence for a rate outside 4..=384 kHz or for no channel.
    pub fn new(rate_hz: u32, channels: u32) -> Result<Resampler, String> {
        if !RATES_HZ.contains(&rate_hz) {
            return Err(format!("sound of {rate_hz} Hz cannot be used (4,000 to 384,000 Hz can)"));
        }
        if channels == 0 || channels > 64 {
            return Err(format!("sound of {channels} channels cannot be used (1 to 64 can)"));
        }
        let out = u64::from(AUDIO_RATE_HZ);
        let divisor = gcd(u64::from(rate_hz), out);
        let phases = (out / divisor).min(MAX_PHASES);
        // Below 1 the filter is stretched so that it cuts at the lower rate.
        let scale = (f64::from(AUDIO_RATE_HZ) / f64::from(rate_hz)).min(1.0);
        let half = (CROSSINGS as f64 / scale).ceil() as usize;
        let taps = half * 2;
        let mut table = Vec::with_capacity(phases as usize * taps);
        for phase in 0..phases {
            let offset = phase as f64 / phases as f64;
            let row: Vec<f64> =
                (0..taps).map(|tap| kernel(tap as f64 - half as f64 + 1.0 - offset, half, scale)).collect();
            let total: f64 = row.iter().sum();
            table.extend(row.iter().map(|value| (value / total) as f32));
        }
        Ok(Resampler {
            rate_hz,
            channels: channels as usize,
            taps,
            phases,
            table,
            history: vec![0.0; taps * 2],
            // The stream is preceded by silence of half the filter, so that output 0 lies at input 0.
            filled: half - 1,
            fraction: 0,
            frame: 0,
            sum: 0.0,
            through: rate_hz == AUDIO_RATE_HZ,
        })
    }

    /// Rate of the input, Hz.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Channels of the input.
    pub fn channels(&self) -> u32 {
        self.channels as u32
    }

    /// Input that must follow before an output can be made, in samples of the input.
    pub fn delay_samples(&self) -> usize {
        if self.through { 0 } else { self.taps / 2 }
    }

    /// Takes interleaved samples of full scale 1 and hands each 16 kHz sample to `out`.
    pub fn push(&mut self, samples: impl IntoIterator<Item = f32>, mut out: impl FnMut(i16)) {
        for sample in samples {
            self.sum += sample;
            self.frame += 1;
            if self.frame == self.channels {
                let mono = self.sum / self.channels as f32;
                (self.frame, self.sum) = (0, 0.0);
                if self.through {
                    out(to_i16(mono));
                } else {
                    self.push_mono(mono, &mut out);
                }
            }
        }
    }

    /// The same for 16-bit samples.
    pub fn push_i16(&mut self, samples: impl IntoIterator<Item = i16>, out: impl FnMut(i16)) {
        self.push(samples.into_iter().map(|sample| f32::from(sample) / 32768.0), out);
    }

    fn push_mono(&mut self, sample: f32, out: &mut impl FnMut(i16)) {
        if self.filled == self.history.len() {
            self.history.copy_within(self.taps.., 0);
            self.filled = self.taps;
        }
        self.history[self.filled] = sample;
        self.filled += 1;
        if self.filled < self.taps {
            return;
        }
        let window = &self.history[self.filled - self.taps..self.filled];
        while self.fraction < u64::from(AUDIO_RATE_HZ) {
            let phase = ((self.fraction * self.phases + u64::from(AUDIO_RATE_HZ) / 2) / u64::from(AUDIO_RATE_HZ))
                .min(self.phases - 1) as usize;
            let row = &self.table[phase * self.taps..][..self.taps];
            out(to_i16(row.iter().zip(window).map(|(a, b)| a * b).sum()));
            self.fraction += u64::from(self.rate_hz);
        }
        self.fraction -= u64::from(AUDIO_RATE_HZ);
    }
}

fn to_i16(sample: f32) -> i16 {
    (sample * 32768.0).round().clamp(-32768.0, 32767.0) as i16
}

/// Sinc at `x` input samples, cut at `scale * PASS` of Nyquist, in a Blackman window of `half` samples on each side.
fn kernel(x: f64, half: usize, scale: f64) -> f64 {
    let at = x / half as f64;
    if at.abs() >= 1.0 {
        return 0.0;
    }
    let cut = scale * PASS;
    let angle = std::f64::consts::PI * x * cut;
    let sinc = if angle.abs() < 1e-9 { 1.0 } else { libm::sin(angle) / angle };
    let turn = std::f64::consts::PI * at;
    sinc * (0.42 + 0.5 * libm::cos(turn) + 0.08 * libm::cos(2.0 * turn))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate_hz: u32, hz: f64, seconds: f64) -> Vec<f32> {
        let n = (f64::from(rate_hz) * seconds) as usize;
        (0..n).map(|i| (0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate_hz)).sin()) as f32).collect()
    }

    fn convert(rate_hz: u32, samples: &[f32], piece: usize) -> Vec<i16> {
        let mut resampler = Resampler::new(rate_hz, 1).unwrap();
        let mut out = Vec::new();
        for part in samples.chunks(piece) {
            resampler.push(part.iter().copied(), |sample| out.push(sample));
        }
        out
    }

    #[test]
    fn a_tone_stays_a_tone_at_its_place() {
        for rate_hz in [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 47_999, 96_000] {
            let out = convert(rate_hz, &tone(rate_hz, 1_000.0, 0.5), 441);
            let expected = tone(16_000, 1_000.0, 0.5);
            assert!(out.len() > 7_800 && out.len() <= 8_001, "{rate_hz}: {}", out.len());
            // Away from the ends the two agree sample by sample: same pitch, level and instant.
            let error = out[400..7_600].iter().zip(&expected[400..7_600]);
            let worst = error.map(|(a, b)| (f32::from(*a) / 32768.0 - b).abs()).fold(0.0, f32::max);
            assert!(worst < 0.005, "{rate_hz}: {worst}");
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_is_gone() {
        let out = convert(48_000, &tone(48_000, 11_000.0, 0.5), 480);
        let loudest = out[400..7_600].iter().map(|sample| sample.unsigned_abs()).max().unwrap();
        assert!(loudest < 33, "an 11 kHz tone of 16384 leaves {loudest}"); // 54 dB down
    }

    #[test]
    fn pieces_do_not_matter_and_channels_are_averaged() {
        let samples = tone(44_100, 700.0, 0.2);
        assert_eq!(convert(44_100, &samples, 1), convert(44_100, &samples, 4_000));
        let mut stereo = Resampler::new(16_000, 2).unwrap();
        let mut out = Vec::new();
        stereo.push_i16([100, 200, -7, -9], |sample| out.push(sample));
        assert_eq!(out, [150, -8]);
        assert!(Resampler::new(100, 1).is_err() && Resampler::new(16_000, 0).is_err());
    }
}

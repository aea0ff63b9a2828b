//! The robot's own voice taken out of what its microphone hears. A block of sound with what the loudspeaker played at
//! the same instants flows in; the block without the echo, and how much of it was echo, flow out.
//!
//! A partitioned-block frequency-domain Kalman filter (Enzner and Vary 2006; Kuech, Mabande and Enzner 2014) learns the
//! path from loudspeaker to microphone, up to 120 ms. Its own uncertainty sets the step size, so that a second talker
//! slows it down instead of leading it astray, and no double-talk detector is needed. What it could not cancel is
//! turned down as a whole where it expects nothing but such a rest. All arithmetic is `f32` in a fixed order.

use super::spectrum::{BINS, Bins, Complex, Fourier, POINTS};
use crate::types::{AUDIO_BLOCK, AudioBlock};

/// Samples the filter works on at once: 10 ms.
const HOP: usize = AUDIO_BLOCK / 2;
/// Partitions of [`HOP`] taps each: 120 ms of echo path.
const PARTITIONS: usize = 12;
/// How badly the path is known at the start: variance of one bin of one partition, relative to a path of gain 1.
const FIRST_VARIANCE: f32 = 2.0;
/// How constant the path's error is from hop to hop, and the path itself.
const CONSTANCY: f32 = 0.9985;
const FORGETTING: f32 = 0.9999;
/// Bins are not independent (a hop is short against the transform), so a correction teaches less than the scalar Kalman
/// recursion believes. Both factors were chosen by hearing tests on synthetic talkers in rooms (`sound_tests`):
/// the error that the uncertainty explains counts double, and half of the believed gain in knowledge is kept.
const EXPLAINED: f32 = 2.0;
const BELIEVED: f32 = 0.5;
/// Partitions held to their taps in each hop, in turns.
const CONSTRAINED: usize = 4;
/// Least power that counts as a played sample, of full scale squared, summed over a hop.
const SILENT_POWER: f32 = 1e-7;
/// The rest may be turned down to this. Lower, and a "stop" said over the robot's voice is turned down with it.
const LEAST_GAIN: f32 = 0.3;
/// So many times of what is left unexplained must be there to count as somebody's voice. This and the gain above were chosen by
/// how many are heard (`tests/self_hearing.rs`).
const DOUBT: f32 = 1.4;
/// What leaks through is the least that was left within so many hops of sounding echo: 0.4 s. Another talker has
/// pauses in which the truth shows; an echo that the filter cannot follow (devices that stumble) has none.
const LEAK_HOPS: usize = 40;
/// Less is not believed: what no linear filter models is 23 dB below the echo.
const LEAST_LEAK: f32 = 0.005;
/// More is not sensible to mask: 9 dB above what the filter found.
const MOST_LEAK: f32 = 8.0;

/// What became of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cleaned {
    /// The block's samples without the echo.
    pub samples: [i16; AUDIO_BLOCK],
    /// The echo that was found in it.
    pub echo: [f32; AUDIO_BLOCK],
    /// Share of the block's power that is echo, 0..=1000; 0 while the loudspeaker is silent.
    pub echo_permille: u16,
    /// Something was played within the reach of the filter.
    pub active: bool,
    /// Power that the filter leaves of the echo, relative to what it takes out.
    pub leak: f32,
}

/// The learned path and the sound on its way through it.
#[derive(Debug, Clone)]
pub struct EchoReducer {
    fourier: Fourier,
    /// The last [`POINTS`] played samples.
    played: Box<[f32; POINTS]>,
    /// Spectra of the played sound, newest first.
    spectra: Box<[Bins; PARTITIONS]>,
    /// The path.
    path: Box<[Bins; PARTITIONS]>,
    /// Variance of the path's error.
    variance: Box<[[f32; BINS]; PARTITIONS]>,
    /// Hops until nothing played is left in `spectra`.
    ringing: usize,
    /// Whose taps are held to their place next.
    constrained: usize,
    gain: f32,
    leak: Leak,
}

/// How well the filter works, by minimum statistics (Martin 2001) of what is left over what was taken out.
#[derive(Debug, Clone)]
struct Leak {
    left: f32,
    taken: f32,
    ratios: Box<[f32; LEAK_HOPS]>,
    hops: usize,
}

impl Leak {
    fn new() -> Leak {
        Leak { left: 0.0, taken: 0.0, ratios: Box::new([MOST_LEAK; LEAK_HOPS]), hops: 0 }
    }

    fn push(&mut self, left: f32, taken: f32) {
        self.left += (left - self.left) / 4.0;
        let before = self.taken;
        self.taken += (taken - self.taken) / 4.0;
        // Only while the echo sounds: in its pauses, noise is all that is left.
        if taken > SILENT_POWER * POINTS as f32 && taken > 0.25 * before {
            self.ratios[self.hops % LEAK_HOPS] = self.left / self.taken;
            self.hops += 1;
        }
    }

    fn estimate(&self) -> f32 {
        self.ratios.iter().copied().fold(MOST_LEAK, f32::min).max(LEAST_LEAK)
    }
}

impl Default for EchoReducer {
    fn default() -> Self {
        EchoReducer::new()
    }
}

impl EchoReducer {
    /// A filter that knows nothing of the path yet.
    pub fn new() -> EchoReducer {
        EchoReducer {
            fourier: Fourier::new(),
            played: Box::new([0.0; POINTS]),
            spectra: Box::new([[Complex::default(); BINS]; PARTITIONS]),
            path: Box::new([[Complex::default(); BINS]; PARTITIONS]),
            variance: Box::new([[FIRST_VARIANCE; BINS]; PARTITIONS]),
            ringing: 0,
            constrained: 0,
            gain: 1.0,
            leak: Leak::new(),
        }
    }

    /// Takes the echo out of one block; blocks come in order.
    pub fn clean(&mut self, block: &AudioBlock) -> Cleaned {
        let mut out =
            Cleaned { samples: block.samples, echo: [0.0; AUDIO_BLOCK], echo_permille: 0, active: false, leak: 0.0 };
        let (mut total, mut left) = (0.0f32, 0.0f32);
        for half in 0..2 {
            let range = half * HOP..(half + 1) * HOP;
            let mut heard = [0.0f32; HOP];
            for (h, s) in heard.iter_mut().zip(&block.samples[range.clone()]) {
                *h = f32::from(*s) / 32_768.0;
            }
            if !self.take_played(&block.played[range.clone()]) {
                self.gain = 1.0;
                let power = power_of(&heard);
                (total, left) = (total + power, left + power);
                continue;
            }
            out.active = true;
            let (echo, rest, gain) = self.hop(&heard);
            total += power_of(&heard);
            left += power_of(&rest).min(power_of(&heard));
            let step = (gain - self.gain) / HOP as f32;
            for (i, sample) in out.samples[range.clone()].iter_mut().enumerate() {
                let g = self.gain + step * (i + 1) as f32;
                *sample = (rest[i] * g * 32_768.0).clamp(-32_768.0, 32_767.0) as i16;
            }
            out.echo[range].copy_from_slice(&echo);
            self.gain = gain;
        }
        out.leak = self.leak.estimate();
        if out.active && total > SILENT_POWER {
            out.echo_permille = ((1.0 - left / total).clamp(0.0, 1.0) * 1000.0) as u16;
        }
        out
    }

    /// Shifts played samples in; false if the filter has nothing to do.
    fn take_played(&mut self, played: &[i16]) -> bool {
        let mut power = 0.0f32;
        self.played.copy_within(HOP.., 0);
        for (p, s) in self.played[POINTS - HOP..].iter_mut().zip(played) {
            *p = f32::from(*s) / 32_768.0;
            power += *p * *p;
        }
        if power > SILENT_POWER {
            self.ringing = PARTITIONS + POINTS / HOP + 1;
        } else if self.ringing > 0 {
            self.ringing -= 1;
            if self.ringing == 0 {
                self.played.fill(0.0);
                self.spectra.fill([Complex::default(); BINS]);
            }
        }
        if self.ringing == 0 {
            return false;
        }
        self.spectra.rotate_right(1);
        self.fourier.forward(&self.played, &mut self.spectra[0]);
        true
    }

    /// One hop: predicts the echo, corrects the path, says how far to turn the rest down.
    fn hop(&mut self, heard: &[f32; HOP]) -> ([f32; HOP], [f32; HOP], f32) {
        let mut sum = [Complex::default(); BINS];
        let mut expected = [0.0f32; BINS];
        for p in 0..PARTITIONS {
            let (x, h, v) = (&self.spectra[p], &self.path[p], &self.variance[p]);
            for k in 0..BINS {
                let y = x[k].times(h[k]);
                sum[k].re += y.re;
                sum[k].im += y.im;
                expected[k] += v[k] * x[k].power();
            }
        }
        let mut time = [0.0f32; POINTS];
        self.fourier.inverse(&sum, &mut time);
        let (mut echo, mut rest) = ([0.0f32; HOP], [0.0f32; HOP]);
        echo.copy_from_slice(&time[POINTS - HOP..]);
        for i in 0..HOP {
            rest[i] = heard[i] - echo[i];
        }
        time.fill(0.0);
        time[POINTS - HOP..].copy_from_slice(&rest);
        let mut error = [Complex::default(); BINS];
        self.fourier.forward(&time, &mut error);
        self.learn(&error, &expected);
        let (left, taken) = (loudness(&error), loudness(&sum) * HOP as f32 / POINTS as f32);
        self.leak.push(left, taken);
        (echo, rest, rest_gain(&error, &expected, &sum, self.leak.estimate()))
    }

    fn learn(&mut self, error: &Bins, expected: &[f32; BINS]) {
        // A hop of POINTS samples holds HOP new ones: the share of the error that the prediction explains.
        let share = HOP as f32 / POINTS as f32;
        let mut step = [0.0f32; BINS];
        for k in 0..BINS {
            step[k] = 1.0 / (EXPLAINED * share * expected[k] + error[k].power() + 1e-9);
        }
        for p in 0..PARTITIONS {
            let (x, h, v) = (&self.spectra[p], &mut self.path[p], &mut self.variance[p]);
            for k in 0..BINS {
                let gain = v[k] * step[k];
                let pull = x[k].conj().times(error[k]);
                h[k].re = FORGETTING * (h[k].re + gain * pull.re);
                h[k].im = FORGETTING * (h[k].im + gain * pull.im);
                let kept = 1.0 - BELIEVED * share * gain * x[k].power();
                let a2 = CONSTANCY * CONSTANCY;
                v[k] = a2 * kept.max(0.0) * v[k] + (1.0 - a2) * (h[k].power() + 1e-6);
            }
        }
        self.constrain();
    }

    /// Holds some partitions' impulse responses to their own [`HOP`] taps; all take turns.
    fn constrain(&mut self) {
        let mut time = [0.0f32; POINTS];
        for _ in 0..CONSTRAINED {
            let p = self.constrained;
            self.constrained = (p + 1) % PARTITIONS;
            self.fourier.inverse(&self.path[p], &mut time);
            time[HOP..].fill(0.0);
            self.fourier.forward(&time, &mut self.path[p]);
        }
    }
}

/// Power above the hum.
fn loudness(bins: &Bins) -> f32 {
    bins[4..].iter().map(|b| b.power()).sum()
}

/// Gain for what is left: near 1 where much more is left than the filter's uncertainty and its leak explain.
fn rest_gain(error: &Bins, expected: &[f32; BINS], echo: &Bins, leak: f32) -> f32 {
    let share = HOP as f32 / POINTS as f32;
    let unsure: f32 = (4..BINS).map(|k| share * (expected[k] + leak * echo[k].power())).sum();
    let voice = 1.0 - DOUBT * unsure / (loudness(error) + 1e-9);
    libm::sqrtf(voice.clamp(0.0, 1.0)).max(LEAST_GAIN)
}

fn power_of(samples: &[f32]) -> f32 {
    samples.iter().map(|s| s * s).sum()
}

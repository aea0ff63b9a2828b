//! The echo reference of a microphone: for each of its blocks, what the loudspeaker played at the same instants. Blocks
//! and the sound that was played flow in; the reference flows out, placed so that the echo comes a little after it.
//!
//! Sound devices err about their latencies, by tens of milliseconds where a sound server or a wireless loudspeaker is
//! between, and an echo that comes before its reference, or long after it, is one that no filter can learn. So the lag
//! is measured: generalised cross-correlation with phase transform (Knapp and Carter 1976) of what is heard with
//! what was played, a second of it twice a second, while something is played.

use super::played::{PlayedSound, SampleClock};
use crate::types::{AUDIO_BLOCK, AUDIO_RATE_HZ, Nanos};
use realfft::num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use std::sync::Arc;

/// Before anything is measured, the reference is taken this much early, so that the echo comes after it.
const FIRST_LEAD: Nanos = Nanos::from_ms(40);
/// Samples per millisecond.
const MS: usize = AUDIO_RATE_HZ as usize / 1_000;
/// Sound compared at once: a second.
const COMPARED: usize = 1_000 * MS;
/// Lags looked at, either way: 300 ms.
const REACH: usize = 300 * MS;
const POINTS: usize = COMPARED + 2 * REACH;
/// Blocks from one measurement to the next: half a second.
const EVERY: usize = COMPARED / 2 / AUDIO_BLOCK;
/// The echo may come this long after its reference: later, and the room's tail outlasts the filter (120 ms).
const LEAST_LAG: i64 = 4 * MS as i64;
const MOST_LAG: i64 = 56 * MS as i64;
/// Where it is put if it does not.
const GOOD_LAG: i64 = 20 * MS as i64;
/// A peak counts from this many times the correlation's root mean square on. Of the 9,600 lags of sounds that have
/// nothing to do with each other, the highest is at 4 to 5.
const PEAK: f32 = 8.0;
/// Two measurements in a row agree if they are within this.
const AGREE: i64 = 3 * MS as i64;
/// Mean power of a sample, of full scale squared, from which on a second is worth comparing: -60 dB.
const AUDIBLE: f32 = 1e-6;

/// The reference of one microphone. Not for the tick: a measurement takes some milliseconds.
pub struct EchoReference {
    clock: SampleClock,
    /// Samples by which the reference is taken early, learned.
    shift: i64,
    finder: LagFinder,
}

impl Default for EchoReference {
    fn default() -> Self {
        EchoReference::new()
    }
}

impl EchoReference {
    /// Knows nothing of the devices yet.
    pub fn new() -> EchoReference {
        EchoReference { clock: SampleClock::new(), shift: 0, finder: LagFinder::new() }
    }

    /// The microphone was interrupted. What was learned of its latency is kept until measured anew.
    pub fn interrupted(&mut self) {
        self.clock.interrupted();
        self.finder.interrupted();
    }

    /// The reference of the block that was captured at `captured`; blocks come in order. The second value is the lag that
    /// was corrected, if this block led to a correction.
    pub fn of(
        &mut self,
        captured: Nanos,
        heard: &[i16; AUDIO_BLOCK],
        played: &PlayedSound,
    ) -> ([i16; AUDIO_BLOCK], Option<i64>) {
        let estimate = PlayedSound::sample_at(captured.after(FIRST_LEAD));
        let number = self.clock.place(estimate, AUDIO_BLOCK);
        let corrected = self.finder.push(number.saturating_add_signed(self.shift), heard, played);
        if let Some(lag) = corrected {
            self.shift += GOOD_LAG - lag;
            self.finder.interrupted();
        }
        let mut reference = [0i16; AUDIO_BLOCK];
        played.read_from(number.saturating_add_signed(self.shift), &mut reference);
        (reference, corrected.map(|lag| lag / MS as i64))
    }
}

/// Measures by how much what is heard lags behind its reference.
struct LagFinder {
    /// The last [`COMPARED`] + [`REACH`] samples heard, oldest first; the newest [`REACH`] wait until what they may
    /// precede has been played.
    heard: Vec<i16>,
    /// Reference number of the first of them.
    first: u64,
    blocks: usize,
    before: Option<i64>,
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
}

impl LagFinder {
    fn new() -> LagFinder {
        let mut planner = RealFftPlanner::new();
        LagFinder {
            heard: Vec::with_capacity(COMPARED + REACH + AUDIO_BLOCK),
            first: 0,
            blocks: 0,
            before: None,
            forward: planner.plan_fft_forward(POINTS),
            inverse: planner.plan_fft_inverse(POINTS),
        }
    }

    fn interrupted(&mut self) {
        self.heard.clear();
        self.before = None;
    }

    /// Takes a block whose reference starts at `number`; gives the lag, in samples, if it has to be corrected.
    fn push(&mut self, number: u64, block: &[i16; AUDIO_BLOCK], played: &PlayedSound) -> Option<i64> {
        let expected = self.first + self.heard.len() as u64;
        if self.heard.is_empty() || number.abs_diff(expected) > MS as u64 {
            self.interrupted();
            self.first = number;
        }
        self.heard.extend_from_slice(block);
        let over = self.heard.len().saturating_sub(COMPARED + REACH);
        if over > 0 {
            self.heard.drain(..over);
        }
        self.first = (number + AUDIO_BLOCK as u64).saturating_sub(self.heard.len() as u64);
        self.blocks += 1;
        if self.blocks < EVERY || self.heard.len() < COMPARED + REACH {
            return None;
        }
        self.blocks = 0;
        let lag = self.measure(played);
        let before = std::mem::replace(&mut self.before, lag);
        let (lag, before) = (lag?, before?);
        ((lag - before).abs() <= AGREE && !(LEAST_LAG..=MOST_LAG).contains(&lag)).then_some(lag)
    }

    /// The lag at which what was heard resembles what was played; `None` if it does not, or nothing was.
    fn measure(&self, played: &PlayedSound) -> Option<i64> {
        let mut there = [0i16; POINTS];
        played.read_from(self.first.checked_sub(REACH as u64)?, &mut there);
        let power = |samples: &[i16]| {
            samples.iter().map(|s| f32::from(*s) * f32::from(*s)).sum::<f32>() / samples.len() as f32 / 1_073_741_824.0
        };
        let here = &self.heard[..COMPARED];
        if power(&there[REACH..REACH + COMPARED]) < AUDIBLE || power(here) < AUDIBLE {
            return None;
        }
        let spectrum = |samples: &[i16]| {
            let mut time = vec![0.0f32; POINTS];
            for (t, s) in time.iter_mut().zip(samples) {
                *t = f32::from(*s) / 32_768.0;
            }
            let mut bins = self.forward.make_output_vec();
            self.forward.process(&mut time, &mut bins).ok().map(|()| bins)
        };
        let (x, mut y) = (spectrum(&there)?, spectrum(here)?);
        // Only speech's own band: beyond it there is noise, which the phase transform would raise.
        let band = |hz: usize| hz * POINTS / AUDIO_RATE_HZ as usize;
        for (k, (y, x)) in y.iter_mut().zip(&x).enumerate() {
            let cross = if (band(150)..band(4_000)).contains(&k) { x * y.conj() } else { Complex32::default() };
            *y = cross / (cross.norm() + 1e-9);
        }
        let mut correlation = vec![0.0f32; POINTS];
        self.inverse.process(&mut y, &mut correlation).ok()?;
        let lags = &correlation[..=2 * REACH];
        let rms = (lags.iter().map(|c| c * c).sum::<f32>() / lags.len() as f32).sqrt();
        let (at, peak) = lags.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        (*peak > PEAK * rms).then_some(REACH as i64 - at as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sound::tests::talker;
    use super::*;

    /// Plays one talker for `seconds` with the echo `late` samples after the instants that the devices claim, with a second
    /// talker beside; gives the lags that were corrected, in ms, and the lag left at the end, in samples.
    fn lags(late: i64, echo: f32, beside: f32) -> (Vec<i64>, Option<i64>) {
        let seconds = 6;
        let (own, other) = (talker(7, 16_000 * (seconds + 2)), talker(99, 16_000 * (seconds + 2)));
        let played = PlayedSound::new();
        let mut reference = EchoReference::new();
        let begun = 100 * 16_000u64;
        let whole = |s: f32| (s * 32_768.0).clamp(-32_768.0, 32_767.0) as i16;
        let mut corrected = Vec::new();
        for k in 0..(seconds * 50) as u64 {
            let at = 16_000 + k as usize * AUDIO_BLOCK;
            // The loudspeaker announces what it plays 100 ms ahead.
            let ahead = at + 1_600;
            let announced: Vec<i16> = own[ahead..ahead + AUDIO_BLOCK].iter().map(|s| whole(*s)).collect();
            played.write(begun + ahead as u64, &announced);
            let heard: [i16; AUDIO_BLOCK] = std::array::from_fn(|i| {
                let from = (at + i) as i64 - late;
                whole(echo * own[from as usize] + 0.3 * echo * own[from as usize - 250] + beside * other[at + i])
            });
            let captured = Nanos((begun + at as u64) * 62_500);
            corrected.extend(reference.of(captured, &heard, &played).1);
        }
        let left = reference.finder.measure(&played);
        (corrected, left)
    }

    #[test]
    fn an_echo_outside_the_filters_reach_is_found_and_put_inside() {
        for late_ms in [-200, -60, 40, 150, 250] {
            let (corrected, left) = lags(late_ms * 16, 0.5, 0.2);
            assert_eq!(corrected.len(), 1, "{late_ms} ms: {corrected:?}");
            assert!((corrected[0] - late_ms - 40).abs() <= 1, "{late_ms} ms: {corrected:?}");
            assert!(left.is_some_and(|l| (l - GOOD_LAG).abs() <= 2), "{late_ms} ms: {left:?}");
        }
    }

    #[test]
    fn an_echo_within_reach_or_none_at_all_changes_nothing() {
        assert_eq!(lags(-30 * 16, 0.5, 0.2).0, vec![0i64; 0]);
        assert_eq!(lags(0, 0.5, 0.5).0, vec![0i64; 0]);
        assert_eq!(lags(0, 0.0, 0.5), (vec![], None));
    }
}

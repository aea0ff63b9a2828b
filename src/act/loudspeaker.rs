//! A loudspeaker opened through cpal (ALSA). Words' samples flow in; sound flows out, and back flow each word's end at the
//! device's time, what was played as the microphone's echo reference, and how much was taken, so that the words of a stream
//! that failed go on in the next.
//!
//! An under-run may end a stream of cpal 0.17 for good: the kernel then answers every poll with POLLERR, as for a device
//! that is gone. Only a device that does not open again is gone.

use crate::sense::played::{PlayedSound, SampleClock};
use crate::sense::sound_device::{self, Way};
use crate::time::Clock;
use crate::types::{AUDIO_RATE_HZ, Nanos, UtteranceId};
use cpal::traits::{DeviceTrait, StreamTrait};
use cpal::{BufferSize, OutputCallbackInfo, StreamConfig, StreamError};
use crossbeam_channel::Sender;
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Words that may wait to be played.
pub(super) const WORDS: usize = 64;
/// Sound that may wait to be played, samples: four seconds.
const SAMPLES: usize = 4 * AUDIO_RATE_HZ as usize;
/// Loss per sample when a word is cut: down to nothing in 3 ms, without a click.
const FADE: f32 = 0.9;

/// A word whose samples are in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spoken {
    pub utterance: UtteranceId,
    pub index: u16,
    /// Silences before it; a word of an older generation is not played any more.
    pub generation: u32,
    pub samples: usize,
}

/// A word that has left, or will leave, the loudspeaker as a whole at `at`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub utterance: UtteranceId,
    pub index: u16,
    pub at: Nanos,
}

/// What every loudspeaker that is opened needs.
pub(super) struct Ways {
    /// Where the ends of words go.
    pub done: Sender<Done>,
    /// Told when a stream fails.
    pub failed: Sender<()>,
    /// The generation that is spoken.
    pub generation: Arc<AtomicU32>,
    /// Where all that is played goes.
    pub played: Arc<PlayedSound>,
    /// Its instants.
    pub clock: Arc<dyn Clock>,
}

/// An open loudspeaker.
pub(super) struct Loudspeaker {
    stream: Option<cpal::Stream>,
    words: Producer<Spoken>,
    samples: Producer<i16>,
    taken: Arc<AtomicU64>,
    /// What the device said when it failed.
    failed: Arc<OnceLock<String>>,
    handed: Handed,
}

impl Drop for Loudspeaker {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            sound_device::close(stream);
        }
    }
}

impl Loudspeaker {
    /// Opens the device; `periods` is the length of a period in multiples of the shortest.
    ///
    /// # Errors
    /// One sentence.
    pub fn open(device: &str, periods: u32, ways: &Ways) -> Result<Loudspeaker, String> {
        let device = sound_device::find(device, Way::Out)?;
        let offered = device.default_output_config().map_err(|why| format!("it plays nothing: {why}"))?;
        let format = offered.sample_format();
        if !sound_device::is_known(format) {
            return Err(format!("its samples ({format}) are not supported"));
        }
        let (rate_hz, channels) = (offered.sample_rate(), offered.channels());
        let build = |buffer_size| {
            let (words, words_out) = RingBuffer::new(WORDS);
            let (samples, samples_out) = RingBuffer::new(SAMPLES);
            let (taken, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(OnceLock::new()));
            let mut callback = Callback {
                channels: usize::from(channels),
                source: WordSource {
                    words: words_out,
                    samples: samples_out,
                    generation: Arc::clone(&ways.generation),
                    current: None,
                    last: 0.0,
                    taken: 0,
                },
                total: Arc::clone(&taken),
                step: AUDIO_RATE_HZ as f32 / rate_hz as f32,
                fraction: 1.0,
                between: (0.0, 0.0),
                taken: Vec::with_capacity(rate_hz as usize),
                device_clock: SampleClock::new(),
                played: Arc::clone(&ways.played),
                done: ways.done.clone(),
                clock: Arc::clone(&ways.clock),
            };
            let (failing, tell) = (Arc::clone(&failed), ways.failed.clone());
            let stream = device.build_output_stream_raw(
                &StreamConfig { channels, sample_rate: rate_hz, buffer_size },
                format,
                move |data, info| callback.fill(data, info),
                move |error| {
                    // After this one cpal has started the device again by itself.
                    if !matches!(error, StreamError::BufferUnderrun) {
                        // It is said again and again until the stream is closed.
                        let _ = failing.get_or_init(|| error.to_string());
                        let _ = tell.try_send(());
                    }
                },
                Some(Duration::from_millis(200)),
            );
            let handed = Handed::default();
            stream.map(|stream| Loudspeaker { stream: Some(stream), words, samples, taken, failed, handed })
        };
        let output = build(BufferSize::Fixed(periods * sound_device::period_frames(rate_hz)))
            .or_else(|_| build(BufferSize::Default))
            .map_err(|why| format!("it cannot be opened: {why}"))?;
        if let Some(stream) = &output.stream {
            stream.play().map_err(|why| format!("it cannot be started: {why}"))?;
        }
        Ok(output)
    }

    /// Why the stream ended, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Whether a word of so many samples fits.
    pub fn has_room(&self, samples: usize) -> bool {
        self.samples.slots() >= samples.min(SAMPLES) && !self.words.is_full()
    }

    /// Hands a word over for which there is room.
    pub fn say(&mut self, word: Spoken, sound: Vec<i16>) {
        for sample in &sound {
            let _ = self.samples.push(*sample);
        }
        let _ = self.words.push(word);
        self.handed.forget(self.taken.load(Ordering::Acquire));
        self.handed.push(word, sound);
    }

    /// Closes it; the words that it has not played, the first of them from where it broke off.
    pub fn close(mut self) -> VecDeque<(Spoken, Vec<i16>)> {
        if let Some(stream) = self.stream.take() {
            sound_device::close(stream);
        }
        std::mem::take(&mut self.handed).rest(self.taken.load(Ordering::Acquire))
    }
}

/// Words handed to a stream that it may not have taken yet.
#[derive(Debug, Default)]
struct Handed {
    words: VecDeque<(Spoken, Vec<i16>)>,
    /// Samples of the words before these.
    before: u64,
}

impl Handed {
    fn push(&mut self, word: Spoken, sound: Vec<i16>) {
        self.words.push_back((word, sound));
    }

    /// Drops the words that were taken as a whole; `taken` counts all samples that were taken since the stream began.
    fn forget(&mut self, taken: u64) {
        while let Some((_, sound)) = self.words.front()
            && self.before + sound.len() as u64 <= taken
        {
            self.before += sound.len() as u64;
            self.words.pop_front();
        }
    }

    /// What is left when the stream has ended.
    fn rest(mut self, taken: u64) -> VecDeque<(Spoken, Vec<i16>)> {
        self.forget(taken);
        if let Some((word, sound)) = self.words.front_mut() {
            sound.drain(..taken.saturating_sub(self.before) as usize);
            word.samples = sound.len();
        }
        self.words
    }
}

/// 16 kHz samples of the words in turn; stale words are skipped.
struct WordSource {
    words: Consumer<Spoken>,
    samples: Consumer<i16>,
    generation: Arc<AtomicU32>,
    current: Option<Spoken>,
    last: f32,
    /// Samples of words, played or skipped.
    taken: u64,
}

impl WordSource {
    /// The next sample, and the word if it is the last one of it.
    fn next(&mut self, generation: u32) -> (f32, Option<Spoken>) {
        loop {
            if self.current.is_none() {
                self.current = self.words.pop().ok();
            }
            let Some(word) = &mut self.current else {
                // Fades what was cut, and is silent after that.
                self.last = if self.last.abs() < 1e-3 { 0.0 } else { self.last * FADE };
                return (self.last, None);
            };
            if word.generation != generation {
                self.taken += word.samples as u64;
                if let Ok(rest) = self.samples.read_chunk(word.samples) {
                    rest.commit_all();
                }
                self.current = None;
                continue;
            }
            self.last = f32::from(self.samples.pop().unwrap_or_default()) / 32_768.0;
            self.taken += 1;
            word.samples = word.samples.saturating_sub(1);
            let ended = if word.samples == 0 { self.current.take() } else { None };
            return (self.last, ended);
        }
    }
}

/// The audio callback's side: no allocation, no lock.
struct Callback {
    channels: usize,
    source: WordSource,
    /// 16 kHz samples per output frame.
    step: f32,
    fraction: f32,
    between: (f32, f32),
    /// 16 kHz samples taken in this period.
    taken: Vec<i16>,
    /// Samples of words taken in all periods.
    total: Arc<AtomicU64>,
    device_clock: SampleClock,
    played: Arc<PlayedSound>,
    done: Sender<Done>,
    clock: Arc<dyn Clock>,
}

impl Callback {
    fn fill(&mut self, data: &mut cpal::Data, info: &OutputCallbackInfo) {
        let now = self.clock.now();
        let stamps = info.timestamp();
        let ahead = stamps.playback.duration_since(&stamps.callback).filter(|a| *a < Duration::from_secs(2));
        let first = now.after(Nanos(ahead.unwrap_or_default().as_nanos() as u64));
        let generation = self.source.generation.load(Ordering::Acquire);
        self.taken.clear();
        let (source, between, fraction, step) = (&mut self.source, &mut self.between, &mut self.fraction, self.step);
        let (taken, done) = (&mut self.taken, &self.done);
        sound_device::write(data, self.channels, || {
            while *fraction >= 1.0 {
                *fraction -= 1.0;
                let (sample, ended) = source.next(generation);
                *between = (between.1, sample);
                if taken.len() < taken.capacity() {
                    taken.push((sample * 32_767.0) as i16);
                }
                if let Some(word) = ended {
                    let offset = Nanos(taken.len() as u64 * 1_000_000_000 / u64::from(AUDIO_RATE_HZ));
                    let at = first.after(offset);
                    let _ = done.try_send(Done { utterance: word.utterance, index: word.index, at });
                }
            }
            let value = between.0 + (between.1 - between.0) * *fraction;
            *fraction += step;
            value
        });
        self.total.store(self.source.taken, Ordering::Release);
        self.announce(first);
    }

    /// Writes what will be heard into the reference, without a seam.
    fn announce(&mut self, first: Nanos) {
        let number = self.device_clock.place(PlayedSound::sample_at(first), self.taken.len());
        self.played.write(number, &self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> (WordSource, Producer<Spoken>, Producer<i16>, Arc<AtomicU32>) {
        let (words, words_out) = RingBuffer::new(8);
        let (samples, samples_out) = RingBuffer::new(1_000);
        let generation = Arc::new(AtomicU32::new(0));
        let shared = Arc::clone(&generation);
        let source = WordSource {
            words: words_out,
            samples: samples_out,
            generation: shared,
            current: None,
            last: 0.0,
            taken: 0,
        };
        (source, words, samples, generation)
    }

    fn push(words: &mut Producer<Spoken>, samples: &mut Producer<i16>, index: u16, generation: u32, value: i16) {
        (0..100).for_each(|_| samples.push(value).unwrap());
        words.push(Spoken { utterance: UtteranceId(1), index, generation, samples: 100 }).unwrap();
    }

    #[test]
    fn words_follow_each_other_and_each_end_is_told() {
        let (mut source, mut words, mut samples, _) = source();
        push(&mut words, &mut samples, 0, 0, 8_192);
        push(&mut words, &mut samples, 1, 0, -8_192);
        let sound: Vec<_> = (0..300).map(|_| source.next(0)).collect();
        assert!(sound[..100].iter().all(|s| s.0 == 0.25) && sound[100..200].iter().all(|s| s.0 == -0.25));
        let ends: Vec<_> = sound.iter().enumerate().filter_map(|(n, s)| s.1.map(|w| (n, w.index))).collect();
        assert_eq!(ends, [(99, 0), (199, 1)]);
        assert_eq!(sound[299].0, 0.0);
    }

    #[test]
    fn silence_cuts_within_the_word_without_a_click_and_forgets_the_rest() {
        let (mut source, mut words, mut samples, _) = source();
        push(&mut words, &mut samples, 0, 0, 8_192);
        push(&mut words, &mut samples, 1, 0, 8_192);
        (0..40).for_each(|_| assert_eq!(source.next(0).0, 0.25));
        let rest: Vec<_> = (0..200).map(|_| source.next(1)).collect();
        assert!(rest.windows(2).all(|w| w[1].0 <= w[0].0) && rest[60].0 == 0.0 && rest.iter().all(|s| s.1.is_none()));
        push(&mut words, &mut samples, 0, 1, 4_096);
        assert_eq!(source.next(1).0, 0.125, "what is said after the silence is heard");
    }

    fn word(index: u16, samples: usize) -> (Spoken, Vec<i16>) {
        let word = Spoken { utterance: UtteranceId(1), index, generation: 0, samples };
        (word, (0..samples as i16).map(|n| n + 1_000 * index as i16).collect())
    }

    #[test]
    fn what_a_stream_that_failed_had_not_taken_is_left_for_the_next_one() {
        let mut handed = Handed::default();
        for index in 1..=3 {
            let (word, sound) = word(index, 100);
            handed.push(word, sound);
        }
        handed.forget(100);
        assert_eq!(handed.words.len(), 2, "the first one was taken");
        let rest = handed.rest(140);
        assert_eq!(
            rest.iter().map(|(word, sound)| (word.index, word.samples, sound[0])).collect::<Vec<_>>(),
            [(2, 60, 2_040), (3, 100, 3_000)]
        );
    }

    #[test]
    fn what_was_silenced_counts_as_taken() {
        let (mut source, mut words, mut samples, _) = source();
        push(&mut words, &mut samples, 0, 0, 8_192);
        push(&mut words, &mut samples, 1, 0, 8_192);
        push(&mut words, &mut samples, 2, 1, 8_192);
        for _ in 0..40 {
            source.next(0);
        }
        for _ in 0..10 {
            source.next(1);
        }
        assert_eq!(source.taken, 210, "two words skipped, ten samples of the third played");
    }
}

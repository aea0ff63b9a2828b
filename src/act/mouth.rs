//! The audible voice: espeak-ng's words played by a loudspeaker. Words flow in from the body's thread; sound flows out
//! through cpal; what was played, at the device's time, flows back as reports and as the microphone's echo reference.
//!
//! The audio callback takes samples from a ring and stops at its next period when told to be silent. Without a
//! loudspeaker words take as long as they would have sounded, and the device is looked for again.

use super::body::Voice;
use super::espeak::Espeak;
use super::voice::speech_ms;
use crate::config::VoiceConfig;
use crate::sense::played::{PlayedSound, SampleClock};
use crate::sense::sound_device::{self, Way};
use crate::time::Clock;
use crate::types::{AUDIO_RATE_HZ, Nanos, UtteranceId, VoiceReport, Word};
use cpal::traits::{DeviceTrait, StreamTrait};
use cpal::{BufferSize, OutputCallbackInfo, StreamConfig, StreamError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Words that may wait to be synthesised or played.
const WORDS: usize = 64;
/// Sound that may wait for the loudspeaker, samples: four seconds.
const SAMPLES: usize = 4 * AUDIO_RATE_HZ as usize;
/// A missing loudspeaker is looked for again this often.
const RETRY: Nanos = Nanos::from_s(1);
/// Loss per sample when a word is cut: down to nothing in 3 ms, without a click.
const FADE: f32 = 0.9;

/// A word on its way.
#[derive(Debug, Clone, Copy)]
struct Order {
    utterance: UtteranceId,
    index: u16,
    word: Word,
    /// Silences before it; an order of an older generation is not spoken any more.
    generation: u32,
}

/// A word whose samples are in the ring.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    utterance: UtteranceId,
    index: u16,
    generation: u32,
    samples: usize,
}

/// A word that has left, or will leave, the loudspeaker as a whole at `at`.
#[derive(Debug, Clone, Copy)]
struct Done {
    utterance: UtteranceId,
    index: u16,
    at: Nanos,
}

/// The voice, as the body sees it.
pub struct EspeakVoice {
    orders: Option<Sender<Order>>,
    done: Receiver<Done>,
    pending: VecDeque<Done>,
    queued: VecDeque<(UtteranceId, u16, Nanos)>,
    generation: Arc<AtomicU32>,
    words_per_minute: u32,
    report: VoiceReport,
    silenced: UtteranceId,
    thread: Option<JoinHandle<()>>,
}

impl EspeakVoice {
    /// Starts the voice. `played` hears all that leaves the loudspeaker.
    ///
    /// # Errors
    /// A sentence if espeak-ng is not installed. A missing loudspeaker is no error.
    pub fn start(config: &VoiceConfig, played: Arc<PlayedSound>, clock: Arc<dyn Clock>) -> Result<EspeakVoice, String> {
        let espeak = Espeak::new(&config.voice, config.words_per_minute)?;
        let (orders, from_body) = bounded(WORDS);
        let (to_body, done) = bounded(2 * WORDS);
        let generation = Arc::new(AtomicU32::new(0));
        let mouth = Mouth {
            espeak,
            device: config.device.clone(),
            orders: from_body,
            done: to_body,
            generation: Arc::clone(&generation),
            played,
            clock,
            output: None,
            retry: Nanos::ZERO,
            busy_until: Nanos::ZERO,
            told: false,
        };
        let thread = std::thread::Builder::new()
            .name("mouth".to_owned())
            .spawn(move || mouth.run())
            .map_err(|why| format!("no thread for the voice: {why}"))?;
        Ok(EspeakVoice {
            orders: Some(orders),
            done,
            pending: VecDeque::with_capacity(2 * WORDS),
            queued: VecDeque::with_capacity(WORDS),
            generation,
            words_per_minute: config.words_per_minute,
            report: VoiceReport::default(),
            silenced: UtteranceId(0),
            thread: Some(thread),
        })
    }
}

impl Drop for EspeakVoice {
    fn drop(&mut self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Voice for EspeakVoice {
    fn say(&mut self, now: Nanos, utterance: UtteranceId, index: u16, word: &Word) {
        self.report(now);
        if utterance <= self.silenced || self.queued.len() >= WORDS {
            return;
        }
        let order = Order { utterance, index, word: *word, generation: self.generation.load(Ordering::Relaxed) };
        if self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok()) {
            let lasts = Nanos::from_ms(u64::from(speech_ms(word, self.words_per_minute)));
            if self.queued.is_empty() && utterance != self.report.utterance {
                (self.report.utterance, self.report.played_words) = (utterance, index);
            }
            self.queued.push_back((utterance, index, lasts));
        }
    }

    fn end_of_answer(&mut self, _: Nanos, _: UtteranceId) {}

    fn silence(&mut self, now: Nanos) {
        self.report(now);
        self.generation.fetch_add(1, Ordering::Release);
        let newest = self.queued.back().map_or(self.report.utterance, |w| w.0);
        self.silenced = self.silenced.max(newest);
        if !self.queued.is_empty() {
            self.queued.clear();
            self.report.silent_since = now.after(super::voice::AUDIO_PERIOD);
        }
        self.pending.clear();
    }

    fn report(&mut self, now: Nanos) -> VoiceReport {
        while let Ok(done) = self.done.try_recv() {
            self.pending.push_back(done);
        }
        while let Some(done) = self.pending.front().copied().filter(|d| d.at <= now) {
            self.pending.pop_front();
            // A word that was silenced in the meantime is not in the queue any more.
            if self.queued.front().is_some_and(|w| (w.0, w.1) == (done.utterance, done.index)) {
                self.queued.pop_front();
                (self.report.utterance, self.report.played_words) = (done.utterance, done.index + 1);
                match self.queued.front() {
                    Some(next) if next.0 != done.utterance => {
                        (self.report.utterance, self.report.played_words) = (next.0, next.1);
                    }
                    Some(_) => {}
                    None => self.report.silent_since = done.at,
                }
            }
        }
        self.report.playing = !self.queued.is_empty();
        self.report.queued_words = self.queued.iter().filter(|w| w.0 == self.report.utterance).count() as u16;
        self.report.queued = self.queued.iter().fold(Nanos::ZERO, |sum, w| sum.after(w.2));
        self.report
    }

    fn next_change(&self) -> Option<Nanos> {
        self.pending.front().map(|done| done.at)
    }
}

/// The thread that synthesises and keeps the loudspeaker open.
struct Mouth {
    espeak: Espeak,
    device: String,
    orders: Receiver<Order>,
    done: Sender<Done>,
    generation: Arc<AtomicU32>,
    played: Arc<PlayedSound>,
    clock: Arc<dyn Clock>,
    output: Option<Output>,
    retry: Nanos,
    /// Without a loudspeaker: when the last word would have ended.
    busy_until: Nanos,
    told: bool,
}

struct Output {
    stream: Option<cpal::Stream>,
    words: Producer<Spoken>,
    samples: Producer<i16>,
    failed: Arc<AtomicBool>,
}

impl Drop for Output {
    fn drop(&mut self) {
        // Closing a device whose server died may hang: let it hang elsewhere.
        if let Some(stream) = self.stream.take() {
            let _ = std::thread::Builder::new().name("close-sound".to_owned()).spawn(move || drop(stream));
        }
    }
}

impl Mouth {
    fn run(mut self) {
        loop {
            self.keep_open();
            match self.orders.recv_timeout(Duration::from_millis(100)) {
                Ok(order) => self.speak(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn keep_open(&mut self) {
        if self.output.as_ref().is_some_and(|o| o.failed.load(Ordering::Relaxed)) {
            self.output = None;
        }
        let now = self.clock.now();
        if self.output.is_some() || now < self.retry {
            return;
        }
        self.retry = now.after(RETRY);
        match self.open() {
            Ok(output) => {
                self.output = Some(output);
                if std::mem::take(&mut self.told) {
                    tracing::info!(device = %self.device, "the loudspeaker is back");
                }
            }
            Err(why) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(device = %self.device, "no loudspeaker ({why}); words are timed in silence until it returns");
                }
            }
        }
    }

    fn is_stale(&self, order: &Order) -> bool {
        order.generation != self.generation.load(Ordering::Acquire)
    }

    fn speak(&mut self, order: Order) {
        if self.is_stale(&order) {
            return;
        }
        let sound = self.espeak.say(&order.word).unwrap_or_else(|why| {
            tracing::warn!(word = %order.word, "a word is left out: {why}");
            Vec::new()
        });
        // The ring takes four seconds; the mind is never that far ahead, but a long word may have to wait.
        while self.output.as_ref().is_some_and(|o| o.samples.slots() < sound.len() || o.words.is_full()) {
            if self.is_stale(&order) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
            self.keep_open();
        }
        let Order { utterance, index, generation, .. } = order;
        match &mut self.output {
            Some(output) if !sound.is_empty() => {
                for sample in &sound {
                    // There is room: checked above.
                    let _ = output.samples.push(*sample);
                }
                let _ = output.words.push(Spoken { utterance, index, generation, samples: sound.len() });
            }
            _ => {
                let lasts = Nanos(sound.len() as u64 * 1_000_000_000 / u64::from(AUDIO_RATE_HZ));
                self.busy_until = self.busy_until.max(self.clock.now()).after(lasts);
                let _ = self.done.try_send(Done { utterance, index, at: self.busy_until });
            }
        }
    }

    fn open(&self) -> Result<Output, String> {
        let device = sound_device::find(&self.device, Way::Out)?;
        let offered = device.default_output_config().map_err(|why| format!("it plays nothing: {why}"))?;
        let format = offered.sample_format();
        if !sound_device::is_known(format) {
            return Err(format!("its samples ({format}) are not supported"));
        }
        let (rate_hz, channels) = (offered.sample_rate(), offered.channels());
        let build = |buffer_size| {
            let (words, words_out) = RingBuffer::new(WORDS);
            let (samples, samples_out) = RingBuffer::new(SAMPLES);
            let failed = Arc::new(AtomicBool::new(false));
            let mut callback = Callback {
                channels: usize::from(channels),
                source: WordSource {
                    words: words_out,
                    samples: samples_out,
                    generation: Arc::clone(&self.generation),
                    current: None,
                    last: 0.0,
                },
                step: AUDIO_RATE_HZ as f32 / rate_hz as f32,
                fraction: 1.0,
                between: (0.0, 0.0),
                taken: Vec::with_capacity(rate_hz as usize),
                device_clock: SampleClock::new(),
                played: Arc::clone(&self.played),
                done: self.done.clone(),
                clock: Arc::clone(&self.clock),
            };
            let failing = Arc::clone(&failed);
            let config = StreamConfig { channels, sample_rate: rate_hz, buffer_size };
            let stream = device.build_output_stream_raw(
                &config,
                format,
                move |data, info| callback.fill(data, info),
                move |error| {
                    if !matches!(error, StreamError::BufferUnderrun) {
                        failing.store(true, Ordering::Relaxed);
                    }
                },
                Some(Duration::from_millis(200)),
            );
            stream.map(|stream| Output { stream: Some(stream), words, samples, failed })
        };
        let output = build(BufferSize::Fixed(sound_device::period_frames(rate_hz)))
            .or_else(|_| build(BufferSize::Default))
            .map_err(|why| format!("it cannot be opened: {why}"))?;
        if let Some(stream) = &output.stream {
            stream.play().map_err(|why| format!("it cannot be started: {why}"))?;
        }
        Ok(output)
    }
}

/// 16 kHz samples of the words in turn; stale words are skipped.
struct WordSource {
    words: Consumer<Spoken>,
    samples: Consumer<i16>,
    generation: Arc<AtomicU32>,
    current: Option<Spoken>,
    last: f32,
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
                if let Ok(rest) = self.samples.read_chunk(word.samples) {
                    rest.commit_all();
                }
                self.current = None;
                continue;
            }
            self.last = f32::from(self.samples.pop().unwrap_or_default()) / 32_768.0;
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
        let source =
            WordSource { words: words_out, samples: samples_out, generation: shared, current: None, last: 0.0 };
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
}

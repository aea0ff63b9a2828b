//! The audible voice: espeak-ng's words played by a loudspeaker. Words flow in from the body's thread; sound flows out
//! through cpal; what was played, at the device's time, flows back as reports and as the microphone's echo reference.
//!
//! The loudspeaker (loudspeaker.rs) stops at its next period when told to be silent. Without one words take as long as they
//! would have sounded, and the device is looked for again.

use super::body::Voice;
use super::espeak::Espeak;
use super::loudspeaker::{Done, Loudspeaker, Spoken, WORDS, Ways};
use super::voice::speech_ms;
use crate::config::VoiceConfig;
use crate::sense::played::PlayedSound;
use crate::time::Clock;
use crate::types::{AUDIO_RATE_HZ, Nanos, UtteranceId, VoiceReport, Word};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A missing loudspeaker is looked for again this often.
const RETRY: Nanos = Nanos::from_s(1);
/// A stream that fails sooner than this was given too short periods for this machine: they are doubled.
const SETTLED: Nanos = Nanos::from_s(10);
/// Longest periods, in multiples of the shortest.
const LONGEST: u32 = 4;

/// A word on its way.
#[derive(Debug, Clone, Copy)]
struct Order {
    utterance: UtteranceId,
    index: u16,
    word: Word,
    /// Silences before it; an order of an older generation is not spoken any more.
    generation: u32,
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
        let (failed, failures) = bounded(1);
        let mouth = Mouth {
            espeak,
            device: config.device.clone(),
            orders: from_body,
            failures,
            ways: Ways { done: to_body, failed, generation: Arc::clone(&generation), played, clock },
            output: None,
            left: VecDeque::new(),
            opened: Nanos::ZERO,
            periods: 1,
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
    /// Wakes the thread when the stream failed.
    failures: Receiver<()>,
    ways: Ways,
    output: Option<Loudspeaker>,
    /// Words of a stream that failed, for the next one.
    left: VecDeque<(Spoken, Vec<i16>)>,
    /// When the stream was opened.
    opened: Nanos,
    /// Length of the periods asked for, in multiples of the shortest.
    periods: u32,
    retry: Nanos,
    /// Without a loudspeaker: when the last word would have ended.
    busy_until: Nanos,
    told: bool,
}

impl Mouth {
    fn run(mut self) {
        loop {
            self.keep_open();
            let order = crossbeam_channel::select! {
                recv(self.orders) -> order => Some(order),
                recv(self.failures) -> _ => None,
                default(Duration::from_millis(100)) => None,
            };
            match order {
                Some(Ok(order)) => self.speak(order),
                Some(Err(_)) => return,
                None => {}
            }
        }
    }

    /// Opens the loudspeaker if it is not open. One that failed is first opened again without a word, with longer periods if
    /// it failed soon: an under-run looks like a device that is gone.
    fn keep_open(&mut self) {
        let now = self.ways.clock.now();
        if let Some(why) = self.output.as_ref().and_then(Loudspeaker::failure).map(str::to_owned) {
            self.left = self.output.take().map(Loudspeaker::close).unwrap_or_default();
            let soon = now.since(self.opened) < SETTLED;
            self.retry = if soon && self.periods == LONGEST { now.after(RETRY) } else { now };
            if soon && self.periods < LONGEST {
                self.periods *= 2;
                tracing::info!(device = %self.device, "sound was late ({why}); from now on {} times the shortest period",
                    self.periods);
            }
        }
        if self.output.is_some() {
            return;
        }
        if now < self.retry {
            return self.time_what_is_left();
        }
        self.retry = now.after(RETRY);
        match Loudspeaker::open(&self.device, self.periods, &self.ways) {
            Ok(mut output) => {
                for (word, sound) in self.left.drain(..) {
                    output.say(word, sound);
                }
                (self.output, self.opened) = (Some(output), now);
                if std::mem::take(&mut self.told) {
                    tracing::info!(device = %self.device, "the loudspeaker is back");
                }
            }
            Err(why) => {
                self.periods = 1;
                self.time_what_is_left();
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(device = %self.device, "no loudspeaker ({why}); words are timed in silence until it returns");
                }
            }
        }
    }

    fn is_stale(&self, generation: u32) -> bool {
        generation != self.ways.generation.load(Ordering::Acquire)
    }

    fn speak(&mut self, order: Order) {
        let Order { utterance, index, generation, word } = order;
        if self.is_stale(generation) {
            return;
        }
        let sound = self.espeak.say(&word).unwrap_or_else(|why| {
            tracing::warn!(%word, "a word is left out: {why}");
            Vec::new()
        });
        // The ring takes four seconds; the mind is never that far ahead, but a long word may have to wait.
        while self.output.as_ref().is_some_and(|output| !output.has_room(sound.len())) {
            if self.is_stale(generation) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
            self.keep_open();
        }
        let spoken = Spoken { utterance, index, generation, samples: sound.len() };
        match &mut self.output {
            Some(output) if !sound.is_empty() => output.say(spoken, sound),
            _ => self.time(&spoken),
        }
    }

    /// Words of a stream that failed, when there is no other: timed in silence as those that follow.
    fn time_what_is_left(&mut self) {
        while let Some((word, _)) = self.left.pop_front() {
            if !self.is_stale(word.generation) {
                self.time(&word);
            }
        }
    }

    fn time(&mut self, word: &Spoken) {
        let lasts = Nanos(word.samples as u64 * 1_000_000_000 / u64::from(AUDIO_RATE_HZ));
        self.busy_until = self.busy_until.max(self.ways.clock.now()).after(lasts);
        let _ = self.ways.done.try_send(Done { utterance: word.utterance, index: word.index, at: self.busy_until });
    }
}

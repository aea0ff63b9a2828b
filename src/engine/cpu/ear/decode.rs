//! From logits to words. One vector of logits every 40 ms and the sound's level flow in; words, as soon as they are
//! known, and whole utterances flow out. Greedy: the net was trained to emit each word once, shortly after its end.

use super::frontend::{BANDS, HOP};
use crate::types::MAX_WORDS;
use arrayvec::ArrayVec;

/// Samples in a millisecond.
const MS: u64 = 16;
/// Mean time from the end of a word to the instant its frame can be computed (measured, `engines/ear/README.md`).
const END_LAG: u64 = 90 * MS;
/// An utterance is over when no voice was heard for this long ...
const QUIET: u64 = 320 * MS;
/// ... or, in noise that hides the pause, when no word came for this long.
const WORDLESS: u64 = 1_000 * MS;
/// No utterance starts longer than this before the end of its first word.
const LONGEST_WORD: u64 = 1_500 * MS;
/// "stop" is heard when its probability, summed over the last `STOP_FRAMES` frames, reaches `STOP_ENOUGH`: a word has
/// one emission, but the net may be unsure in which frame it falls. Chosen on validation voices (`engines/ear/README.md`).
const STOP_FRAMES: usize = 3;
const STOP_ENOUGH: f32 = 0.35;
/// After "stop" the sum must fall below this before it can be heard again.
const STOP_RELEASE: f32 = 0.1;

/// One recognised word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarWord {
    /// Index into `Ear::symbols`.
    pub symbol: u16,
    /// Estimated last sample of the word, counted from the start of the stream.
    pub end_sample: u64,
    /// Samples that had been heard when the word was known; the difference is the delay.
    pub known_sample: u64,
    /// Probability of the symbol in its best frame so far, 0 to 1.
    pub confidence: f32,
}

/// What the ear reports while it listens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EarEvent<'a> {
    /// A word, as soon as it is known. "stop" has a rule of its own, see `engines/ear/README.md`.
    Word {
        /// The word.
        word: EarWord,
        /// How it is written.
        text: &'a str,
    },
    /// An utterance is over.
    Utterance {
        /// Its words in order, at most `MAX_WORDS`; later ones are left out.
        words: &'a [EarWord],
        /// How every symbol is written.
        symbols: &'a [String],
        /// Estimated first sample.
        start_sample: u64,
        /// Estimated last sample.
        end_sample: u64,
        /// Mean confidence of the words, 0 to 1.
        confidence: f32,
    },
}

impl EarEvent<'_> {
    /// The words of the event with single spaces between them. Allocates.
    pub fn text(&self) -> String {
        match self {
            EarEvent::Word { text, .. } => (*text).to_owned(),
            EarEvent::Utterance { words, symbols, .. } => {
                let texts: Vec<&str> =
                    words.iter().filter_map(|w| symbols.get(usize::from(w.symbol))).map(String::as_str).collect();
                texts.join(" ")
            }
        }
    }
}

/// Whether there is voice: the mean log level against a tracked floor.
#[derive(Debug, Clone, PartialEq)]
struct Voice {
    floor: Option<f32>,
    /// Start of the voiced stretch that is going on or has just ended.
    onset: u64,
    /// Last voiced sample.
    last: u64,
}

impl Voice {
    /// Level above the floor that counts as voice, in the front end's units (1 unit = 4 neper of power): 3.5 dB.
    const ABOVE: f32 = 0.2;
    /// The floor follows a lower level by this share each row and rises by this much: 0.9 dB a second.
    const FALL: f32 = 0.2;
    const RISE: f32 = 0.000_5;

    fn row(&mut self, row: &[f32; BANDS], sample: u64) {
        let level = row.iter().sum::<f32>() / BANDS as f32;
        let floor = self.floor.get_or_insert(level);
        *floor += if level < *floor { Self::FALL * (level - *floor) } else { Self::RISE };
        if level > *floor + Self::ABOVE {
            if sample.saturating_sub(self.last) > QUIET {
                self.onset = sample - HOP as u64;
            }
            self.last = sample;
        }
    }
}

/// What the decoder remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder {
    stop: Option<u16>,
    unknown: u16,
    before: u16,
    /// Probability of "stop" in the last frames, newest last.
    stop_recent: [f32; STOP_FRAMES],
    stop_held: bool,
    stop_in_run: bool,
    voice: Voice,
    words: ArrayVec<EarWord, MAX_WORDS>,
    start: u64,
    last_word: u64,
    probabilities: Vec<f32>,
}

impl Decoder {
    /// A decoder for these symbols; the last one is "unknown word".
    pub fn new(symbols: &[String]) -> Decoder {
        Decoder {
            stop: symbols.iter().position(|s| s == "stop").map(|i| i as u16),
            unknown: (symbols.len() - 1) as u16,
            before: 0,
            stop_recent: [0.0; STOP_FRAMES],
            stop_held: false,
            stop_in_run: false,
            voice: Voice { floor: None, onset: 0, last: 0 },
            words: ArrayVec::new(),
            start: 0,
            last_word: 0,
            probabilities: vec![0.0; symbols.len()],
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.before = 0;
        self.stop_recent = [0.0; STOP_FRAMES];
        self.probabilities.fill(0.0);
        self.stop_held = false;
        self.stop_in_run = false;
        self.voice = Voice { floor: None, onset: 0, last: 0 };
        self.words.clear();
        self.start = 0;
        self.last_word = 0;
    }

    /// Takes the row that ends with `sample`, for voice activity.
    pub fn row(&mut self, row: &[f32; BANDS], sample: u64) {
        self.voice.row(row, sample);
    }

    /// Takes the logits that became known with `sample`.
    pub fn frame(&mut self, logits: &[f32], symbols: &[String], sample: u64, each: &mut impl FnMut(EarEvent<'_>)) {
        let best = self.softmax(logits);
        self.listen_for_stop(symbols, sample, each);
        if best != self.before {
            // a run of "stop" that its rule did not accept was some other word
            if self.before != 0 && Some(self.before) == self.stop && !self.stop_in_run {
                self.word(self.unknown, self.stop_recent[STOP_FRAMES - 2], symbols, sample, each);
            }
            self.stop_in_run = self.stop_held;
            if best != 0 && Some(best) != self.stop {
                self.word(best, self.probabilities[usize::from(best)], symbols, sample, each);
            }
        } else if best != 0 {
            self.last_word = sample;
            if let Some(word) = self.words.last_mut().filter(|w| w.symbol == best) {
                word.confidence = word.confidence.max(self.probabilities[usize::from(best)]);
            }
        }
        self.before = best;
        self.end_utterance(symbols, sample, each);
    }

    /// Fills `probabilities`; returns the most probable symbol.
    fn softmax(&mut self, logits: &[f32]) -> u16 {
        let mut best = 0;
        for (i, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = i;
            }
        }
        let mut total = 0.0;
        for (p, logit) in self.probabilities.iter_mut().zip(logits) {
            *p = libm::expf(logit - logits[best]);
            total += *p;
        }
        for p in &mut self.probabilities {
            *p /= total;
        }
        best as u16
    }

    fn listen_for_stop(&mut self, symbols: &[String], sample: u64, each: &mut impl FnMut(EarEvent<'_>)) {
        let Some(stop) = self.stop else { return };
        self.stop_recent.rotate_left(1);
        self.stop_recent[STOP_FRAMES - 1] = self.probabilities[usize::from(stop)];
        let total: f32 = self.stop_recent.iter().sum();
        if self.stop_held {
            self.stop_held = total >= STOP_RELEASE;
        } else if total >= STOP_ENOUGH {
            self.stop_held = true;
            self.stop_in_run = true;
            self.word(stop, total.min(1.0), symbols, sample, each);
        }
    }

    fn word(
        &mut self,
        symbol: u16,
        confidence: f32,
        symbols: &[String],
        sample: u64,
        each: &mut impl FnMut(EarEvent<'_>),
    ) {
        let word = EarWord { symbol, end_sample: sample.saturating_sub(END_LAG), known_sample: sample, confidence };
        if self.words.is_empty() {
            self.start = self.voice.onset.max(word.end_sample.saturating_sub(LONGEST_WORD)).min(word.end_sample);
        }
        let _ = self.words.try_push(word); // beyond MAX_WORDS words are dropped, as documented
        self.last_word = sample;
        each(EarEvent::Word { word, text: &symbols[usize::from(symbol)] });
    }

    fn end_utterance(&mut self, symbols: &[String], sample: u64, each: &mut impl FnMut(EarEvent<'_>)) {
        let Some(last) = self.words.last() else { return };
        let wordless = sample.saturating_sub(self.last_word);
        let quiet = sample.saturating_sub(self.voice.last);
        if wordless >= WORDLESS || (wordless >= QUIET && quiet >= QUIET) {
            let confidence = self.words.iter().map(|w| w.confidence).sum::<f32>() / self.words.len() as f32;
            let (start_sample, end_sample) = (self.start, last.end_sample);
            each(EarEvent::Utterance { words: &self.words, symbols, start_sample, end_sample, confidence });
            self.words.clear();
        }
    }
}

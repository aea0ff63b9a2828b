//! From logits to words. One vector of logits every 40 ms and the sound's level flow in; words, as soon as they are
//! known, and whole utterances flow out. The net was trained to emit each word once, shortly after its end, but may be
//! unsure in which frame; so a word is heard when its probability, summed over a few frames, is large enough.

use super::frontend::{BANDS, HOP};
use crate::types::MAX_WORDS;
use arrayvec::ArrayVec;

/// Samples in a millisecond.
const MS: u64 = 16;
/// An utterance is over when no voice was heard for this long ...
const QUIET: u64 = 320 * MS;
/// ... or, in noise that hides the pause, when no word came for this long.
const WORDLESS: u64 = 1_000 * MS;
/// No utterance starts longer than this before the end of its first word.
const LONGEST_WORD: u64 = 1_500 * MS;
/// Frames over which the probability of a symbol is summed.
const FRAMES: usize = 3;
/// How long after an unknown word "stop" needs more evidence.
const AFTER_UNKNOWN: u64 = 1_600 * MS;
/// A word that was heard can be heard again when its sum has fallen below this.
const RELEASE: f32 = 0.1;

/// When a word counts as heard. Chosen on validation voices after training, so it comes with the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// A word is heard when its sum is the largest of all words and reaches this.
    pub word_enough: f32,
    /// "stop" is heard when its sum reaches this, whatever the others say ...
    pub stop_enough: f32,
    /// ... or this, if an unknown word was heard in the last `AFTER_UNKNOWN` samples: then somebody is talking about
    /// something else, and what sounds like "stop" is likely part of it.
    pub stop_amid_enough: f32,
    /// Median time from the end of a word to the instant it is known, in milliseconds.
    pub end_lag_ms: u16,
}

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
    rule: Rule,
    stop: Option<usize>,
    /// Probabilities of the last `FRAMES` frames, oldest first.
    recent: [Vec<f32>; FRAMES],
    /// Their sum, one a symbol.
    sums: Vec<f32>,
    /// Words that were heard and not yet released.
    held: Vec<bool>,
    voice: Voice,
    words: ArrayVec<EarWord, MAX_WORDS>,
    start: u64,
    last_word: u64,
    /// When the last unknown word was heard.
    last_unknown: Option<u64>,
}

impl Decoder {
    /// A decoder for these symbols; the first one is the blank, the last one the unknown word.
    pub fn new(symbols: &[String], rule: Rule) -> Decoder {
        let zeros = || vec![0.0; symbols.len()];
        Decoder {
            rule,
            stop: symbols.iter().position(|s| s == "stop"),
            recent: std::array::from_fn(|_| zeros()),
            sums: zeros(),
            held: vec![false; symbols.len()],
            voice: Voice { floor: None, onset: 0, last: 0 },
            words: ArrayVec::new(),
            start: 0,
            last_word: 0,
            last_unknown: None,
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        for frame in &mut self.recent {
            frame.fill(0.0);
        }
        self.sums.fill(0.0);
        self.held.fill(false);
        self.voice = Voice { floor: None, onset: 0, last: 0 };
        self.words.clear();
        self.start = 0;
        self.last_word = 0;
        self.last_unknown = None;
    }

    /// Takes the row that ends with `sample`, for voice activity.
    pub fn row(&mut self, row: &[f32; BANDS], sample: u64) {
        self.voice.row(row, sample);
    }

    /// Takes the logits that became known with `sample`.
    pub fn frame(&mut self, logits: &[f32], symbols: &[String], sample: u64, each: &mut impl FnMut(EarEvent<'_>)) {
        self.sum_up(logits);
        let amid = self.last_unknown.is_some_and(|at| sample - at <= AFTER_UNKNOWN);
        let enough = if amid { self.rule.stop_amid_enough } else { self.rule.stop_enough };
        if let Some(stop) = self.stop.filter(|&stop| !self.held[stop] && self.sums[stop] >= enough) {
            self.word(stop, symbols, sample, each);
        }
        let mut best = 0;
        for symbol in (1..symbols.len()).filter(|&s| Some(s) != self.stop) {
            if best == 0 || self.sums[symbol] > self.sums[best] {
                best = symbol;
            }
        }
        let covered = self.stop.is_some_and(|stop| self.held[stop] && self.sums[stop] > self.sums[best]);
        if !self.held[best] && self.sums[best] >= self.rule.word_enough && !covered {
            if best + 1 == symbols.len() {
                self.last_unknown = Some(sample);
            }
            self.word(best, symbols, sample, each);
        }
        if self.recent[FRAMES - 1][0] < 0.5 {
            self.last_word = sample;
        }
        if let Some(last) = self.words.last_mut() {
            let symbol = usize::from(last.symbol);
            if self.held[symbol] {
                last.confidence = last.confidence.max(self.sums[symbol].min(1.0));
            }
        }
        self.end_utterance(symbols, sample, each);
    }

    /// Turns logits into probabilities, sums the last frames and releases words that have passed.
    fn sum_up(&mut self, logits: &[f32]) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        self.recent.rotate_left(1);
        let newest = &mut self.recent[FRAMES - 1];
        for (p, logit) in newest.iter_mut().zip(logits) {
            *p = libm::expf(logit - most);
        }
        let total: f32 = newest.iter().sum();
        for p in newest.iter_mut() {
            *p /= total;
        }
        for (symbol, (sum, held)) in self.sums.iter_mut().zip(&mut self.held).enumerate() {
            *sum = self.recent.iter().map(|frame| frame[symbol]).sum();
            *held &= *sum >= RELEASE;
        }
    }

    fn word(&mut self, symbol: usize, symbols: &[String], sample: u64, each: &mut impl FnMut(EarEvent<'_>)) {
        self.held[symbol] = true;
        let confidence = self.sums[symbol].min(1.0);
        let end_sample = sample.saturating_sub(u64::from(self.rule.end_lag_ms) * MS);
        let word = EarWord { symbol: symbol as u16, end_sample, known_sample: sample, confidence };
        if self.words.is_empty() {
            self.start = self.voice.onset.max(word.end_sample.saturating_sub(LONGEST_WORD)).min(word.end_sample);
        }
        let _ = self.words.try_push(word); // beyond MAX_WORDS words are dropped, as documented
        self.last_word = sample;
        each(EarEvent::Word { word, text: &symbols[symbol] });
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

//! The voice as a state machine: words with durations are queued, played one after the other, and silenced. Acts and
//! instants flow in; `VoiceReport`s (what was fully played, what is queued) flow out. It reads no clock, so a robot's
//! voice, the silent voice of the demo and a simulation share it.

use crate::types::{Nanos, UtteranceId, VoiceReport, Word};
use std::collections::VecDeque;

/// Words that may be queued; more are refused (the mind may only be two seconds ahead).
pub const QUEUED_WORDS: usize = 64;
/// One period of the audio output: silence comes at the next one.
pub const AUDIO_PERIOD: Nanos = Nanos::from_ms(10);
/// Time from the first queued word to its sound.
const ONSET: Nanos = Nanos::from_ms(20);

/// How long a word takes to say at `words_per_minute`, its pause after punctuation included.
///
/// The usual word of English text has 4.7 letters (with 5 strokes a "standard word"); a word's time is half constant and half
/// proportional to its letters, so that the mean rate is as asked for. Commas pause half a word, sentence ends one word.
pub fn speech_ms(word: &str, words_per_minute: u32) -> u32 {
    let usual = 60_000 / words_per_minute.clamp(40, 600);
    let letters = word.chars().filter(|c| c.is_alphanumeric()).count() as u32;
    let spoken = if letters == 0 { 0 } else { usual / 2 + usual * letters / 10 };
    let pause = match word.chars().last() {
        Some(',' | ';' | ':') => usual / 2,
        Some('.' | '!' | '?') => usual,
        _ => 0,
    };
    (spoken + pause).max(40)
}

/// One queued word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuedWord {
    /// Its answer.
    pub utterance: UtteranceId,
    /// Its position in the answer.
    pub index: u16,
    /// The word.
    pub word: Word,
    /// How long it sounds.
    pub lasts: Nanos,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct VoiceQueue {
    words: VecDeque<QueuedWord>,
    /// When the first queued word began or begins to sound.
    begun: Nanos,
    utterance: UtteranceId,
    played: u16,
    silent_since: Nanos,
    refused: u64,
    /// Words of this answer and of those before came too late: they were silenced.
    silenced: UtteranceId,
}

impl Default for VoiceQueue {
    fn default() -> Self {
        VoiceQueue::new()
    }
}

impl VoiceQueue {
    /// A silent voice.
    pub fn new() -> VoiceQueue {
        VoiceQueue {
            words: VecDeque::with_capacity(QUEUED_WORDS),
            begun: Nanos::ZERO,
            utterance: UtteranceId(0),
            played: 0,
            silent_since: Nanos::ZERO,
            refused: 0,
            silenced: UtteranceId(0),
        }
    }

    /// Queues the next word of an answer. False if it is refused: the queue is full, or the answer was silenced.
    pub fn say(&mut self, now: Nanos, word: QueuedWord) -> bool {
        self.advance(now);
        if word.utterance <= self.silenced || self.words.len() >= QUEUED_WORDS {
            self.refused += 1;
            return false;
        }
        if self.words.is_empty() {
            self.begun = now.after(ONSET);
            self.start(word.utterance, word.index);
        }
        self.words.push_back(word);
        true
    }

    /// Stops at the next audio period: everything queued is forgotten and the word in the air does not count as played.
    pub fn silence(&mut self, now: Nanos) {
        self.advance(now);
        let newest = self.words.back().map_or(self.utterance, |w| w.utterance);
        self.silenced = self.silenced.max(newest);
        if self.words.is_empty() {
            return;
        }
        self.words.clear();
        self.silent_since = if now > self.begun { now.after(AUDIO_PERIOD) } else { now };
    }

    /// Moves on to `now`: words whose time is over were played.
    pub fn advance(&mut self, now: Nanos) {
        while let Some(word) = self.words.front().copied() {
            let end = self.begun.after(word.lasts);
            if end > now {
                return;
            }
            self.words.pop_front();
            self.played = word.index + 1;
            self.begun = end;
            if let Some(next) = self.words.front().copied() {
                self.start(next.utterance, next.index);
            } else {
                self.silent_since = end;
            }
        }
    }

    /// When the word in the air ends, if there is one: the next change of the report.
    pub fn next_change(&self) -> Option<Nanos> {
        self.words.front().map(|word| self.begun.after(word.lasts))
    }

    /// What the voice says of itself at the instant of the last `advance`, `say` or `silence`.
    pub fn report(&self, now: Nanos) -> VoiceReport {
        let queued = self.words.iter().fold(Nanos::ZERO, |sum, w| sum.after(w.lasts));
        VoiceReport {
            utterance: self.utterance,
            played_words: self.played,
            queued_words: self.words.iter().filter(|w| w.utterance == self.utterance).count() as u16,
            queued: if self.words.is_empty() { Nanos::ZERO } else { self.begun.after(queued).since(now) },
            playing: !self.words.is_empty(),
            silent_since: self.silent_since,
        }
    }

    /// The word in the air, if any.
    pub fn current(&self) -> Option<&QueuedWord> {
        self.words.front()
    }

    /// Words that found no room or came after they were silenced.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn start(&mut self, utterance: UtteranceId, index: u16) {
        if utterance != self.utterance {
            self.utterance = utterance;
            self.played = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(utterance: u32, index: u16, ms: u64) -> QueuedWord {
        QueuedWord { utterance: UtteranceId(utterance), index, word: Word::new(), lasts: Nanos::from_ms(ms) }
    }

    fn ms(ms: u64) -> Nanos {
        Nanos::from_ms(ms)
    }

    #[test]
    fn words_are_played_one_after_the_other() {
        let mut voice = VoiceQueue::new();
        assert!(voice.say(ms(1_000), word(1, 0, 300)) && voice.say(ms(1_005), word(1, 1, 200)));
        let report = voice.report(ms(1_005));
        assert_eq!((report.played_words, report.queued_words, report.playing), (0, 2, true));
        assert_eq!(report.queued, ms(515));
        assert_eq!(voice.next_change(), Some(ms(1_320)));
        voice.advance(ms(1_319));
        assert_eq!(voice.report(ms(1_319)).played_words, 0);
        voice.advance(ms(1_320));
        assert_eq!(voice.report(ms(1_320)).played_words, 1);
        voice.advance(ms(5_000));
        let report = voice.report(ms(5_000));
        assert_eq!((report.played_words, report.queued_words, report.playing), (2, 0, false));
        assert_eq!(report.silent_since, ms(1_520));
    }

    #[test]
    fn silence_comes_within_a_period_and_later_words_of_the_answer_stay_unsaid() {
        let mut voice = VoiceQueue::new();
        voice.say(ms(0), word(1, 0, 300));
        voice.say(ms(0), word(1, 1, 300));
        voice.silence(ms(450));
        let report = voice.report(ms(450));
        assert_eq!((report.played_words, report.queued_words, report.playing), (1, 0, false));
        assert!(report.silent_since <= ms(450).after(AUDIO_PERIOD));
        assert!(!voice.say(ms(460), word(1, 2, 300)), "a late word of the silenced answer");
        assert!(voice.say(ms(470), word(2, 0, 300)));
        assert_eq!(voice.report(ms(470)).utterance, UtteranceId(2));
    }

    #[test]
    fn a_resumed_answer_counts_from_its_first_word() {
        let mut voice = VoiceQueue::new();
        voice.say(ms(0), word(4, 7, 100));
        assert_eq!(voice.report(ms(0)).played_words, 7);
        voice.advance(ms(500));
        assert_eq!(voice.report(ms(500)).played_words, 8);
    }

    #[test]
    fn a_full_queue_refuses_and_counts() {
        let mut voice = VoiceQueue::new();
        let taken = (0..100).filter(|i| voice.say(ms(0), word(1, *i, 100))).count();
        assert_eq!((taken, voice.refused()), (QUEUED_WORDS, 100 - QUEUED_WORDS as u64));
    }

    #[test]
    fn text_takes_about_as_long_as_its_rate_says() {
        let text = "the robot went down the long corridor and found a small green door near the charging station";
        let words: Vec<&str> = text.split(' ').collect();
        let total: u32 = words.iter().map(|w| speech_ms(w, 170)).sum();
        let usual = words.len() as u32 * 60_000 / 170;
        assert!(total > usual * 8 / 10 && total < usual * 12 / 10, "{total} against {usual}");
        assert!(speech_ms("stop.", 170) > speech_ms("stop", 170) + 300);
        assert!(speech_ms("", 0) > 0);
    }
}

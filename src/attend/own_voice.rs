//! The robot hears itself: tells its own words from others'. What is said and what the voice reports flow in, with the
//! echo share of each block; whether a heard word is the robot's own flows out. Bounded: the last words and a second of
//! echo are kept.

use crate::types::{AudioFeatures, HeardWord, MAX_SOURCES, Nanos, SourceId, UtteranceId, VoiceReport, Word};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// A heard word matches one said at most this long before or after.
const MATCH: Nanos = Nanos::from_ms(1_200);
/// Words not yet played that may be what is heard: those that are played within [`MATCH`].
const AHEAD_WORDS: u16 = 3;
/// Said words kept.
const SAID: usize = 48;
/// Blocks of echo kept per microphone, 20 ms each.
const BLOCKS: usize = 64;
/// How much sound before a word's end is its own.
const WORD_SPAN: Nanos = Nanos::from_ms(400);
/// From this echo share of a word's power on, it is the robot's whatever it sounds like. Where the filter has learned its
/// path, the robot's own words have 980 and more (`tests/self_hearing.rs`: the lowest of ten minutes), somebody as loud
/// as the robot brings it down to 500, somebody 9 dB quieter to 890.
const MOSTLY_ECHO_PERMILLE: f32 = 900.0;
/// Rejected words kept, to drop them from their utterance too.
const REJECTED: usize = 48;

/// A word given to the voice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    utterance: UtteranceId,
    index: u16,
    word: Word,
    played: Option<Nanos>,
}

/// A block's share of echo, and its level with the echo in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Echo {
    at: Nanos,
    permille: u16,
    heard_cdb: i16,
}

/// What was said lately and how much of the sound it explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnVoice {
    said: ArrayVec<Said, SAID>,
    report: VoiceReport,
    echo: Vec<ArrayVec<Echo, BLOCKS>>,
    echo_next: [u8; MAX_SOURCES],
    rejected: ArrayVec<(Nanos, SourceId, Word), REJECTED>,
}

impl OwnVoice {
    /// Nothing said yet; allocates here and never again.
    pub fn new(sources: usize) -> OwnVoice {
        OwnVoice {
            said: ArrayVec::new(),
            report: VoiceReport::default(),
            echo: vec![ArrayVec::new(); sources.min(MAX_SOURCES)],
            echo_next: [0; MAX_SOURCES],
            rejected: ArrayVec::new(),
        }
    }

    /// What the voice reported last.
    pub fn report(&self) -> &VoiceReport {
        &self.report
    }

    /// A word was given to the voice.
    pub fn says(&mut self, utterance: UtteranceId, index: u16, word: Word) {
        if self.said.is_full() {
            self.said.remove(0);
        }
        self.said.push(Said { utterance, index, word, played: None });
    }

    /// Words of an answer from `index` on, in order.
    pub fn words_from(&self, utterance: UtteranceId, index: u16) -> impl Iterator<Item = &Word> {
        self.said.iter().filter(move |said| said.utterance == utterance && said.index >= index).map(|said| &said.word)
    }

    /// The voice reports: words that became played were played now.
    pub fn reports(&mut self, report: &VoiceReport, now: Nanos) {
        let at = if report.playing { now } else { now.min(report.silent_since) };
        for said in &mut self.said {
            let played = said.utterance == report.utterance && said.index < report.played_words;
            if played && said.played.is_none() {
                said.played = Some(at);
            }
        }
        self.report = *report;
    }

    /// Takes the echo share of one block.
    pub fn hears(&mut self, features: &AudioFeatures) {
        let index = usize::from(features.source.0);
        let Some(kept) = self.echo.get_mut(index) else { return };
        let permille = features.echo_permille.min(1000);
        let echo = Echo { at: features.captured, permille, heard_cdb: features.heard_cdb };
        let next = &mut self.echo_next[index];
        if kept.try_push(echo).is_err() {
            kept[usize::from(*next) % BLOCKS] = echo;
        }
        *next = ((usize::from(*next) + 1) % BLOCKS) as u8;
    }

    /// The voice plays, or did within [`MATCH`].
    fn plays(&self, at: Nanos) -> bool {
        self.report.playing || (self.report.utterance.0 > 0 && at.since(self.report.silent_since) <= MATCH)
    }

    /// The robot itself says this very word at that time.
    pub fn saying(&self, word: &str, at: Nanos) -> bool {
        self.plays(at)
            && self.said.iter().any(|said| {
                let near = match said.played {
                    Some(played) => played.since(at) <= MATCH && at.since(played) <= MATCH,
                    None => {
                        said.utterance == self.report.utterance && said.index <= self.report.played_words + AHEAD_WORDS
                    }
                };
                near && same(&said.word, word)
            })
    }

    /// Echo share of the word's power, thousandths: what sounds loud counts much, pauses hardly. 0 if its blocks are no
    /// longer kept.
    fn echo_of(&self, source: SourceId, ended: Nanos) -> f32 {
        let Some(kept) = self.echo.get(usize::from(source.0)) else { return 0.0 };
        let span = ended.since(WORD_SPAN)..=ended;
        let (mut echo, mut all) = (0.0f32, 0.0f32);
        for block in kept.iter().filter(|block| span.contains(&block.at)) {
            let power = libm::exp10f(f32::from(block.heard_cdb) / 1_000.0);
            echo += power * f32::from(block.permille);
            all += power;
        }
        if all > 0.0 { echo / all } else { 0.0 }
    }

    /// Whether the robot's voice explains so much of a word that nobody else can have said it.
    pub fn explains(&self, source: SourceId, heard: &HeardWord) -> bool {
        self.plays(heard.ended) && self.echo_of(source, heard.ended) >= MOSTLY_ECHO_PERMILLE
    }

    /// Whether a heard word is the robot's own: it says that word about then, or its voice explains most of the sound.
    pub fn is_own(&self, source: SourceId, heard: &HeardWord) -> bool {
        let known = (heard.ended, source, heard.word);
        self.rejected.contains(&known) || self.saying(&heard.word, heard.ended) || self.explains(source, heard)
    }

    /// Remembers that a word was rejected, so that its utterance is judged the same.
    pub fn reject(&mut self, source: SourceId, heard: &HeardWord) {
        if self.rejected.is_full() {
            self.rejected.remove(0);
        }
        self.rejected.push((heard.ended, source, heard.word));
    }
}

/// Whether a spoken word, with its punctuation, sounds as the heard one.
fn same(said: &str, heard: &str) -> bool {
    let plain = said.trim_matches(|c: char| !c.is_alphanumeric());
    let plain = if plain.eq_ignore_ascii_case("two") || plain.eq_ignore_ascii_case("too") { "to" } else { plain };
    !plain.is_empty() && plain.eq_ignore_ascii_case(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIC: SourceId = SourceId(1);

    fn heard(word: &str, ended_ms: u64) -> HeardWord {
        HeardWord { word: Word::from(word).expect("short"), ended: Nanos::from_ms(ended_ms), score_permille: 900 }
    }

    fn talking(words: &[&str], played: u16, now_ms: u64) -> OwnVoice {
        let mut own = OwnVoice::new(2);
        for (index, word) in words.iter().enumerate() {
            own.says(UtteranceId(1), index as u16, Word::from(word).expect("short"));
        }
        let report =
            VoiceReport { utterance: UtteranceId(1), played_words: played, playing: true, ..VoiceReport::default() };
        own.reports(&report, Nanos::from_ms(now_ms));
        own
    }

    #[test]
    fn words_being_said_are_own_and_others_are_not() {
        let own = talking(&["I", "see", "a", "person.", "The", "charger", "is", "far", "away"], 2, 5_000);
        assert!(own.is_own(MIC, &heard("see", 5_100)), "just played");
        assert!(own.is_own(MIC, &heard("person", 5_300)), "being played, punctuation aside");
        assert!(!own.is_own(MIC, &heard("stop", 5_100)));
        assert!(!own.is_own(MIC, &heard("away", 5_100)), "said only seconds later");
        assert!(!own.is_own(MIC, &heard("see", 7_000)), "said long ago");
    }

    #[test]
    fn a_silent_robot_owns_nothing() {
        let mut own = talking(&["stop"], 1, 5_000);
        let silent = VoiceReport {
            utterance: UtteranceId(1),
            played_words: 1,
            silent_since: Nanos::from_ms(5_000),
            ..VoiceReport::default()
        };
        own.reports(&silent, Nanos::from_ms(5_010));
        assert!(own.is_own(MIC, &heard("stop", 5_200)), "its echo in the room");
        assert!(!own.is_own(MIC, &heard("stop", 6_500)));
    }

    #[test]
    fn a_misheard_echo_is_own_by_its_share_of_the_sound() {
        for (permille, own_word) in [(950, true), (850, false), (300, false)] {
            let mut own = talking(&["small"], 0, 5_000);
            for i in 0..40 {
                own.hears(&AudioFeatures {
                    source: MIC,
                    seq: i,
                    captured: Nanos::from_ms(4_500 + i * 20),
                    stamp: Default::default(),
                    band_cdb: [0; 8],
                    level_cdb: 0,
                    heard_cdb: -2_000,
                    voice_permille: 900,
                    echo_permille: permille,
                    lost: 0,
                });
            }
            assert_eq!(own.is_own(MIC, &heard("wall", 5_200)), own_word);
        }
    }
}

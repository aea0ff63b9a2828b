//! What people say in synthetic scenes: sixty phrases spoken by a synthesiser, shipped as 8-bit mu-law (made by
//! `tests/scenes/phrases.py`). A text and a voice flow in, 16 kHz samples flow out.

use serde::Deserialize;

static BANK: &[u8] = include_bytes!("phrases.bin");

/// One phrase of the bank.
#[derive(Debug, Clone, Deserialize)]
pub struct Phrase {
    /// The words.
    pub text: String,
    /// Who speaks.
    pub voice: String,
    start: usize,
    samples: usize,
}

#[derive(Deserialize)]
struct Index {
    phrases: Vec<Phrase>,
}

/// All phrases, decoded once.
#[derive(Debug, Clone)]
pub struct Phrases {
    phrases: Vec<Phrase>,
    bytes: &'static [u8],
}

impl Phrases {
    /// Opens the bank that ships with the program.
    pub fn shipped() -> Phrases {
        let line = BANK.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let index: Index = serde_json::from_slice(&BANK[..line]).unwrap_or(Index { phrases: Vec::new() });
        Phrases { phrases: index.phrases, bytes: &BANK[(line + 1).min(BANK.len())..] }
    }

    /// All phrases.
    pub fn all(&self) -> &[Phrase] {
        &self.phrases
    }

    /// Samples of a phrase, -1..=1 at 16 kHz; `None` if the bank has no such phrase.
    pub fn samples(&self, text: &str, voice: &str) -> Option<Vec<f32>> {
        let phrase = self.phrases.iter().find(|phrase| phrase.text == text && phrase.voice == voice)?;
        Some(self.bytes.get(phrase.start..phrase.start + phrase.samples)?.iter().map(|byte| expand(*byte)).collect())
    }
}

/// ITU-T G.711 mu-law expansion, continuous form.
fn expand(byte: u8) -> f32 {
    let y = f32::from(byte) / 127.5 - 1.0;
    y.signum() * (libm::expf(y.abs() * 256.0_f32.ln()) - 1.0) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrase_is_audible_speech_of_the_language() {
        let phrases = Phrases::shipped();
        assert!(phrases.all().len() >= 60);
        let language: serde_json::Value = serde_json::from_str(include_str!("../../../engines/language/language.json"))
            .expect("language.json parses");
        let words: Vec<&str> = language["words"].as_array().expect("words").iter().filter_map(|w| w.as_str()).collect();
        for phrase in phrases.all() {
            assert!(phrase.text.split(' ').all(|word| words.contains(&word)), "{}", phrase.text);
            let samples = phrases.samples(&phrase.text, &phrase.voice).expect("in the bank");
            let peak = samples.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
            assert!((0.4..0.6).contains(&peak) && samples.len() > 3_000, "{}: {peak}", phrase.text);
        }
        assert!(phrases.samples("sing a song", "ann").is_none());
    }
}

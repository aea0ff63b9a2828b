//! Words to sound with espeak-ng, a program that may be installed or not. A word flows in; its 16 kHz samples, without the
//! silence around it, flow out. One process per word: about ten milliseconds, off every path that is in a hurry.

use crate::sense::resample::Resampler;
use std::process::{Command, Stdio};

/// Quieter than this at the ends of a word is silence.
const SILENT: i16 = 200;
/// Silence that is left around each word, samples: 20 ms.
const MARGIN: usize = 320;
/// Longest word that is spoken, samples: four seconds.
const LONGEST: usize = 64_000;

/// A synthesiser with its voice and rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Espeak {
    voice: String,
    words_per_minute: u32,
}

impl Espeak {
    /// Uses this espeak-ng voice (such as `en-us`) at this rate.
    ///
    /// # Errors
    /// A sentence if espeak-ng is not installed. (For a voice that it does not know it takes its default one.)
    pub fn new(voice: &str, words_per_minute: u32) -> Result<Espeak, String> {
        let espeak = Espeak { voice: voice.to_owned(), words_per_minute: words_per_minute.clamp(80, 450) };
        espeak.say("yes").map(|_| espeak)
    }

    /// The sound of one word.
    ///
    /// # Errors
    /// A sentence that says what espeak-ng said.
    pub fn say(&self, word: &str) -> Result<Vec<i16>, String> {
        // The word goes in by standard input, so that one with a dash is no option.
        let mut child = Command::new("espeak-ng")
            .args(["--stdin", "--stdout", "-v", &self.voice, "-s", &self.words_per_minute.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|why| {
                format!("espeak-ng cannot be started ({why}); install it, or set voice.kind = \"silent\"")
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            std::io::Write::write_all(&mut stdin, word.as_bytes()).map_err(|why| format!("espeak-ng ended: {why}"))?;
        }
        let output = child.wait_with_output().map_err(|why| format!("espeak-ng failed: {why}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "espeak-ng refused voice {:?}: {}",
                self.voice,
                said.lines().next().unwrap_or("no word")
            ));
        }
        let (rate_hz, samples) = wave(&output.stdout).ok_or("espeak-ng gave no sound")?;
        let mut resampler = Resampler::new(rate_hz, 1)?;
        let mut sound = Vec::with_capacity(samples.len());
        // The filter holds back its own length; silence pushes the end of the word out.
        let flush = resampler.delay_samples();
        resampler.push_i16(samples.into_iter().chain(std::iter::repeat_n(0, flush)), |s| sound.push(s));
        Ok(trimmed(&sound))
    }
}

/// Rate and samples of a mono 16-bit WAV whose header may claim any length, as it does in a pipe.
fn wave(bytes: &[u8]) -> Option<(u32, Vec<i16>)> {
    if bytes.get(..4)? != b"RIFF" || bytes.get(8..12)? != b"WAVE" {
        return None;
    }
    let mut at = 12;
    let mut rate_hz = None;
    loop {
        let name = bytes.get(at..at + 4)?;
        let length = u32::from_le_bytes(bytes.get(at + 4..at + 8)?.try_into().ok()?) as usize;
        let body = &bytes[at + 8..];
        if name == b"fmt " {
            // PCM, one channel, 16 bits.
            if body.get(..4)? != [1, 0, 1, 0] || body.get(14..16)? != [16, 0] {
                return None;
            }
            rate_hz = Some(u32::from_le_bytes(body.get(4..8)?.try_into().ok()?));
        } else if name == b"data" {
            let body = &body[..body.len().min(length)];
            let samples = body.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]])).collect();
            return Some((rate_hz?, samples));
        }
        at += 8 + length + length % 2;
    }
}

fn trimmed(sound: &[i16]) -> Vec<i16> {
    let loud = |s: &i16| s.unsigned_abs() > SILENT as u16;
    let (Some(first), Some(last)) = (sound.iter().position(loud), sound.iter().rposition(loud)) else {
        return vec![0; MARGIN];
    };
    let (from, upto) = (first.saturating_sub(MARGIN), (last + MARGIN).min(sound.len()));
    sound[from..upto.min(from + LONGEST)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_becomes_its_sound_without_silence_around_it() {
        let espeak = match Espeak::new("en-us", 170) {
            Ok(espeak) => espeak,
            Err(why) => return println!("skipped: {why}"),
        };
        let long = espeak.say("corridor").unwrap();
        let short = espeak.say("go").unwrap();
        assert!(
            short.len() > 1_600 && long.len() > short.len() && long.len() < 16_000,
            "{} {}",
            short.len(),
            long.len()
        );
        assert!(long[..MARGIN / 2].iter().all(|s| s.abs() <= SILENT));
        assert!(long.iter().any(|s| s.abs() > 3_000));
    }

    #[test]
    fn a_header_that_lies_about_its_length_is_no_harm() {
        let mut bytes =
            b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x01\0\x22\x56\0\0\x44\xAC\0\0\x02\0\x10\0".to_vec();
        bytes.extend(b"data\xF0\xFF\xFF\x7F\x01\0\x02\0");
        assert_eq!(wave(&bytes), Some((22_050, vec![1, 2])));
        assert_eq!(wave(&bytes[..30]), None);
        assert_eq!(wave(b"OggS"), None);
    }
}

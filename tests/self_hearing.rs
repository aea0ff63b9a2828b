//! The robot hears itself: ten minutes of its own speech reach the microphone as loud as a person would, with a room's echo and
//! noise. It must not react to itself, and a "stop" that somebody says over it must get through. Needs espeak-ng for the
//! robot's voice; without it the test says "skipped".

use sage::attend::own_voice::OwnVoice;
use sage::engine::cpu::ear::{Ear, EarEvent};
use sage::sense::resample::Resampler;
use sage::sense::scene::Phrases;
use sage::sense::sound::AudioFeatureExtractor;
use sage::types::{
    AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, HeardWord, Nanos, SourceId, Stamp, UtteranceId, VoiceReport, Word,
};
use std::path::Path;
use std::process::Command;

/// Seconds of own speech.
const SECONDS: usize = 600;
/// A "stop" comes this often.
const STOP_EVERY: usize = 6 * AUDIO_RATE_HZ as usize;
/// Samples of `text` in the robot's voice, 16 kHz; `None` without espeak-ng.
fn speak(text: &str) -> Option<Vec<f32>> {
    let output = Command::new("espeak-ng").args(["-v", "en-us", "-s", "170", "--stdout", text]).output().ok()?;
    let samples: Vec<i16> =
        output.stdout.get(44..)?.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    let mut resampler = Resampler::new(22_050, 1).ok()?;
    let mut out = Vec::new();
    resampler.push_i16(samples, |sample| out.push(f32::from(sample) / 32_768.0));
    Some(out)
}

/// Answers of the mind, as the robot would say them, until there is enough.
fn own_speech() -> Option<Vec<f32>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/mind/heldout.jsonl");
    let cases = std::fs::read_to_string(file).expect("heldout.jsonl");
    let mut sound = Vec::new();
    for line in cases.lines().cycle() {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case");
        let reply = case["want"].as_str().expect("a reply");
        sound.extend(speak(reply.lines().next().unwrap_or_default())?);
        sound.extend([0.0; 3_200]);
        if sound.len() >= SECONDS * AUDIO_RATE_HZ as usize {
            break;
        }
    }
    Some(sound)
}

fn rms(sound: &[f32]) -> f32 {
    let loud: Vec<f32> = sound.iter().copied().filter(|x| x.abs() > 1e-3).collect();
    (loud.iter().map(|x| x * x).sum::<f32>() / loud.len().max(1) as f32).sqrt()
}

/// What a listening robot made of it: ends, in samples, of each "stop" and of other words that it took for somebody's.
struct Heard {
    stops: Vec<u64>,
    words: Vec<(u64, String)>,
}

fn listen(played: &[f32], others: &[f32]) -> Heard {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/ear/ear.safetensors");
    let mut ear = Ear::load(&weights).expect("the ear that ships");
    let source = SourceId(0);
    let mut extractor = AudioFeatureExtractor::new(source);
    // It talks all the time, and what it says is not known by word: only the echo can tell.
    let mut own = OwnVoice::new(1);
    own.reports(&VoiceReport { utterance: UtteranceId(1), playing: true, ..VoiceReport::default() }, Nanos::ZERO);
    let mut heard = Heard { stops: Vec::new(), words: Vec::new() };
    let mut noise = 1_u32;
    for seq in 0..played.len() / AUDIO_BLOCK {
        let mut block = AudioBlock {
            seq: seq as u64,
            captured: Nanos::from_ms(20 * seq as u64),
            stamp: Stamp::Device,
            samples: [0; AUDIO_BLOCK],
            played: [0; AUDIO_BLOCK],
        };
        for offset in 0..AUDIO_BLOCK {
            let at = seq * AUDIO_BLOCK + offset;
            let back = |delay: usize| at.checked_sub(delay).map_or(0.0, |at| played[at]);
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let hiss = (noise >> 16) as f32 / 65_536.0 - 0.5;
            // The direct way and three reflections.
            let sound = 0.8 * back(40) + 0.3 * back(190) - 0.15 * back(420) + 0.1 * back(900);
            let sound = sound + others[at] + 0.004 * hiss;
            block.samples[offset] = (sound.clamp(-1.0, 1.0) * 32_767.0) as i16;
            block.played[offset] = (played[at].clamp(-1.0, 1.0) * 32_767.0) as i16;
        }
        own.hears(&extractor.extract(&block));
        ear.push_i16(&extractor.cleaned().samples, &mut |event| {
            let EarEvent::Word { word, text } = event else { return };
            let ended = Nanos(word.end_sample * 62_500);
            let known = HeardWord { word: Word::from(text).expect("short"), ended, score_permille: 900 };
            if text == "<unk>" || own.is_own(source, &known) {
                return;
            }
            match text {
                "stop" | "halt" => heard.stops.push(word.end_sample),
                _ => heard.words.push((word.end_sample, text.to_owned())),
            }
        });
    }
    heard
}

/// Says "stop" in two voices by turns, as loud as the robot, the first after `first` samples; how many got through, of
/// how many.
fn stops_heard(played: &[f32], first: usize) -> (usize, usize) {
    let phrases = Phrases::shipped();
    let mut others = vec![0.0; played.len()];
    let mut ends = Vec::new();
    for (index, start) in (first..played.len() - STOP_EVERY).step_by(STOP_EVERY).enumerate() {
        let voice = ["ann", "ben"][index % 2];
        let stop = phrases.samples("stop", voice).expect("in the bank");
        let gain = 0.1 / rms(&stop);
        for (at, sample) in stop.iter().enumerate() {
            others[start + at] += gain * sample;
        }
        ends.push((start + stop.len()) as u64);
    }
    let heard = listen(played, &others);
    let near = |end: &&u64| heard.stops.iter().any(|at| at.abs_diff(**end) < u64::from(AUDIO_RATE_HZ) / 2);
    (ends.iter().filter(near).count(), ends.len())
}

#[test]
fn the_robot_does_not_react_to_itself_but_hears_stop() {
    let Some(played) = own_speech() else {
        println!("skipped: espeak-ng is not installed");
        return;
    };
    let gain = 0.1 / rms(&played);
    let played: Vec<f32> = played.iter().map(|x| x * gain).collect();
    let alone = listen(&played, &vec![0.0; played.len()]);
    let (stops, words) = (alone.stops.len(), alone.words.len());
    println!("own voice alone, {SECONDS} s: {stops} x \"stop\", {words} other words not taken for its own");
    assert!(stops + words <= 1, "the robot reacts to itself: {:?} {:?}", alone.stops, alone.words);
    // The filter was tuned on the first of these; the second was never looked at while doing so.
    for (set, first) in [("tuned", STOP_EVERY), ("held out", STOP_EVERY + 37_111)] {
        let (caught, of) = stops_heard(&played, first);
        println!("\"stop\" said over it as loud as itself, {set}: {caught} of {of} caught");
        assert!(caught * 10 >= of * 9, "{set}: {caught} of {of}");
    }
}

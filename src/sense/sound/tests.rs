//! What a listener would notice of the sound features and the echo reduction: synthetic talkers in, judgements out.

use super::*;
use crate::types::Nanos;

/// Deterministic noise, -1..1.
struct Noise(u32);
impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A buzzing, syllable-shaped sound: a pulse train with wandering pitch through two wandering resonators, 140 to 260 ms
/// of it, then a gap. Speech-like in spectrum, modulation and sparseness.
pub fn talker(seed: u32, samples: usize) -> Vec<f32> {
    let mut noise = Noise(seed);
    let mut out = vec![0.0f32; samples];
    let (mut n, mut phase) = (0, 0.0f32);
    while n < samples {
        let long = 2_240 + ((noise.next() + 1.0) * 960.0) as usize;
        let pitch = 110.0 + 40.0 * (noise.next() + 1.0);
        let formants = [450.0 + 250.0 * noise.next(), 1_600.0 + 700.0 * noise.next()];
        let mut state = [[0.0f32; 2]; 2];
        for i in 0..long.min(samples - n) {
            phase += pitch / 16_000.0;
            let pulse = if phase >= 1.0 { 1.0 } else { 0.0 } + 0.02 * noise.next();
            phase -= phase.floor();
            let mut voice = 0.0;
            for (f, s) in formants.iter().zip(state.iter_mut()) {
                let (r, w) = (0.97, 2.0 * std::f32::consts::PI * f / 16_000.0);
                let y = pulse + 2.0 * r * w.cos() * s[0] - r * r * s[1];
                *s = [y, s[0]];
                voice += y;
            }
            let rise = (i.min(long - i) as f32 / 400.0).min(1.0);
            out[n + i] = voice * rise;
        }
        n += long + 800 + ((noise.next() + 1.0) * 1_200.0) as usize;
    }
    let power = out.iter().map(|s| s * s).sum::<f32>() / samples as f32;
    out.iter().map(|s| s * 0.06 / power.sqrt()).collect()
}

fn blocks<'a>(heard: &'a [f32], played: &'a [f32]) -> impl Iterator<Item = AudioBlock> + 'a {
    let whole = |s: &f32| (s * 32_768.0).clamp(-32_768.0, 32_767.0) as i16;
    heard.chunks_exact(AUDIO_BLOCK).zip(played.chunks_exact(AUDIO_BLOCK)).enumerate().map(move |(seq, (h, p))| {
        AudioBlock {
            seq: seq as u64,
            captured: Nanos::from_ms(20 * seq as u64),
            stamp: Default::default(),
            samples: std::array::from_fn(|i| whole(&h[i])),
            played: std::array::from_fn(|i| whole(&p[i])),
        }
    })
}

fn power_db(samples: &[f32]) -> f32 {
    10.0 * (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32 + 1e-12).log10()
}

/// Runs the extractor and gives the cleaned sound and the features.
fn run(heard: &[f32], played: &[f32]) -> (Vec<f32>, Vec<AudioFeatures>) {
    let mut extractor = AudioFeatureExtractor::new(SourceId(1));
    let (mut clean, mut features) = (Vec::new(), Vec::new());
    for block in blocks(heard, played) {
        features.push(extractor.extract(&block));
        clean.extend(extractor.cleaned().samples.map(|s| f32::from(s) / 32_768.0));
    }
    (clean, features)
}

/// A small room: direct sound after `delay` samples, then decaying reflections.
fn room(sound: &[f32], delay: usize, seed: u32) -> Vec<f32> {
    let mut noise = Noise(seed);
    let path: Vec<f32> = (0..1_200)
        .map(|n| if n < delay { 0.0 } else { noise.next() * 0.25 * (-((n - delay) as f32) / 260.0).exp() })
        .enumerate()
        .map(|(n, v)| if n == delay { 0.8 } else { v })
        .collect();
    let mut out = vec![0.0f32; sound.len()];
    for (n, o) in out.iter_mut().enumerate() {
        for (k, h) in path.iter().enumerate().take(n + 1) {
            *o += h * sound[n - k];
        }
    }
    out
}

#[test]
fn a_full_scale_tone_is_zero_decibel_in_its_band() {
    let tone: Vec<f32> = (0..3_200).map(|n| (2.0 * std::f32::consts::PI * 700.0 * n as f32 / 16_000.0).sin()).collect();
    let (_, features) = run(&tone, &vec![0.0; 3_200]);
    let last = features.last().unwrap();
    assert!(last.band_cdb[2].abs() < 60, "{:?}", last.band_cdb);
    assert!(last.band_cdb[6] < -4_000 && last.level_cdb.abs() < 60);
}

#[test]
fn a_talker_is_voice_and_steady_noise_is_not() {
    let mut noise = Noise(3);
    let hiss: Vec<f32> = (0..16_000 * 12).map(|_| 0.01 * noise.next()).collect();
    let (_, quiet) = run(&hiss, &vec![0.0; hiss.len()]);
    assert_eq!(quiet[250..].iter().map(|f| f.voice_permille).max(), Some(0));
    let mut speech = talker(5, 16_000 * 12);
    speech[..32_000].fill(0.0);
    let both: Vec<f32> = speech.iter().zip(&hiss).map(|(s, h)| s + h).collect();
    let (_, loud) = run(&both, &vec![0.0; both.len()]);
    let voiced = loud[100..].iter().filter(|f| f.voice_permille > 500).count();
    assert!(voiced * 10 > loud[100..].len() * 6, "{voiced} of {}", loud.len() - 100);
    assert_eq!(loud[50..100].iter().map(|f| f.voice_permille).max(), Some(0));
}

#[test]
fn own_voice_at_equal_level_is_removed_and_never_counts_as_voice() {
    for (name, delay) in [("direct mix", None), ("small room", Some(60))] {
        let own = talker(11, 16_000 * 10);
        let heard = delay.map_or(own.clone(), |d| room(&own, d, 9));
        let (clean, features) = run(&heard, &own);
        let settled = 16_000 * 2;
        let gone = power_db(&heard[settled..]) - power_db(&clean[settled..]);
        assert!(gone > 30.0, "{name}: {gone:.1} dB");
        let triggers = features[25..].iter().filter(|f| f.voice_permille > 500).count();
        assert_eq!(triggers, 0, "{name}");
        let loud: Vec<_> = features[100..].iter().filter(|f| f.echo_permille > 0).collect();
        let found = loud.iter().filter(|f| f.echo_permille > 900).count();
        assert!(found * 10 > loud.len() * 8, "{name}: {found} of {}", loud.len());
    }
}

#[test]
fn somebody_else_is_still_heard_over_the_own_voice() {
    for (name, delay) in [("direct mix", None), ("small room", Some(60))] {
        let own = talker(11, 16_000 * 10);
        let mut other = talker(23, 16_000 * 10);
        other[..16_000 * 4].fill(0.0);
        let echo = delay.map_or(own.clone(), |d| room(&own, d, 9));
        let heard: Vec<f32> = echo.iter().zip(&other).map(|(a, b)| a + b).collect();
        let (clean, features) = run(&heard, &own);
        let from = 16_000 * 4;
        let wrong: Vec<f32> = clean[from..].iter().zip(&other[from..]).map(|(c, o)| c - o).collect();
        let kept = power_db(&other[from..]) - power_db(&wrong);
        assert!(kept > 11.0, "{name}: the other talker is {kept:.1} dB above what is wrong");
        let voiced = features[200..].iter().filter(|f| f.voice_permille > 500).count();
        assert!(voiced * 10 > features[200..].len() * 6, "{name}: {voiced} of {}", features.len() - 200);
    }
}

#[test]
fn sound_without_own_voice_is_not_touched() {
    let other = talker(23, 16_000 * 2);
    let (clean, features) = run(&other, &vec![0.0; other.len()]);
    let heard: Vec<f32> = blocks(&other, &other).flat_map(|b| b.samples).map(|s| f32::from(s) / 32_768.0).collect();
    assert_eq!(clean, heard);
    assert!(features.iter().all(|f| f.echo_permille == 0));
}

#[test]
fn lost_blocks_are_counted() {
    let sound = talker(2, 16_000);
    let mut extractor = AudioFeatureExtractor::new(SourceId(1));
    let lost: Vec<u16> = blocks(&sound, &sound)
        .filter(|b| b.seq != 3 && b.seq != 4)
        .take(5)
        .map(|b| extractor.extract(&b).lost)
        .collect();
    assert_eq!(lost, [0, 0, 0, 2, 0]);
}

#[test]
fn drifting_devices_are_followed() {
    // Two devices whose clocks differ by 60 ppm: a sample is lost every second.
    let own = talker(11, 16_000 * 12);
    let heard: Vec<f32> = (0..own.len()).map(|n| if n < 600 { 0.0 } else { 0.7 * own[n - 300 - n / 16_000] }).collect();
    let (clean, features) = run(&heard, &own);
    let gone = power_db(&heard[32_000..]) - power_db(&clean[32_000..]);
    let mistaken = features[50..].iter().filter(|f| f.voice_permille > 500).count();
    assert!(gone > 15.0 && mistaken * 30 < features.len(), "{gone:.1} dB, {mistaken} mistaken");
}

#[test]
fn an_echo_that_the_filter_cannot_follow_is_no_voice_either() {
    // Devices that stumble: twice a second the echo comes up to 10 ms earlier or later.
    let own = talker(11, 16_000 * 12);
    let mut noise = Noise(77);
    let (mut heard, mut delay) = (vec![0.0f32; own.len()], 300);
    for n in 600..own.len() {
        if n % 8_000 == 0 {
            delay = (300.0 + 160.0 * noise.next()) as usize;
        }
        heard[n] = 0.7 * own[n - delay] + 0.001 * noise.next();
    }
    let (_, features) = run(&heard, &own);
    let mistaken = features[100..].iter().filter(|f| f.voice_permille > 500).count();
    assert!(mistaken * 10 < features.len() - 100, "{mistaken} of {}", features.len() - 100);
}

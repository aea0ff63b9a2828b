//! What a scene, a room and a status must score.

use super::*;
use crate::types::Looming;

struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Standard normal, as the sum of twelve uniforms less six.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

fn frame(at_ms: u64, luma: u8, motion: u8) -> CameraFeatures {
    CameraFeatures {
        source: SourceId(0),
        seq: at_ms,
        captured: Nanos::from_ms(at_ms),
        stamp: Default::default(),
        luma: [[luma; GRID_COLS]; GRID_ROWS],
        motion: [[motion; GRID_COLS]; GRID_ROWS],
        looming: Looming::default(),
        lost: 0,
    }
}

fn block(at_ms: u64, level_db: f32, voice: u16) -> AudioFeatures {
    AudioFeatures {
        source: SourceId(1),
        seq: at_ms / 20,
        captured: Nanos::from_ms(at_ms),
        stamp: Default::default(),
        band_cdb: [(level_db * 100.0) as i16; BANDS],
        level_cdb: (level_db * 100.0) as i16,
        heard_cdb: (level_db * 100.0) as i16,
        voice_permille: voice,
        echo_permille: 0,
        lost: 0,
    }
}

fn camera() -> SourceSalience {
    SourceSalience::new(SourceId(0), SourceKind::Camera)
}

fn microphone() -> SourceSalience {
    SourceSalience::new(SourceId(1), SourceKind::Microphone)
}

fn total(source: &SourceSalience) -> f32 {
    source.snarc.total(&AttentionConfig::default().weights)
}

fn see(source: &mut SourceSalience, features: &CameraFeatures) -> f32 {
    source.see(features, &AttentionConfig::default(), &GateConfig::default());
    total(source)
}

fn hear(source: &mut SourceSalience, features: &AudioFeatures) -> f32 {
    source.hear(features, &AttentionConfig::default());
    total(source)
}

/// Sensor noise of `sigma` grey levels a pixel: a cell averages `pixels` of them, and motion is a mean |difference|.
fn noisy_frame(noise: &mut Noise, at_ms: u64, sigma: f32, pixels: f32) -> CameraFeatures {
    let mut features = frame(at_ms, 0, 0);
    let rms = libm::sqrtf(pixels);
    for row in 0..GRID_ROWS {
        for col in 0..GRID_COLS {
            let scene = 40.0 + 10.4 * row as f32 + 3.3 * col as f32;
            features.luma[row][col] = (scene + noise.normal() * sigma / rms).round() as u8;
            let difference = 4.0 * sigma * (1.128 + noise.normal() * 0.85 / rms);
            features.motion[row][col] = difference.clamp(0.0, 255.0).round() as u8;
        }
    }
    features
}

/// Case 25's complaint: there a constant stream scored .25 for ever.
#[test]
fn a_repeated_stream_scores_nothing() {
    let (mut eye, mut ear) = (camera(), microphone());
    see(&mut eye, &frame(0, 90, 0));
    hear(&mut ear, &block(0, -50.0, 0));
    for i in 1..200 {
        assert_eq!(see(&mut eye, &frame(i * 33, 90, 0)), 0.0, "frame {i}");
        assert_eq!(hear(&mut ear, &block(i * 20, -50.0, 0)), 0.0, "block {i}");
    }
}

/// Case 6. Difference: arousal and reward of the first observation are 0, not .5, so the total is .2, not .4.
#[test]
fn the_first_observation_is_new_and_nothing_else() {
    let mut eye = camera();
    let first = see(&mut eye, &frame(0, 90, 0));
    assert_eq!(eye.snarc.parts(), [0.0, 1.0, 0.0, 0.0, 0.0]);
    assert!((first - 0.2).abs() < 1e-6);
}

#[test]
fn a_still_scene_with_sensor_noise_is_quiet_within_ten_seconds() {
    for (sigma, pixels) in [(1.0, 1600.0), (4.0, 1600.0), (4.0, 100.0), (4.0, 25.0)] {
        for rate_ms in [33, 100] {
            let (mut eye, mut noise, mut worst) = (camera(), Noise(7), 0.0f32);
            for i in 0..40_000 / rate_ms {
                let at = i * rate_ms;
                let score = see(&mut eye, &noisy_frame(&mut noise, at, sigma, pixels));
                if at >= 10_000 {
                    worst = worst.max(score);
                }
            }
            assert!(worst < 0.05, "sigma {sigma}, {pixels} pixels a cell, every {rate_ms} ms: {worst}");
        }
    }
}

#[test]
fn a_steady_room_is_quiet_within_ten_seconds() {
    for wobble_db in [1.0, 2.5] {
        let (mut ear, mut noise, mut worst) = (microphone(), Noise(3), 0.0f32);
        for i in 0..2_000 {
            let mut features = block(i * 20, -45.0, (30.0 + noise.unit() * 60.0) as u16);
            features.band_cdb.iter_mut().for_each(|band| *band += (noise.normal() * wobble_db * 100.0) as i16);
            let score = hear(&mut ear, &features);
            if i >= 500 {
                worst = worst.max(score);
            }
        }
        assert!(worst < 0.05, "wobble {wobble_db} dB: {worst}");
    }
}

#[test]
fn a_person_who_walks_in_stands_out_of_the_noise() {
    let (mut eye, mut noise, mut best) = (camera(), Noise(9), 0.0f32);
    (0..150).for_each(|i| {
        see(&mut eye, &noisy_frame(&mut noise, i * 100, 4.0, 1600.0));
    });
    for i in 0..10 {
        let mut features = noisy_frame(&mut noise, 15_000 + i * 100, 4.0, 1600.0);
        for row in 4..10 {
            for col in i as usize..i as usize + 2 {
                features.luma[row][col] = 220;
                features.motion[row][col] = 200;
            }
        }
        best = best.max(see(&mut eye, &features));
    }
    assert!(best > AttentionConfig::default().threshold, "{best}");
}

#[test]
fn somebody_who_speaks_stands_out_and_the_own_voice_does_not() {
    for (echo, loud) in [(0, true), (1000, false)] {
        let (mut ear, mut noise, mut best) = (microphone(), Noise(5), 0.0f32);
        for i in 0..600 {
            let mut features = block(i * 20, -55.0, 50);
            if i > 550 {
                features = block(i * 20, -20.0, 950);
                features.echo_permille = echo;
            }
            features.band_cdb.iter_mut().for_each(|band| *band += (noise.normal() * 150.0) as i16);
            let score = hear(&mut ear, &features);
            if i > 550 {
                best = best.max(score);
            }
        }
        assert_eq!(best > AttentionConfig::default().threshold, loud, "echo {echo}: {best}");
    }
}

#[test]
fn looming_is_strong_at_once() {
    let mut eye = camera();
    (0..100).for_each(|i| {
        see(&mut eye, &frame(i * 100, 90, 0));
    });
    let mut features = frame(10_000, 90, 0);
    features.looming = Looming { growth_permille_per_s: 1800, cells: 20, bearing_mrad: 0 };
    see(&mut eye, &features);
    assert!(eye.snarc.arousal >= 0.75);
}

#[test]
fn scores_do_not_depend_on_the_frame_rate_beyond_sampling() {
    let peak = |step_ms: u64| {
        let mut eye = camera();
        (0..20_000 / step_ms).for_each(|i| {
            see(&mut eye, &frame(i * step_ms, 60, 0));
        });
        let first = see(&mut eye, &frame(20_000, 120, 120));
        (0..3_000 / step_ms).for_each(|i| {
            see(&mut eye, &frame(20_000 + i * step_ms, 120, 0));
        });
        (first, total(&eye))
    };
    let (slow, fast) = (peak(100), peak(20));
    assert!((slow.0 - fast.0).abs() < 0.1, "{slow:?} {fast:?}");
    assert!(slow.1 < 0.05 && fast.1 < 0.05, "three seconds later both are calm: {slow:?} {fast:?}");
}

#[test]
fn rewards_count_only_while_something_happens() {
    let mut eye = camera();
    (0..50).for_each(|i| {
        see(&mut eye, &frame(i * 100, 90, 0));
    });
    eye.outcome(1.0, Nanos::from_s(5));
    assert_eq!(see(&mut eye, &frame(5_100, 90, 0)), 0.0);
    see(&mut eye, &frame(5_200, 110, 90));
    assert!(eye.snarc.reward > 0.1);
}

#[test]
fn a_bumper_is_felt_and_a_steady_battery_is_not() {
    let mut body = SourceSalience::new(SourceId(2), SourceKind::Status);
    let mut status = Status { battery_percent: Some(80), range_mm: Some(2000), ..Status::default() };
    let feel = |body: &mut SourceSalience, status: &Status| {
        body.feel(status, &AttentionConfig::default());
        total(body)
    };
    for i in 0..100 {
        status.captured = Nanos::from_ms(i * 100);
        let score = feel(&mut body, &status);
        assert!(i == 0 || score == 0.0);
    }
    status.captured = Nanos::from_ms(10_000);
    status.bumper = Some(true);
    assert!(feel(&mut body, &status) > 0.15);
}

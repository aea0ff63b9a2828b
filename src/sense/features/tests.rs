//! What a watcher would notice of the camera features, on drawn frames: stillness, approach, walking by.

use super::*;
use crate::types::{Looming, Nanos};

struct Noise(u32);
impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 16
    }
    /// About normal with the given standard deviation: the sum of 12 uniform numbers.
    fn normal(&mut self, sigma: f32) -> i32 {
        let sum: u32 = (0..12).map(|_| self.next()).sum();
        ((sum as f32 / 65_536.0 - 6.0) * sigma).round() as i32
    }
}

const W: usize = 640;
const H: usize = 480;

/// A textured room, the same every time.
fn room() -> Vec<u8> {
    let mut out = Vec::with_capacity(W * H * 3);
    for y in 0..H {
        for x in 0..W {
            let v = 70 + (x * 60 / W) as i32 + if (x / 53 + y / 47) % 2 == 0 { 12 } else { 0 };
            out.extend([v as u8, (v + 8) as u8, (v - 10) as u8]);
        }
    }
    out
}

fn fill(bytes: &mut [u8], x: std::ops::Range<f32>, y: std::ops::Range<f32>, colour: [u8; 3]) {
    let clip = |v: f32, end: usize| v.clamp(0.0, end as f32) as usize;
    for row in clip(y.start, H)..clip(y.end, H) {
        for col in clip(x.start, W)..clip(x.end, W) {
            bytes[(row * W + col) * 3..][..3].copy_from_slice(&colour);
        }
    }
}

/// A standing person, `distance` metres away, `side` metres to the right, legs spread by `stride` metres.
fn person(bytes: &mut [u8], distance: f32, side: f32, stride: f32) {
    let f = 457.0 / distance;
    let (cx, horizon) = (320.0 + side * f, 200.0);
    let x = |m: f32| cx + m * f;
    let y = |m: f32| horizon + (1.2 - m) * f;
    fill(bytes, x(-0.12)..x(0.12), y(1.75)..y(1.45), [200, 160, 130]);
    fill(bytes, x(-0.25)..x(0.25), y(1.45)..y(0.8), [180, 40, 40]);
    fill(bytes, x(-0.1 - stride / 2.0)..x(-stride / 2.0 + 0.06), y(0.8)..y(0.0), [30, 30, 60]);
    fill(bytes, x(stride / 2.0 - 0.06)..x(0.1 + stride / 2.0), y(0.8)..y(0.0), [30, 30, 60]);
}

fn frame(seq: u64, hz: u64, bytes: Vec<u8>) -> Frame {
    Frame {
        seq,
        captured: Nanos(seq * 1_000_000_000 / hz + 5_000_000_000),
        width: W as u32,
        height: H as u32,
        bytes,
        ..Frame::default()
    }
}

/// Largest growth over `seconds` of a scene drawn by `draw(bytes, t)`, with sensor noise, and the features of the end.
fn watch(hz: u64, seconds: f32, draw: impl Fn(&mut [u8], f32)) -> (Looming, Vec<Looming>) {
    let mut extractor = CameraFeatureExtractor::new(SourceId(0), W as u32, H as u32, 70.0);
    let mut noise = Noise(5);
    let room = room();
    let mut all = Vec::new();
    for seq in 0..(seconds * hz as f32) as u64 {
        let mut bytes = room.clone();
        draw(&mut bytes, seq as f32 / hz as f32);
        for pixel in bytes.chunks_exact_mut(3) {
            let n = (noise.next() % 15) as i32 - 7;
            pixel.iter_mut().for_each(|v| *v = (i32::from(*v) + n).clamp(0, 255) as u8);
        }
        all.push(extractor.extract(&frame(seq, hz, bytes)).looming);
    }
    (all.iter().copied().max_by_key(|l| l.growth_permille_per_s).unwrap_or_default(), all)
}

#[test]
fn still_scene_with_sensor_noise_does_not_move() {
    let mut extractor = CameraFeatureExtractor::new(SourceId(0), W as u32, H as u32, 70.0);
    let mut noise = Noise(1);
    let room = room();
    let (mut moved, mut cells) = (0u32, 0u32);
    for seq in 0..12 {
        let bytes = room.iter().map(|v| (i32::from(*v) + noise.normal(4.0)).clamp(0, 255) as u8).collect();
        let features = extractor.extract(&frame(seq, 10, bytes));
        assert_eq!(features.looming, Looming::default());
        moved += features.motion.iter().flatten().map(|v| u32::from(*v)).sum::<u32>();
        cells += (GRID_COLS * GRID_ROWS) as u32;
    }
    assert!(moved * 50 < cells, "{moved} quarters in {cells} cells");
}

#[test]
fn a_repeated_frame_is_still_and_a_new_size_is_no_motion() {
    let mut extractor = CameraFeatureExtractor::new(SourceId(0), W as u32, H as u32, 70.0);
    let first = extractor.extract(&frame(0, 10, room()));
    let again = extractor.extract(&frame(1, 10, room()));
    assert_eq!(first.luma, again.luma);
    assert_eq!(again.motion, [[0; GRID_COLS]; GRID_ROWS]);
    let small = Frame { width: 33, height: 21, bytes: vec![255; 33 * 21 * 3], ..frame(4, 10, Vec::new()) };
    let changed = extractor.extract(&small);
    assert_eq!((changed.motion, changed.lost), ([[0; GRID_COLS]; GRID_ROWS], 2));
    assert_eq!(changed.luma, [[255; GRID_COLS]; GRID_ROWS]);
}

#[test]
fn luma_and_motion_say_where() {
    let mut extractor = CameraFeatureExtractor::new(SourceId(0), W as u32, H as u32, 70.0);
    let black = vec![0; W * H * 3];
    extractor.extract(&frame(0, 10, black.clone()));
    let mut lit = black;
    fill(&mut lit, 80.0..120.0, 40.0..80.0, [100, 100, 100]);
    let features = extractor.extract(&frame(1, 10, lit));
    assert_eq!((features.luma[1][2], features.motion[1][2]), (100, 255));
    let elsewhere = features.motion.iter().flatten().map(|v| u32::from(*v)).sum::<u32>() - 255;
    assert_eq!(elsewhere, 0);
}

#[test]
fn an_approaching_person_looms_before_contact() {
    for hz in [10, 30] {
        // 1.2 m/s from 4 m: contact after 3.3 s, watched until 0.9 m.
        let (most, all) = watch(hz, 2.6, |bytes, t| person(bytes, 4.0 - 1.2 * t, 0.0, 0.0));
        assert!(most.growth_permille_per_s > 700, "{hz} Hz: {all:?}");
        assert!(most.cells >= 6 && most.bearing_mrad.abs() < 120, "{most:?}");
    }
}

#[test]
fn people_who_walk_by_do_not_loom() {
    for hz in [10, 30] {
        for (distance, speed) in [(3.0f32, 1.2f32), (1.8, 0.8), (4.0, -1.5)] {
            let (most, all) = watch(hz, 3.5, |bytes, t| {
                let side = speed * (t - 1.75);
                let stride = 0.6 * (t * 6.0).sin().abs();
                person(bytes, distance, side, stride);
            });
            assert!(most.growth_permille_per_s < 450, "{hz} Hz, {distance} m, {speed} m/s: {most:?} {all:?}");
        }
    }
}

#[test]
fn two_people_walking_apart_do_not_loom() {
    let (most, all) = watch(15, 2.0, |bytes, t| {
        person(bytes, 3.0, -0.6 - 0.8 * t * 0.7, 0.3);
        person(bytes, 3.0, 0.6 + 0.8 * t * 0.7, 0.3);
    });
    assert!(most.growth_permille_per_s < 450, "{most:?} {all:?}");
}

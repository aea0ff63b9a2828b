//! From the output grid to things seen: peaks of the heat, boxes, distances, who raises a hand. A grid of numbers flows in, at most
//! sixteen detections in pixels of the 640x480 picture flow out, best first. Nothing is allocated.

use arrayvec::ArrayVec;

use super::input::{CAMERA_HEIGHT, CAMERA_WIDTH, FOCAL_PX, REDUCTION};
use super::net::{GRID, GRID_H, GRID_W};
use crate::types::{Detection, MAX_DETECTIONS, Thing};

/// Pixels of the camera's picture per cell of the grid.
const CELL_PX: f32 = (4 * REDUCTION) as f32;
/// Peaks looked at before overlapping ones are dropped.
const PEAKS: usize = 60;
/// Two boxes of one class that overlap more than this (intersection over union) are one thing.
const SAME_IOU: f32 = 0.6;

/// One thing found, in full precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// What it is.
    pub thing: Thing,
    /// Left, top, right, bottom in pixels of the 640x480 picture.
    pub bbox: [f32; 4],
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Metres from the camera to its near side.
    pub distance_m: f32,
    /// Bearing of the box's middle, radians, positive to the right.
    pub bearing_rad: f32,
    /// A person with a hand raised: a hand's middle lies in the upper half of the person's box.
    pub raising: bool,
}

/// Things of a frame.
pub type FoundList = ArrayVec<Found, MAX_DETECTIONS>;

const THINGS: [Thing; 4] = [Thing::Person, Thing::Obstacle, Thing::Charger, Thing::Hand];

/// Intersection over union of two boxes.
#[must_use]
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let (w, h) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area = |q: &[f32; 4]| (q[2] - q[0]) * (q[3] - q[1]);
    w * h / (area(a) + area(b) - w * h)
}

/// Decodes a grid; scores under `least` are left out.
#[must_use]
pub fn decode(grid: &[f32], least: f32) -> FoundList {
    let mut found = FoundList::new();
    if grid.len() != GRID.numbers() {
        return found;
    }
    // A peak is a cell no lower than its eight neighbours. Kept sorted, best first.
    let mut peaks: ArrayVec<(f32, usize, usize), PEAKS> = ArrayVec::new();
    let floor = libm::logf(least.clamp(1e-4, 0.999) / (1.0 - least.clamp(1e-4, 0.999)));
    for class in 0..THINGS.len() {
        for y in 0..GRID_H {
            for x in 0..GRID_W {
                let v = grid[GRID.at(y, x) + class];
                if v < floor || peaks.last().is_some_and(|p| peaks.is_full() && v <= p.0) {
                    continue;
                }
                let (rows, columns) =
                    (y.saturating_sub(1)..=(y + 1).min(GRID_H - 1), x.saturating_sub(1)..=(x + 1).min(GRID_W - 1));
                if rows
                    .flat_map(|j| columns.clone().map(move |i| (j, i)))
                    .all(|(j, i)| grid[GRID.at(j, i) + class] <= v)
                {
                    let at = peaks.partition_point(|p| p.0 >= v);
                    if peaks.is_full() {
                        peaks.pop();
                    }
                    peaks.insert(at, (v, class, GRID.at(y, x)));
                }
            }
        }
    }
    for (logit, class, at) in peaks {
        let f = read(&grid[at..at + 9], logit, class, at);
        if found.iter().all(|o| o.thing != f.thing || iou(&o.bbox, &f.bbox) < SAME_IOU) && found.try_push(f).is_err() {
            break;
        }
    }
    for i in 0..found.len() {
        if found[i].thing == Thing::Person {
            found[i].raising = found.iter().any(|h| h.thing == Thing::Hand && in_upper_half(&h.bbox, &found[i].bbox));
        }
    }
    found
}

/// The middle of a hand's box lies in the upper half of a person's.
fn in_upper_half(hand: &[f32; 4], person: &[f32; 4]) -> bool {
    let (x, y) = ((hand[0] + hand[2]) * 0.5, (hand[1] + hand[3]) * 0.5);
    // A tenth of the width is allowed beyond the sides: boxes of arms held out are the least exact.
    let slack = (person[2] - person[0]) * 0.1;
    (person[0] - slack..=person[2] + slack).contains(&x) && y >= person[1] - slack && y <= (person[1] + person[3]) * 0.5
}

/// Reads one cell's nine numbers.
fn read(cell: &[f32], logit: f32, class: usize, at: usize) -> Found {
    let (row, column) = (at / GRID.line() - 1, at % GRID.line() / GRID.channels - 1);
    let (x, y) = (column as f32 + 0.5, row as f32 + 0.5);
    let side = |i: usize| libm::expf(cell[4 + i].clamp(-4.0, 4.0));
    let cut = |v: f32, most: usize| (v * CELL_PX).clamp(0.0, most as f32);
    let bbox = [
        cut(x - side(0), CAMERA_WIDTH),
        cut(y - side(1), CAMERA_HEIGHT),
        cut(x + side(2), CAMERA_WIDTH),
        cut(y + side(3), CAMERA_HEIGHT),
    ];
    Found {
        thing: THINGS[class],
        bbox,
        score: 1.0 / (1.0 + libm::expf(-logit)),
        distance_m: libm::expf(cell[8].clamp(-3.0, 4.0)),
        bearing_rad: libm::atanf(((bbox[0] + bbox[2]) * 0.5 - CAMERA_WIDTH as f32 * 0.5) / FOCAL_PX),
        raising: false,
    }
}

/// The same in the record's integers.
#[must_use]
pub fn detection(f: &Found) -> Detection {
    Detection {
        thing: f.thing,
        bbox_px: f.bbox.map(|v| libm::rintf(v) as u16),
        score_permille: libm::rintf(f.score * 1000.0) as u16,
        distance_mm: libm::rintf(f.distance_m * 1000.0) as u32,
        bearing_mrad: libm::rintf(f.bearing_rad * 1000.0) as i16,
        raising: f.raising,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Vec<f32> {
        vec![-9.0; GRID.numbers()]
    }

    /// Puts a thing at a cell, with sides in cells and a distance in metres.
    fn put(grid: &mut [f32], class: usize, (y, x): (usize, usize), logit: f32, sides: [f32; 4], metres: f32) {
        let at = GRID.at(y, x);
        grid[at + class] = logit;
        for (i, s) in sides.iter().enumerate() {
            grid[at + 4 + i] = libm::logf(*s);
        }
        grid[at + 8] = libm::logf(metres);
    }

    #[test]
    fn a_peak_becomes_one_box_with_distance_and_bearing() {
        let mut g = empty();
        put(&mut g, 1, (10, 20), 3.0, [2.5, 1.5, 2.5, 1.5], 1.25);
        put(&mut g, 1, (10, 21), 2.0, [3.5, 1.5, 1.5, 1.5], 1.25);
        let f = decode(&g, 0.3);
        assert_eq!(f.len(), 1);
        assert_eq!(f[0].thing, Thing::Obstacle);
        assert!(
            f[0].bbox.iter().zip([288.0, 144.0, 368.0, 192.0]).all(|(a, b)| (a - b).abs() < 0.01),
            "{:?}",
            f[0].bbox
        );
        assert!((f[0].distance_m - 1.25).abs() < 1e-4 && (f[0].score - 0.9526).abs() < 1e-3);
        assert!((f[0].bearing_rad - 8.0 / 340.0).abs() < 1e-3);
        assert_eq!(detection(&f[0]).bbox_px, [288, 144, 368, 192]);
    }

    #[test]
    fn bearings_are_those_of_the_camera_that_draws_the_scenes() {
        use crate::sense::scene::camera;
        assert_eq!((CAMERA_WIDTH, CAMERA_HEIGHT, FOCAL_PX), (camera::WIDTH, camera::HEIGHT, camera::FOCAL_PX));
    }

    #[test]
    fn only_a_hand_in_the_upper_half_of_a_person_counts_as_raising() {
        for (row, raising) in [(8, true), (20, false)] {
            let mut g = empty();
            put(&mut g, 0, (15, 20), 3.0, [2.0, 10.0, 3.0, 10.0], 2.0);
            put(&mut g, 3, (row, 22), 2.0, [0.7, 1.0, 0.7, 1.0], 2.0);
            let f = decode(&g, 0.3);
            assert_eq!((f.len(), f[0].raising), (2, raising));
        }
    }

    #[test]
    fn a_flood_of_peaks_keeps_the_best_sixteen() {
        let mut g = empty();
        for i in 0..100 {
            put(&mut g, 0, (i / 10 * 3, i % 10 * 4), 0.5 + i as f32 * 0.01, [0.5; 4], 2.0);
        }
        let f = decode(&g, 0.3);
        assert_eq!(f.len(), 16);
        assert!(f.windows(2).all(|w| w[0].score >= w[1].score) && f[0].score > 0.8);
    }
}

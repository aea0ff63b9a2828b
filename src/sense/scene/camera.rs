//! The one pinhole camera of the synthetic world. Metres in the robot's frame flow in, pixels of a 640x480 picture flow out,
//! and back: a box in the picture gives a bearing, and its foot on the floor gives a distance.
//!
//! Axes: `x` to the right, `y` up from the floor, `z` ahead, in metres, the camera at `(0, CAMERA_HEIGHT_M, 0)` and level.
//! The picture is the sensor's with a vertical shift (the horizon lies below the middle), so a standing person fits in from 1.6 m.

/// Picture width in pixels.
pub const WIDTH: usize = 640;
/// Picture height in pixels.
pub const HEIGHT: usize = 480;
/// Focal length in pixels: 2 atan(320 / 340) = 86.5 degrees across.
pub const FOCAL_PX: f32 = 340.0;
/// Column of the optical axis.
pub const CENTRE_X: f32 = 320.0;
/// Row of the horizon.
pub const HORIZON_Y: f32 = 295.0;
/// Height of the camera above the floor, in metres: a small wheeled robot.
pub const CAMERA_HEIGHT_M: f32 = 0.45;
/// A thing is "ahead" while its bearing is within this of the axis, in radians (12 degrees).
pub const AHEAD_RAD: f32 = 0.21;

/// Where a thing lies, in the words of `engines/language/language.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Left of the axis.
    Left,
    /// Within [`AHEAD_RAD`] of the axis.
    Ahead,
    /// Right of the axis.
    Right,
}

impl Direction {
    /// The direction of a bearing in radians, positive to the right.
    #[must_use]
    pub fn of(bearing_rad: f32) -> Self {
        match bearing_rad {
            b if b < -AHEAD_RAD => Self::Left,
            b if b > AHEAD_RAD => Self::Right,
            _ => Self::Ahead,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Ahead => "ahead",
            Self::Right => "right",
        }
    }
}

/// Projects a point (metres) to a pixel; `z` is kept at least 5 cm in front of the lens.
#[must_use]
pub fn project(x: f32, y: f32, z: f32) -> (f32, f32) {
    let s = FOCAL_PX / z.max(0.05);
    (CENTRE_X + x * s, HORIZON_Y - (y - CAMERA_HEIGHT_M) * s)
}

/// Bearing of a picture column, in radians, positive to the right.
#[must_use]
pub fn bearing_rad(column: f32) -> f32 {
    libm::atanf((column - CENTRE_X) / FOCAL_PX)
}

/// Distance ahead (`z`, metres) of a floor point seen in a row; `None` at or above the horizon.
#[must_use]
pub fn floor_z_m(row: f32) -> Option<f32> {
    (row > HORIZON_Y + 0.5).then(|| FOCAL_PX * CAMERA_HEIGHT_M / (row - HORIZON_Y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_of_170_cm_at_two_metres_is_289_pixels_tall() {
        let (top, foot) = (project(0.0, 1.7, 2.0).1, project(0.0, 0.0, 2.0).1);
        assert!((foot - top - 289.0).abs() < 0.01, "{}", foot - top);
    }

    #[test]
    fn the_foot_of_a_thing_tells_its_distance_and_its_column_the_bearing() {
        for (x, z) in [(-1.0, 1.2), (0.3, 2.5), (2.0, 4.0)] {
            let (c, r) = project(x, 0.0, z);
            assert!((floor_z_m(r).expect("below the horizon") - z).abs() < 1e-3);
            assert!((bearing_rad(c) - libm::atan2f(x, z)).abs() < 1e-5);
        }
        assert_eq!(floor_z_m(200.0), None);
    }

    #[test]
    fn directions_use_the_words_of_the_language() {
        assert_eq!([-0.5, 0.0, 0.5].map(|b| Direction::of(b).word()), ["left", "ahead", "right"]);
    }
}

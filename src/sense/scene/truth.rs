//! The truth about a drawn picture: class, box, distance and bearing of each thing that can be seen. What was drawn flows in
//! (extents and the canvas's count of hidden pixels); a list for data sets and tests flows out.

use super::camera::Direction;
use super::raster::{Canvas, Extent};

/// Classes of the eye, in the order of `engines/language/language.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A person.
    Person,
    /// A box, barrel or chair.
    Obstacle,
    /// The charging station.
    Charger,
    /// A raised forearm and hand.
    Hand,
}

impl Class {
    /// All classes, in order.
    pub const ALL: [Self; 4] = [Self::Person, Self::Obstacle, Self::Charger, Self::Hand];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        ["person", "obstacle", "charger", "hand"][self as usize]
    }
}

/// One thing in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Class.
    pub class: Class,
    /// Box in pixels of the 640x480 picture, cut at its edges; hidden parts are included.
    pub extent: Extent,
    /// Metres from the camera to the near side, along the floor (of a hand: its person's).
    pub distance_m: f32,
    /// Bearing in radians, positive to the right.
    pub bearing_rad: f32,
    /// A person with an arm up.
    pub raising: bool,
    /// Share of the thing that is inside the picture and not hidden.
    pub visible: f32,
    /// Small, mostly hidden or mostly outside: finding it earns nothing and missing it costs nothing (VOC's "difficult").
    pub hard: bool,
}

impl Truth {
    /// Where it lies.
    #[must_use]
    pub fn direction(&self) -> Direction {
        Direction::of(self.bearing_rad)
    }
}

/// A thing as drawn, before its visibility is known.
pub(super) struct Seen {
    pub(super) class: Class,
    pub(super) extent: Extent,
    pub(super) owner: usize,
    pub(super) distance_m: f32,
    pub(super) bearing_rad: f32,
    pub(super) raising: bool,
}

impl Seen {
    /// The truth once everything is drawn; `None` for what cannot be seen.
    pub(super) fn judge(&self, canvas: &Canvas) -> Option<Truth> {
        let inside = self.extent.in_picture();
        let share = inside.area() / self.extent.area().max(1.0);
        let uncovered = canvas.visible(self.owner);
        let (w, h) = (inside.x1 - inside.x0, inside.y1 - inside.y0);
        if w.min(h) < 8.0 || share < 0.1 || uncovered < 0.12 {
            return None;
        }
        // A near thing whose foot is below the picture is no less a thing: only its absolute size in view counts then.
        let cut = share < 0.3 && inside.area() < 0.04 * 640.0 * 480.0;
        Some(Truth {
            class: self.class,
            extent: inside,
            distance_m: self.distance_m,
            bearing_rad: self.bearing_rad,
            raising: self.raising,
            visible: uncovered * share.min(1.0),
            hard: uncovered < 0.4 || cut || w.min(h) < 16.0 || (self.class == Class::Hand && share < 0.5),
        })
    }
}

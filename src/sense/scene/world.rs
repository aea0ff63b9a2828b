//! The synthetic world: a room, the things in it, the light and the camera's faults, all fixed by a seed and by scripted tracks.
//! A builder or a random seed flows in; a `World` that can be drawn at any time `t` (seconds) flows out.
//!
//! ```
//! use sage::sense::scene::{Obstacle, Person, Track, World};
//! let world = World::builder(7)
//!     .person(Person::on(Track::from(1.0, -2.5, 3.0).to(4.0, -0.4, 1.9)).raises(5.0, 8.0))
//!     .obstacle(Obstacle::rolling_barrel(Track::from(9.0, 0.3, 5.0).to(12.0, 0.0, 0.7)).present(8.5, 20.0))
//!     .charger(Track::still(1.6, 3.0))
//!     .build();
//! ```

use super::looks::{BoxLook, ChargerLook, Light, PersonLook, Room};
use super::random::{Random, mix};
use super::texture::Split;
use super::track::Track;

/// A time at which a person's arm goes up and comes down again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raise {
    /// Seconds at which the arm starts to rise.
    pub from: f64,
    /// Seconds at which it is down again.
    pub to: f64,
    /// The picture's right-hand arm (else the left-hand one).
    pub right: bool,
}

/// A person: where they walk and when they raise an arm.
#[derive(Clone, Debug)]
pub struct Person {
    pub(super) track: Track,
    pub(super) present: (f64, f64),
    pub(super) raises: Vec<Raise>,
    pub(super) height_m: Option<f32>,
    pub(super) facing_rad: Option<f32>,
}

impl Person {
    /// A person on a track. Their looks come from the world's seed.
    #[must_use]
    pub fn on(track: Track) -> Self {
        Self { track, present: (f64::MIN, f64::MAX), raises: Vec::new(), height_m: None, facing_rad: None }
    }

    /// Raises the right arm (as seen in the picture) from one time to another, in seconds.
    #[must_use]
    pub fn raises(self, from: f64, to: f64) -> Self {
        self.raises_arm(from, to, true)
    }

    /// Raises an arm; `right` as seen in the picture.
    #[must_use]
    pub fn raises_arm(mut self, from: f64, to: f64, right: bool) -> Self {
        self.raises.push(Raise { from, to, right });
        self
    }

    /// Is there only between two times, in seconds.
    #[must_use]
    pub fn present(mut self, from: f64, to: f64) -> Self {
        self.present = (from, to);
        self
    }

    /// Body height in metres.
    #[must_use]
    pub fn height_m(mut self, height: f32) -> Self {
        self.height_m = Some(height);
        self
    }

    /// Where a person who stands still looks: 0 towards the robot, positive to the picture's right.
    #[must_use]
    pub fn facing_rad(mut self, facing: f32) -> Self {
        self.facing_rad = Some(facing);
        self
    }

    /// How far each arm (left, right in the picture) is up at time `t`, 0 to 1; rising and sinking take 0.4 s.
    #[must_use]
    pub fn arms_up(&self, t: f64) -> [f32; 2] {
        let mut up = [0.0f32; 2];
        for r in &self.raises {
            let k = ((t - r.from) / 0.4).min((r.to - t) / 0.4).clamp(0.0, 1.0) as f32;
            let arm = &mut up[usize::from(r.right)];
            *arm = arm.max(k * k * (3.0 - 2.0 * k));
        }
        up
    }
}

/// What kind of obstacle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// A cardboard or plastic box.
    Box,
    /// A standing barrel or bin.
    Barrel,
    /// A chair.
    Chair,
    /// A barrel lying across the way, rolling as it moves.
    RollingBarrel,
}

/// An obstacle on a track.
#[derive(Clone, Debug)]
pub struct Obstacle {
    pub(super) kind: ObstacleKind,
    pub(super) track: Track,
    pub(super) present: (f64, f64),
    pub(super) height_m: Option<f32>,
}

impl Obstacle {
    /// An obstacle of a kind.
    #[must_use]
    pub fn new(kind: ObstacleKind, track: Track) -> Self {
        Self { kind, track, present: (f64::MIN, f64::MAX), height_m: None }
    }

    /// A box.
    #[must_use]
    pub fn cardboard_box(track: Track) -> Self {
        Self::new(ObstacleKind::Box, track)
    }

    /// A standing barrel.
    #[must_use]
    pub fn barrel(track: Track) -> Self {
        Self::new(ObstacleKind::Barrel, track)
    }

    /// A chair.
    #[must_use]
    pub fn chair(track: Track) -> Self {
        Self::new(ObstacleKind::Chair, track)
    }

    /// A rolling barrel: on a track that comes at the robot it is the looming hazard.
    #[must_use]
    pub fn rolling_barrel(track: Track) -> Self {
        Self::new(ObstacleKind::RollingBarrel, track)
    }

    /// Is there only between two times, in seconds.
    #[must_use]
    pub fn present(mut self, from: f64, to: f64) -> Self {
        self.present = (from, to);
        self
    }

    /// Height in metres (of a rolling barrel: its thickness).
    #[must_use]
    pub fn height_m(mut self, height: f32) -> Self {
        self.height_m = Some(height);
        self
    }
}

/// Everything that can be seen.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) seed: u64,
    pub(super) room: Room,
    pub(super) light: Light,
    pub(super) people: Vec<(Person, PersonLook)>,
    pub(super) obstacles: Vec<(Obstacle, BoxLook)>,
    pub(super) chargers: Vec<(Track, ChargerLook)>,
}

/// Puts a [`World`] together.
#[derive(Clone, Debug)]
pub struct Builder {
    seed: u64,
    split: Split,
    tidy: bool,
    people: Vec<Person>,
    obstacles: Vec<Obstacle>,
    chargers: Vec<Track>,
}

impl World {
    /// A builder; the seed decides the room, the looks, the light and the noise.
    #[must_use]
    pub fn builder(seed: u64) -> Builder {
        Builder {
            seed,
            split: Split::Train,
            tidy: true,
            people: Vec::new(),
            obstacles: Vec::new(),
            chargers: Vec::new(),
        }
    }

    /// One random still for training or testing, meant to be drawn at `t = 0`.
    #[must_use]
    pub fn random(seed: u64, split: Split) -> Self {
        super::still::random(seed, split)
    }
}

impl Builder {
    /// Families and hues to use (default: the trained ones).
    #[must_use]
    pub fn split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Worse light, blur, noise and things before the lens, as in the training stills (default: an even, ordinary camera).
    #[must_use]
    pub fn untidy(mut self) -> Self {
        self.tidy = false;
        self
    }

    /// Adds a person.
    #[must_use]
    pub fn person(mut self, person: Person) -> Self {
        self.people.push(person);
        self
    }

    /// Adds an obstacle.
    #[must_use]
    pub fn obstacle(mut self, obstacle: Obstacle) -> Self {
        self.obstacles.push(obstacle);
        self
    }

    /// Adds a charger.
    #[must_use]
    pub fn charger(mut self, track: Track) -> Self {
        self.chargers.push(track);
        self
    }

    /// Builds the world. At most 24 people and 24 obstacles are kept.
    #[must_use]
    pub fn build(self) -> World {
        // Each thing draws its looks from its own stream, so adding one does not change the others.
        let stream = |kind: u64, i: usize| Random::new(mix(self.seed ^ (kind << 40)) ^ i as u64);
        let split = self.split;
        World {
            seed: self.seed,
            room: Room::random(&mut stream(1, 0), split, self.tidy),
            light: Light::random(&mut stream(2, 0), self.tidy),
            people: (self.people.into_iter().take(24).enumerate())
                .map(|(i, p)| {
                    let look = PersonLook::random(&mut stream(3, i), split, p.height_m);
                    (p, look)
                })
                .collect(),
            obstacles: (self.obstacles.into_iter().take(24).enumerate())
                .map(|(i, o)| {
                    let look = BoxLook::random(&mut stream(4, i), split, o.kind, o.height_m);
                    (o, look)
                })
                .collect(),
            chargers: (self.chargers.into_iter().take(4).enumerate())
                .map(|(i, c)| (c, ChargerLook::random(&mut stream(5, i))))
                .collect(),
        }
    }
}

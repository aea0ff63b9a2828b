//! How things look: sizes, colours and styles, drawn once from a seed. Random numbers flow in, plain descriptions for the drawing code flow out.

use std::f32::consts::TAU;

use super::random::Random;
use super::texture::{Rgb, Split, Surface, any_colour, colour, hsv, shade};
use super::world::ObstacleKind;

/// A second colour in bands: colour, across (else up and down), period in metres.
pub type Bands = Option<(Rgb, bool, f32)>;

/// A person's looks.
#[derive(Clone, Debug)]
pub struct PersonLook {
    /// Body height.
    pub height_m: f32,
    /// Stoutness, 1 ordinary.
    pub width: f32,
    /// Half the head's height over the body height.
    pub head: f32,
    /// Skin.
    pub skin: Rgb,
    /// Hair.
    pub hair: Rgb,
    /// 0 short, 1 long, 2 bald, 3 hat, 4 bun.
    pub hair_style: usize,
    /// Shirt.
    pub top: Rgb,
    /// Pattern of the shirt.
    pub bands: Bands,
    /// Trousers or skirt.
    pub legs: Rgb,
    /// Shoes.
    pub shoes: Rgb,
    /// Long sleeves.
    pub long_sleeves: bool,
    /// A skirt instead of trousers.
    pub skirt: bool,
    /// Half the distance of the feet over the height.
    pub stance: f32,
    /// Angles of upper arm and forearm at rest, each side, from level outwards, radians.
    pub rest: [(f32, f32); 2],
    /// The same for a raised arm.
    pub raised: [(f32, f32); 2],
    /// Where the gait starts, radians.
    pub phase: f32,
    /// Where a standing person looks, radians.
    pub facing_rad: f32,
}

impl PersonLook {
    /// Draws looks.
    pub fn random(r: &mut Random, split: Split, height_m: Option<f32>) -> Self {
        let skin = hsv(r.between(0.03, 0.09), r.between(0.25, 0.65), r.between(0.3, 0.95));
        let top = colour(r, split, 0.15, 0.15);
        let bands = r.chance(0.35).then(|| {
            let b = if r.chance(0.5) { colour(r, split, 0.1, 0.15) } else { shade(top, r.between(0.4, 0.8)) };
            (b, r.chance(0.4), r.between(0.06, 0.25))
        });
        let arm = |r: &mut Random| (r.between(-1.5, -0.95), r.between(-1.8, -0.8));
        let up = |r: &mut Random| (r.between(-0.35, 1.0), r.between(0.85, 1.75));
        Self {
            height_m: height_m.unwrap_or_else(|| r.between(1.5, 1.95)),
            width: r.between(0.88, 1.22),
            head: r.between(0.063, 0.077),
            skin,
            hair: hsv(r.between(0.0, 0.12), r.between(0.1, 0.7), r.between(0.05, 0.65)),
            hair_style: r.weighted(&[4.0, 2.5, 1.0, 1.0, 1.0]),
            top,
            bands,
            legs: colour(r, split, 0.05, 0.08),
            shoes: hsv(r.unit(), r.between(0.0, 0.4), r.between(0.05, 0.7)),
            long_sleeves: r.chance(0.6),
            skirt: r.chance(0.18),
            stance: r.between(0.025, 0.075),
            rest: [arm(r), arm(r)],
            raised: [up(r), up(r)],
            phase: r.between(0.0, TAU),
            facing_rad: r.between(-0.6, 0.6),
        }
    }
}

/// An obstacle's looks.
#[derive(Clone, Debug)]
pub struct BoxLook {
    /// Height.
    pub height_m: f32,
    /// Width.
    pub width_m: f32,
    /// Depth.
    pub depth_m: f32,
    /// Turn about the upright axis, radians.
    pub yaw_rad: f32,
    /// Main colour.
    pub paint: Rgb,
    /// Pattern.
    pub bands: Bands,
    /// Variant of the drawing: tape, label, slats.
    pub style: usize,
}

impl BoxLook {
    /// Draws looks for a kind.
    pub fn random(r: &mut Random, split: Split, kind: ObstacleKind, height_m: Option<f32>) -> Self {
        let (low, high, wide) = match kind {
            ObstacleKind::Box => (0.28, 0.85, (0.6, 1.5)),
            ObstacleKind::Barrel => (0.5, 0.95, (0.55, 0.85)),
            ObstacleKind::Chair => (0.75, 1.0, (0.45, 0.58)),
            ObstacleKind::RollingBarrel => (0.38, 0.65, (1.2, 1.9)),
        };
        let height_m = height_m.unwrap_or_else(|| r.between(low, high));
        let width_m = height_m * r.between(wide.0, wide.1);
        let paint = colour(r, split, 0.15, 0.18);
        Self {
            height_m,
            width_m,
            depth_m: width_m * r.between(0.6, 1.1),
            yaw_rad: if kind == ObstacleKind::RollingBarrel { 0.0 } else { r.between(-0.8, 0.8) },
            paint,
            bands: r.chance(0.45).then(|| {
                let b = if r.chance(0.5) { colour(r, split, 0.1, 0.15) } else { shade(paint, r.between(0.45, 0.8)) };
                (b, r.chance(0.6), r.between(0.1, 0.4))
            }),
            style: r.below(4),
        }
    }
}

/// A charger's looks: an upright plate with a green lamp and a bolt, on a foot.
#[derive(Clone, Debug)]
pub struct ChargerLook {
    /// Height.
    pub height_m: f32,
    /// Width over height, foreshortened by its turn.
    pub aspect: f32,
    /// Plate.
    pub body: Rgb,
    /// Lamp.
    pub lamp: Rgb,
    /// Bolt.
    pub bolt: Rgb,
}

impl ChargerLook {
    /// Draws looks.
    pub fn random(r: &mut Random) -> Self {
        let g = if r.chance(0.6) { r.between(190.0, 245.0) } else { r.between(30.0, 75.0) };
        let lamp = hsv(r.between(0.28, 0.42), r.between(0.8, 1.0), r.between(0.75, 1.0));
        Self {
            height_m: r.between(0.42, 0.6),
            aspect: r.between(0.7, 1.05),
            body: [g, g, (g + r.between(0.0, 10.0)).min(255.0)],
            lamp,
            bolt: if r.chance(0.7) { [240.0, 190.0, 20.0] } else { lamp },
        }
    }
}

/// Something in the room that is none of the classes.
#[derive(Clone, Debug)]
pub enum Decoration {
    /// On the wall: middle (right, up), half width, half height in metres, round, colours of frame and inside.
    Picture(f32, f32, f32, f32, bool, Rgb, Rgb),
    /// A door in the wall: middle, half width, height, colour.
    Door(f32, f32, f32, Rgb),
    /// A window: middle (right, up), half width, half height, light.
    Window(f32, f32, f32, f32, Rgb),
    /// On the floor: middle (right, ahead), half width, half depth, colour.
    Rug(f32, f32, f32, f32, Rgb),
    /// A pipe or pillar from floor to ceiling, before the wall: right, radius, colour.
    Pole(f32, f32, Rgb),
    /// Just before the lens, in pixels: x, y, half width, half height, round, colour.
    Near(f32, f32, f32, f32, bool, Rgb),
}

/// The room.
#[derive(Clone, Debug)]
pub struct Room {
    /// Distance of the facing wall.
    pub wall_m: f32,
    /// Height of the ceiling.
    pub ceiling_m: f32,
    /// Ceiling colour.
    pub ceiling: Rgb,
    /// Column (metres right, at the wall) from which the wall is in another light.
    pub corner_m: f32,
    /// That light.
    pub corner_light: f32,
    /// Skirting board height and colour.
    pub skirting: Option<(f32, Rgb)>,
    /// Wall surface.
    pub wall: Surface,
    /// Floor surface.
    pub floor: Surface,
    /// Other things.
    pub decorations: Vec<Decoration>,
}

impl Room {
    /// Draws a room; a tidy one has nothing before the lens.
    pub fn random(r: &mut Random, split: Split, tidy: bool) -> Self {
        let wall_m = r.between(5.6, 10.0);
        let mut decorations = Vec::new();
        for _ in 0..r.below(5) {
            let (x, c) = (r.between(-0.9, 0.9) * wall_m, any_colour(r, 0.9));
            decorations.push(match r.weighted(&[4.0, 1.5, 1.5, 1.5, 1.5]) {
                0 => Decoration::Picture(
                    x,
                    r.between(0.7, 2.4),
                    r.between(0.1, 0.8),
                    r.between(0.1, 0.7),
                    r.chance(0.3),
                    c,
                    any_colour(r, 0.8),
                ),
                1 => Decoration::Door(x, r.between(0.35, 0.6), r.between(1.9, 2.2), c),
                2 => Decoration::Window(
                    x,
                    r.between(1.3, 1.9),
                    r.between(0.3, 1.2),
                    r.between(0.3, 0.7),
                    hsv(r.between(0.5, 0.65), r.between(0.0, 0.4), r.between(0.6, 1.0)),
                ),
                3 => Decoration::Rug(
                    r.between(-2.0, 2.0),
                    r.between(1.5, wall_m - 1.0),
                    r.between(0.4, 1.3),
                    r.between(0.3, 0.9),
                    c,
                ),
                _ => Decoration::Pole(x, r.between(0.03, 0.16), c),
            });
        }
        if !tidy {
            for _ in 0..r.weighted(&[0.72, 0.2, 0.08]) {
                let (x, y, c) = (r.between(0.0, 640.0), r.between(0.0, 480.0), any_colour(r, 0.8));
                let w = r.between(4.0, 18.0);
                decorations.push(if r.chance(0.5) {
                    Decoration::Near(x, y, w, r.between(100.0, 400.0), false, c)
                } else {
                    Decoration::Near(x, y, w * 2.0, w, true, c)
                });
            }
        }
        Self {
            wall_m,
            ceiling_m: r.between(2.4, 4.5),
            ceiling: hsv(r.unit(), r.between(0.0, 0.15), r.between(0.5, 0.97)),
            corner_m: if r.chance(0.4) { r.between(-0.9, 0.9) * wall_m } else { f32::MAX },
            corner_light: r.between(0.72, 0.95),
            skirting: r.chance(0.5).then(|| (r.between(0.06, 0.16), any_colour(r, 0.4))),
            wall: Surface::random(r, split),
            floor: Surface::random(r, split),
            decorations,
        }
    }
}

/// Light and the camera's faults.
#[derive(Clone, Debug)]
pub struct Light {
    /// Gain of red, green and blue.
    pub gain: Rgb,
    /// Added after the gain.
    pub offset: f32,
    /// Brighter to one side: change of gain across the picture, right and down.
    pub gradient: (f32, f32),
    /// Passes of a 3x3 blur.
    pub blur: usize,
    /// Standard deviation of the sensor noise, of 255.
    pub noise: f32,
}

impl Light {
    /// Draws light; tidy is even light with little noise.
    pub fn random(r: &mut Random, tidy: bool) -> Self {
        if tidy {
            let g = r.between(0.92, 1.05);
            return Self {
                gain: [g * r.between(0.97, 1.03), g, g * r.between(0.97, 1.03)],
                offset: 0.0,
                gradient: (r.between(-0.15, 0.15), r.between(-0.1, 0.1)),
                blur: 1,
                noise: 2.0,
            };
        }
        let g = r.between(0.45, 1.3);
        Self {
            gain: [0; 3].map(|_: i32| g * r.between(0.86, 1.14)),
            offset: r.between(-12.0, 20.0),
            gradient: (r.between(-0.6, 0.6), r.between(-0.4, 0.4)),
            blur: r.weighted(&[0.35, 0.3, 0.15, 0.1, 0.1]),
            noise: r.between(0.0, 14.0),
        }
    }
}

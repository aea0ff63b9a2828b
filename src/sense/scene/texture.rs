//! Surfaces of the synthetic world: families of patterns and arcs of hue, each either trained on or held out for testing.
//! A stream of random numbers flows in; tileable patterns (with reduced levels, so that distance does not shimmer) and colours flow out.

use super::random::{Random, mix};

/// Which families and hues a world is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Plain, gradient, planks, bricks, blotches; hues outside the held-out arcs.
    Train,
    /// Checker, stripes, clouds, tiles; hues of clothes and obstacles inside the held-out arcs.
    HeldOut,
}

/// A colour, red, green, blue in 0..=255, not clamped.
pub type Rgb = [f32; 3];

/// Arcs of hue (of a turn) kept out of training for clothes and obstacles.
pub const HELD_OUT_HUES: [(f32, f32); 3] = [(0.08, 0.16), (0.45, 0.55), (0.78, 0.88)];

/// Hue (of a turn), saturation, value in 0..=1 to a colour.
#[must_use]
pub fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    let h = (hue - libm::floorf(hue)) * 6.0;
    let channel = |n: f32| {
        let k = (n + h) % 6.0;
        255.0 * value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// A colour made lighter or darker.
#[must_use]
pub fn shade(c: Rgb, k: f32) -> Rgb {
    c.map(|v| (v * k).min(255.0))
}

/// A hue for clothes and obstacles.
pub fn hue(r: &mut Random, split: Split) -> f32 {
    for _ in 0..64 {
        let h = r.unit();
        if HELD_OUT_HUES.iter().any(|(a, b)| (*a..=*b).contains(&h)) == (split == Split::HeldOut) {
            return h;
        }
    }
    if split == Split::HeldOut { 0.5 } else { 0.0 }
}

/// A colour for clothes and obstacles, at least so saturated and so bright.
pub fn colour(r: &mut Random, split: Split, saturation: f32, value: f32) -> Rgb {
    let h = hue(r, split);
    hsv(h, r.between(saturation, 1.0), r.between(value, 0.95))
}

/// A colour for walls, floors and things that are none of the classes.
pub fn any_colour(r: &mut Random, saturation: f32) -> Rgb {
    let h = r.unit();
    hsv(h, r.between(0.0, saturation), r.between(0.2, 0.92))
}

/// Pattern of a wall or floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// One colour.
    Plain,
    /// A slow change of colour.
    Gradient,
    /// Long boards of slightly different colours.
    Planks,
    /// Rows of bricks with joints.
    Bricks,
    /// Large soft spots.
    Blotches,
    /// Two colours in squares.
    Checker,
    /// Two colours in stripes.
    Stripes,
    /// Noise of several sizes.
    Clouds,
    /// Squares with joints.
    Tiles,
}

impl Family {
    /// Families of a split.
    #[must_use]
    pub fn of(split: Split) -> &'static [Family] {
        match split {
            Split::Train => &[Self::Plain, Self::Gradient, Self::Planks, Self::Bricks, Self::Blotches],
            Split::HeldOut => &[Self::Checker, Self::Stripes, Self::Clouds, Self::Tiles],
        }
    }
}

const SIDE: usize = 256;
const LEVELS: usize = 6;

/// A tileable pattern of two colours.
#[derive(Clone, Debug)]
pub struct Surface {
    /// Side of one tile in metres.
    pub tile_m: f32,
    /// How far the pattern is turned, as (cosine, sine).
    pub turn: (f32, f32),
    /// Mixtures of the two colours, by pattern value.
    palette: Vec<[u8; 3]>,
    /// Pattern values, each level half the side of the one before.
    levels: Vec<Vec<u8>>,
}

impl Surface {
    /// Draws a surface of a family of the split.
    pub fn random(r: &mut Random, split: Split) -> Self {
        let families = Family::of(split);
        let family = families[r.below(families.len())];
        let base = any_colour(r, 0.55);
        let other = if r.chance(0.6) { shade(base, r.between(0.55, 0.95)) } else { any_colour(r, 0.5) };
        let tile_m = match family {
            Family::Gradient => r.between(6.0, 14.0),
            Family::Blotches | Family::Clouds => r.between(2.0, 6.0),
            _ => r.between(0.9, 2.6),
        };
        let a = if matches!(family, Family::Bricks) { 0.0 } else { r.between(-0.5, 0.5) };
        Self::new(family, r, base, other, tile_m, a)
    }

    /// A surface of one family with two colours, a tile size and a turn in radians.
    pub fn new(family: Family, r: &mut Random, base: Rgb, other: Rgb, tile_m: f32, turn_rad: f32) -> Self {
        let palette = (0..256)
            .map(|i| {
                let m = i as f32 / 255.0;
                [0, 1, 2].map(|c| (base[c] + (other[c] - base[c]) * m).clamp(0.0, 255.0) as u8)
            })
            .collect();
        let mut levels = vec![pattern(family, r)];
        for l in 1..LEVELS {
            let (n, last) = (SIDE >> l, &levels[l - 1]);
            let at = |x: usize, y: usize| u32::from(last[y * n * 2 + x]);
            let next = (0..n * n)
                .map(|i| {
                    let (x, y) = (i % n * 2, i / n * 2);
                    ((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1) + 2) / 4) as u8
                })
                .collect();
            levels.push(next);
        }
        Self { tile_m, turn: (libm::cosf(turn_rad), libm::sinf(turn_rad)), palette, levels }
    }

    /// The level at which one picture pixel covers about one texel, for a pixel of `pixel_m` metres.
    #[must_use]
    pub fn level(&self, pixel_m: f32) -> usize {
        let mut texels = pixel_m / self.tile_m * SIDE as f32;
        let mut l = 0;
        while texels > 1.4 && l + 1 < LEVELS {
            texels *= 0.5;
            l += 1;
        }
        l
    }

    /// Colour at a point of the surface, in metres, at a level, interpolated.
    #[inline]
    #[must_use]
    pub fn at(&self, u_m: f32, v_m: f32, level: usize) -> [u8; 3] {
        let n = SIDE >> level;
        let k = n as f32 / self.tile_m;
        let u = (u_m * self.turn.0 - v_m * self.turn.1) * k + 65536.0;
        let v = (u_m * self.turn.1 + v_m * self.turn.0) * k + 65536.0;
        let (iu, iv) = (u as usize, v as usize);
        let (fu, fv) = (((u - iu as f32) * 256.0) as u32, ((v - iv as f32) * 256.0) as u32);
        let m = n - 1;
        let (x0, x1, y0, y1) = (iu & m, (iu + 1) & m, (iv & m) * n, ((iv + 1) & m) * n);
        let t = &self.levels[level];
        let p = |i: usize| u32::from(t[i]);
        let top = p(y0 + x0) * (256 - fu) + p(y0 + x1) * fu;
        let low = p(y1 + x0) * (256 - fu) + p(y1 + x1) * fu;
        self.palette[((top * (256 - fv) + low * fv) >> 16) as usize & 255]
    }
}

/// One tile of a family, 0..=255, row by row.
fn pattern(family: Family, r: &mut Random) -> Vec<u8> {
    let seed = r.bits();
    let n = 2 + r.below(5) as u32;
    let joint = r.between(0.02, 0.09);
    let square = |f: f32| f < joint;
    let part = |x: f32, n: u32| {
        let s = x * n as f32;
        (s as u32 % n, s - libm::floorf(s))
    };
    (0..SIDE * SIDE)
        .map(|i| {
            let (u, v) = ((i % SIDE) as f32 / SIDE as f32, (i / SIDE) as f32 / SIDE as f32);
            let m = match family {
                Family::Plain => 0.0,
                Family::Gradient => 1.0 - (2.0 * v - 1.0).abs() * 0.7 - (2.0 * u - 1.0).abs() * 0.3,
                Family::Planks => {
                    let (row, f) = part(v, n * 2);
                    if square(f) {
                        1.0
                    } else {
                        0.45 * (mix(seed ^ u64::from(row)) % 100) as f32 / 100.0 + 0.1 * noise(u, v, 32, seed)
                    }
                }
                Family::Bricks => {
                    let (row, f) = part(v, n * 2);
                    let (_, g) = part(u + 0.5 * (row % 2) as f32 / n as f32, n);
                    if square(f) || g < joint * 0.5 { 1.0 } else { 0.12 * noise(u, v, 32, seed) }
                }
                Family::Blotches => noise(u, v, n + 2, seed),
                Family::Checker => ((part(u, n * 2).0 + part(v, n * 2).0) % 2) as f32,
                Family::Stripes => (part(u, n * 2).0 % 2) as f32,
                Family::Clouds => {
                    let sum: f32 = (0..4u32).map(|k| noise(u, v, 4 << k, seed ^ u64::from(k)) / (k + 1) as f32).sum();
                    ((sum / 2.083 - 0.5) * 1.8 + 0.5).clamp(0.0, 1.0)
                }
                Family::Tiles => {
                    let ((_, f), (_, g)) = (part(u, n), part(v, n));
                    if square(f) || square(g) { 1.0 } else { 0.0 }
                }
            };
            (m * 255.0) as u8
        })
        .collect()
}

/// Smooth noise of `cells` x `cells` random values a tile, in 0..=1.
fn noise(u: f32, v: f32, cells: u32, seed: u64) -> f32 {
    let (x, y) = (u * cells as f32, v * cells as f32);
    let (ix, iy) = (x as u32, y as u32);
    let smooth = |f: f32| f * f * (3.0 - 2.0 * f);
    let (fx, fy) = (smooth(x - ix as f32), smooth(y - iy as f32));
    let p = |dx: u32, dy: u32| {
        let (a, b) = ((ix + dx) % cells, (iy + dy) % cells);
        (mix(seed ^ (u64::from(a) << 32 | u64::from(b))) >> 40) as f32 / (1u32 << 24) as f32
    };
    let (top, low) = (p(0, 0) + (p(1, 0) - p(0, 0)) * fx, p(0, 1) + (p(1, 1) - p(0, 1)) * fx);
    top + (low - top) * fy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hue_or_family_is_both_trained_and_held_out() {
        let mut r = Random::new(3);
        let held = |h: f32| HELD_OUT_HUES.iter().any(|(a, b)| (*a..=*b).contains(&h));
        assert!((0..500).all(|_| !held(hue(&mut r, Split::Train)) && held(hue(&mut r, Split::HeldOut))));
        assert!(Family::of(Split::Train).iter().all(|f| !Family::of(Split::HeldOut).contains(f)));
    }

    #[test]
    fn a_pattern_repeats_without_a_seam_and_far_levels_are_its_average() {
        let mut r = Random::new(5);
        let s = Surface::new(Family::Checker, &mut r, [0.0; 3], [255.0; 3], 1.0, 0.0);
        assert_eq!(s.at(0.31, 0.77, 0), s.at(1.31, -0.23, 0));
        let mean = |l: usize| s.levels[l].iter().map(|v| f64::from(*v)).sum::<f64>() / s.levels[l].len() as f64;
        assert!((mean(0) - mean(5)).abs() < 2.0);
    }

    #[test]
    fn primary_hues() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [255.0, 0.0, 0.0]);
        assert_eq!(hsv(1.0 / 3.0, 1.0, 1.0).map(|v| v.round()), [0.0, 255.0, 0.0]);
    }
}

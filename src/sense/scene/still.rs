//! Random single pictures for training and testing: a seed and a split flow in, a world to be drawn at `t = 0` flows out.
//! People stand 0.9 to 6 m away and raise an arm within 5 m; obstacles lie at 0.5 to 5 m, the charger at 0.7 to 4 m.

use super::random::{Random, mix};
use super::texture::Split;
use super::track::Track;
use super::world::{Obstacle, ObstacleKind, Person, World};

/// Places drawn so far, as (tangent of the bearing, half width over distance).
type Taken = Vec<(f32, f32)>;

/// A random still.
pub(super) fn random(seed: u64, split: Split) -> World {
    let mut r = Random::new(mix(seed ^ 0x5711));
    let mut b = World::builder(seed).split(split);
    if !r.chance(0.15) {
        b = b.untidy();
    }
    let mut taken = Taken::new();
    for _ in 0..r.weighted(&[0.22, 0.43, 0.25, 0.10]) {
        let z = near_first(&mut r, 0.9, 6.0);
        let Some(x) = place(&mut r, &mut taken, z, 0.3) else { continue };
        let (mut track, mut facing) = (Track::still(x, z), r.between(-0.7, 0.7));
        if r.chance(0.4) {
            let (vx, vz) = (r.between(-1.3, 1.3), r.between(-1.0, 0.6));
            track = Track::from(-1.0, x - vx, z - vz).to(1.0, x + vx, z + vz);
        } else if r.chance(0.25) {
            facing = r.between(-3.1, 3.1);
        }
        let mut p = Person::on(track).facing_rad(facing);
        if z < 5.0 && r.chance(0.55) {
            let right = r.chance(0.5);
            // Mostly fully up; some are caught on the way.
            let from = if r.chance(0.12) { r.between(-0.39, -0.05) } else { -2.0 };
            p = p.raises_arm(f64::from(from), 2.0, right);
            if r.chance(0.12) {
                p = p.raises_arm(-2.0, 2.0, !right);
            }
        }
        b = b.person(p);
    }
    for _ in 0..r.weighted(&[0.24, 0.4, 0.26, 0.10]) {
        let kind = [ObstacleKind::Box, ObstacleKind::Barrel, ObstacleKind::Chair, ObstacleKind::RollingBarrel]
            [r.weighted(&[0.36, 0.24, 0.24, 0.16])];
        let z = near_first(&mut r, 0.7, 5.0);
        let Some(x) = place(&mut r, &mut taken, z, 0.3) else { continue };
        let track = match kind {
            ObstacleKind::RollingBarrel => Track::from(-1.0, x, z + 1.0).to(2.0, x, z - 2.0),
            _ => Track::still(x, z),
        };
        b = b.obstacle(Obstacle::new(kind, track));
    }
    if r.chance(0.5) {
        let z = near_first(&mut r, 0.7, 4.0);
        if let Some(x) = place(&mut r, &mut taken, z, 0.25) {
            b = b.charger(Track::still(x, z));
        }
    }
    b.build()
}

/// A distance with more weight on near ones: even in between metres and their logarithm.
fn near_first(r: &mut Random, low: f32, high: f32) -> f32 {
    let u = r.unit();
    let even = low + (high - low) * u;
    let logarithmic = low * libm::powf(high / low, u);
    0.5 * (even + logarithmic)
}

/// A place at distance `z` that does not hide more than about half of another; `None` when eight tries fail.
fn place(r: &mut Random, taken: &mut Taken, z: f32, half_m: f32) -> Option<f32> {
    let w = half_m / z;
    for _ in 0..8 {
        let tangent = r.between(-0.92, 0.92);
        if taken.iter().all(|(t, v)| (tangent - t).abs() > 0.75 * (w + v)) {
            taken.push((tangent, w));
            return Some(tangent * z);
        }
    }
    None
}

//! Draws the things that are not people: boxes, barrels, chairs, rolling barrels, the charger. Looks and a place flow in,
//! shapes on the canvas flow out. Boxes and chairs are solid (corners projected one by one), so they turn as they should.

use std::f32::consts::{PI, TAU};

use super::camera::{CAMERA_HEIGHT_M, FOCAL_PX, project};
use super::looks::{Bands, BoxLook, ChargerLook};
use super::raster::{Canvas, Paint, Px};
use super::texture::{Rgb, shade};
use super::track::Place;
use super::world::ObstacleKind;

/// An upright block turned about its middle.
struct Block {
    /// Middle: right, ahead.
    middle: (f32, f32),
    /// Cosine and sine of the turn.
    turn: (f32, f32),
}

impl Block {
    fn new(x: f32, z: f32, yaw_rad: f32) -> Self {
        Self { middle: (x, z), turn: (libm::cosf(yaw_rad), libm::sinf(yaw_rad)) }
    }

    /// A point given in the block's own axes, on the floor plan.
    fn plan(&self, u: f32, v: f32) -> (f32, f32) {
        (self.middle.0 + u * self.turn.0 - v * self.turn.1, self.middle.1 + u * self.turn.1 + v * self.turn.0)
    }

    fn corner(&self, u: f32, v: f32, y: f32) -> Px {
        let (x, z) = self.plan(u, v);
        project(x, y, z)
    }

    /// The outward normal (in own axes) of a side looks at the camera.
    fn faces_camera(&self, u: f32, v: f32, du: f32, dv: f32) -> bool {
        let (px, pz) = self.plan(u, v);
        let (nx, nz) = (du * self.turn.0 - dv * self.turn.1, du * self.turn.1 + dv * self.turn.0);
        px * nx + pz * nz < 0.0
    }

    /// Draws the block from `u0, v0, y0` to `u1, v1, y1` (own axes, metres).
    fn draw(&self, c: &mut Canvas, u: (f32, f32), v: (f32, f32), y: (f32, f32), colour: Rgb, bands: Bands) {
        let sides = [
            ((u.0, v.0), (u.1, v.0), (0.0, -1.0)),
            ((u.1, v.0), (u.1, v.1), (1.0, 0.0)),
            ((u.1, v.1), (u.0, v.1), (0.0, 1.0)),
            ((u.0, v.1), (u.0, v.0), (-1.0, 0.0)),
        ];
        for (a, b, n) in sides {
            let m = ((a.0 + b.0) * 0.5, (a.1 + b.1) * 0.5);
            if !self.faces_camera(m.0, m.1, n.0, n.1) {
                continue;
            }
            // Light from the upper left: a side is darker the more it looks right.
            let nx = n.0 * self.turn.0 - n.1 * self.turn.1;
            let light = 0.86 - 0.2 * nx;
            let mut paint = Paint::flat(shade(colour, light));
            let top = self.corner(m.0, m.1, y.1);
            if let Some((other, across, period)) = bands {
                let (pa, pb) = (self.corner(a.0, a.1, y.1), self.corner(b.0, b.1, y.1));
                let scale = FOCAL_PX / self.plan(m.0, m.1).1.max(0.1);
                let d = if across { (0.0, 1.0) } else { (1.0, 0.0) };
                let narrow = if across {
                    1.0
                } else {
                    ((pb.0 - pa.0).abs() / (scale * ((a.0 - b.0).abs() + (a.1 - b.1).abs())).max(1.0)).clamp(0.1, 1.0)
                };
                paint = paint.banded(shade(other, light), d, period * scale * narrow, top);
            }
            c.polygon(
                &[
                    self.corner(a.0, a.1, y.0),
                    self.corner(b.0, b.1, y.0),
                    self.corner(b.0, b.1, y.1),
                    self.corner(a.0, a.1, y.1),
                ],
                &paint,
            );
        }
        for (seen, level, light) in [(y.1 < CAMERA_HEIGHT_M, y.1, 1.18), (y.0 > CAMERA_HEIGHT_M, y.0, 0.55)] {
            if seen {
                let k = [(u.0, v.0), (u.1, v.0), (u.1, v.1), (u.0, v.1)].map(|p| self.corner(p.0, p.1, level));
                c.polygon(&k, &Paint::flat(shade(colour, light)));
            }
        }
    }
}

/// Radius of a thing's footprint in metres: its distance is measured to its near side.
#[must_use]
pub fn reach_m(kind: ObstacleKind, look: &BoxLook) -> f32 {
    match kind {
        ObstacleKind::Box | ObstacleKind::Chair => look.depth_m * 0.5,
        ObstacleKind::Barrel => look.width_m * 0.5,
        ObstacleKind::RollingBarrel => look.height_m * 0.5,
    }
}

/// Draws an obstacle.
pub fn obstacle(c: &mut Canvas, kind: ObstacleKind, look: &BoxLook, place: &Place) {
    match kind {
        ObstacleKind::Box => cardboard_box(c, look, place),
        ObstacleKind::Barrel => barrel(c, look, place),
        ObstacleKind::Chair => chair(c, look, place),
        ObstacleKind::RollingBarrel => rolling_barrel(c, look, place),
    }
}

fn cardboard_box(c: &mut Canvas, l: &BoxLook, p: &Place) {
    let b = Block::new(p.x_m, p.z_m, l.yaw_rad);
    let (w, d) = (l.width_m * 0.5, l.depth_m * 0.5);
    b.draw(c, (-w, w), (-d, d), (0.0, l.height_m), l.paint, if l.style == 0 { l.bands } else { None });
    if !b.faces_camera(0.0, -d, 0.0, -1.0) {
        return;
    }
    let front = |u: f32, y: f32| b.corner(u * w, -d, y * l.height_m);
    let patch = |c: &mut Canvas, u0: f32, u1: f32, y0: f32, y1: f32, colour: Rgb| {
        c.polygon(&[front(u0, y0), front(u1, y0), front(u1, y1), front(u0, y1)], &Paint::flat(colour));
    };
    match l.style {
        1 => patch(c, -0.1, 0.1, 0.0, 1.0, shade(l.paint, 0.68)),
        2 => {
            patch(c, 0.1, 0.75, 0.15, 0.5, [225.0, 222.0, 214.0]);
            patch(c, 0.2, 0.65, 0.3, 0.34, [60.0, 60.0, 60.0]);
        }
        3 => {
            for y in [0.3, 0.64, 0.97] {
                patch(c, -0.98, 0.98, y - 0.05, y, shade(l.paint, 0.55));
            }
        }
        _ => {}
    }
}

fn barrel(c: &mut Canvas, l: &BoxLook, p: &Place) {
    let half = l.width_m * 0.5;
    let (x, z) = (p.x_m, p.z_m);
    let foot = project(x, 0.0, z);
    let scale = FOCAL_PX / z.max(0.1);
    let (w, top) = (half * scale, project(x, l.height_m, z).1);
    // Discs at floor and lid, as flat as the camera's height over them makes them.
    let flat = |y: f32| (w * (CAMERA_HEIGHT_M - y) / z).abs().min(w * 0.6).max(0.8);
    let mut paint = Paint::flat(l.paint).rounded(foot.0, w, 0.35);
    if let Some((b, _, period)) = l.bands {
        paint = paint.banded(b, (0.0, 1.0), period * scale, (0.0, top));
    }
    let (low, high) = (flat(0.0), flat(l.height_m));
    c.ellipse((foot.0, foot.1), w, low, &paint);
    let belly = if l.style == 0 { w * 0.08 } else { 0.0 };
    let mid = (foot.1 + top) * 0.5;
    c.polygon(
        &[
            (foot.0 - w, foot.1),
            (foot.0 + w, foot.1),
            (foot.0 + w + belly, mid),
            (foot.0 + w, top),
            (foot.0 - w, top),
            (foot.0 - w - belly, mid),
        ],
        &paint,
    );
    for k in [0.33, 0.67] {
        let y = foot.1 + (top - foot.1) * k;
        c.rectangle(
            foot.0 - w - belly * 0.8,
            y - 0.015 * scale,
            foot.0 + w + belly * 0.8,
            y + 0.015 * scale,
            &Paint::flat(shade(l.paint, 0.6)).rounded(foot.0, w, 0.3),
        );
    }
    if l.height_m < CAMERA_HEIGHT_M {
        c.ellipse(
            (foot.0, top),
            w,
            high,
            &Paint::flat(shade(l.paint, if l.style.is_multiple_of(2) { 0.5 } else { 1.2 })),
        );
    } else {
        c.cap((foot.0, top), w, high, top + 0.5, &paint);
    }
}

fn chair(c: &mut Canvas, l: &BoxLook, p: &Place) {
    // Half the chairs show their back side.
    let b = Block::new(p.x_m, p.z_m, if l.style.is_multiple_of(2) { l.yaw_rad } else { l.yaw_rad + PI });
    let (w, d, leg) = (l.width_m * 0.5, l.width_m * 0.48, 0.022);
    let seat = l.height_m * 0.5;
    let wood = shade(l.paint, 0.75);
    let mut legs = [(-w, -d), (w, -d), (w, d), (-w, d)].map(|(u, v)| (u - leg * u.signum(), v - leg * v.signum()));
    legs.sort_by(|a, q| b.plan(q.0, q.1).1.total_cmp(&b.plan(a.0, a.1).1));
    let back_first = b.plan(0.0, d).1 > p.z_m;
    let back = |c: &mut Canvas| {
        let rows: &[(f32, f32)] = if l.style < 2 { &[(0.58, 1.0)] } else { &[(0.62, 0.72), (0.76, 0.86), (0.9, 1.0)] };
        for u in [-w + leg, w - leg] {
            b.draw(c, (u - leg, u + leg), (d - 2.0 * leg, d), (seat, l.height_m), wood, None);
        }
        for (y0, y1) in rows {
            b.draw(c, (-w, w), (d - 2.0 * leg, d - leg), (l.height_m * y0, l.height_m * y1), l.paint, None);
        }
    };
    if back_first {
        back(c);
    }
    for (u, v) in legs {
        b.draw(c, (u - leg, u + leg), (v - leg, v + leg), (0.0, seat), wood, None);
    }
    b.draw(c, (-w, w), (-d, d), (seat - 0.03, seat + 0.025), l.paint, None);
    if !back_first {
        back(c);
    }
}

fn rolling_barrel(c: &mut Canvas, l: &BoxLook, p: &Place) {
    let radius = l.height_m * 0.5;
    let half = l.width_m * 0.5;
    let scale = FOCAL_PX / (p.z_m - radius * 0.4).max(0.12);
    let (x, foot) = project(p.x_m, 0.0, p.z_m);
    let (w, h) = (half * scale, radius * scale);
    let middle = foot - h;
    let turn = p.walked_m / radius;
    let base = Paint::flat(l.paint);
    // End discs stand out at the side that is turned to the camera.
    let bulge = (h * 0.5 * (p.x_m / p.z_m.max(0.3)).abs()).clamp(0.5, h * 0.6);
    let near_end = if p.x_m > 0.0 { x - w } else { x + w };
    c.rectangle(x - w, middle - h, x + w, middle + h, &base);
    // Shading and staves: strips of the surface, whose rows move as it rolls.
    for i in 0..14 {
        let (a0, a1) = (i as f32 / 14.0 * PI, (i + 1) as f32 / 14.0 * PI);
        let (y0, y1) = (middle - h * libm::cosf(a0), middle - h * libm::cosf(a1));
        c.rectangle(x - w, y0, x + w, y1, &Paint::flat(shade(l.paint, 0.6 + 0.5 * libm::sinf(a0 * 0.8 + 0.25))));
    }
    let marks = 3 + l.style;
    for i in 0..marks {
        let a = (turn + i as f32 * TAU / marks as f32) % TAU;
        if a < PI {
            let (y0, y1) = (middle - h * libm::cosf(a), middle - h * libm::cosf((a + 0.22).min(PI)));
            let other = l.bands.map_or(shade(l.paint, 0.5), |b| b.0);
            c.rectangle(x - w, y0, x + w, y1, &Paint::flat(other));
        }
    }
    for u in [-0.85f32, -0.35, 0.35, 0.85] {
        c.rectangle(
            x + u * w - w * 0.035,
            middle - h,
            x + u * w + w * 0.035,
            middle + h,
            &Paint::flat(shade(l.paint, 0.55)),
        );
    }
    c.ellipse((near_end, middle), bulge, h, &Paint::flat(shade(l.paint, 0.72)));
    c.ellipse((near_end, middle), bulge * 0.75, h * 0.75, &Paint::flat(shade(l.paint, 0.5)));
}

/// Draws the charger.
pub fn charger(c: &mut Canvas, l: &ChargerLook, p: &Place) {
    let s = FOCAL_PX / p.z_m.max(0.1);
    let (x, foot) = project(p.x_m, 0.0, p.z_m);
    let (h, w) = (l.height_m * s, l.height_m * l.aspect * s);
    let (x0, y0) = (x - w * 0.5, foot - h);
    let at = |u: f32, v: f32| (x0 + w * u, y0 + h * v);
    let flat = |v: Rgb| Paint::flat(v);
    let front = project(p.x_m, 0.0, (p.z_m - 0.18).max(0.2));
    let k = w * 0.5 * p.z_m / (p.z_m - 0.18).max(0.2);
    c.polygon(
        &[(front.0 - k * 1.1, front.1), (front.0 + k * 1.1, front.1), at(1.04, 1.0), at(-0.04, 1.0)],
        &flat(shade(l.body, 0.7)),
    );
    c.polygon(&[at(0.0, 0.0), at(1.0, 0.0), at(1.0, 1.0), at(0.0, 1.0)], &flat(shade(l.body, 0.6)));
    c.polygon(&[at(0.035, 0.03), at(0.965, 0.03), at(0.965, 1.0), at(0.035, 1.0)], &flat(l.body));
    c.polygon(&[at(0.1, 0.07), at(0.9, 0.07), at(0.9, 0.17), at(0.1, 0.17)], &flat(l.lamp));
    c.polygon(&[at(0.24, 0.86), at(0.76, 0.86), at(0.76, 0.94), at(0.24, 0.94)], &flat(shade(l.body, 0.35)));
    c.polygon(&[at(0.58, 0.24), at(0.28, 0.56), at(0.5, 0.52)], &flat(l.bolt));
    c.polygon(&[at(0.5, 0.48), at(0.72, 0.45), at(0.42, 0.8)], &flat(l.bolt));
}

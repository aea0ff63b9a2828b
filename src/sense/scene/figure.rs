//! Draws a person: legs that walk, arms that swing or rise, head and clothes. Looks, place and time flow in; shapes on the canvas,
//! and the extents of the body and of the raised forearms, flow out.

use super::camera::project;
use super::looks::PersonLook;
use super::raster::{Canvas, Extent, Paint, Px};
use super::texture::shade;
use super::track::Place;

/// Where a figure stands and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Pose {
    /// Place on the floor.
    pub place: Place,
    /// How far each arm is up, 0 to 1: left, right in the picture.
    pub up: [f32; 2],
    /// Seconds, for the waving of a raised hand.
    pub t: f64,
    /// Where a standing person looks, radians, 0 towards the robot.
    pub facing_rad: f32,
}

/// Draws a figure; body pixels belong to `owner`, a raised forearm's to `owner + 1` (left) and `owner + 2` (right).
/// Returns the extent of the body and, for each arm that is up, of forearm and hand.
pub fn draw(c: &mut Canvas, look: &PersonLook, pose: &Pose, owner: usize) -> (Extent, [Option<Extent>; 2]) {
    let f = Figure::new(look, pose);
    c.extent = Extent::NONE;
    c.owner(owner);
    f.legs(c);
    if f.away {
        f.hanging_arms(c);
    }
    f.torso(c);
    f.head(c);
    if !f.away {
        f.hanging_arms(c);
    }
    let mut body = c.extent;
    let mut hands = [None, None];
    for side in [0, 1] {
        if pose.up[side] > 0.05 {
            let seen = pose.up[side] > 0.7;
            c.owner(owner);
            let wrist = f.upper_arm(c, side);
            if seen {
                c.owner(owner + 1 + side);
            }
            c.extent = Extent::NONE;
            f.forearm(c, side, wrist);
            body.add(c.extent);
            hands[side] = seen.then_some(c.extent);
        }
    }
    body.add(c.extent);
    (body, hands)
}

struct Figure<'a> {
    look: &'a PersonLook,
    pose: &'a Pose,
    /// Foot point and pixels a metre.
    foot: Px,
    scale: f32,
    /// Sine of the facing (side view), and whether the back is seen.
    side: f32,
    away: bool,
    /// Narrowing by the facing.
    narrow: f32,
    /// Gait phase and its strength.
    gait: f32,
    moving: f32,
    /// Limb radius in metres.
    limb: f32,
}

impl<'a> Figure<'a> {
    fn new(look: &'a PersonLook, pose: &'a Pose) -> Self {
        let p = pose.place;
        let foot = project(p.x_m, 0.0, p.z_m);
        let scale = project(1.0, 0.0, p.z_m).0 - project(0.0, 0.0, p.z_m).0;
        let speed = libm::sqrtf(p.vx * p.vx + p.vz * p.vz);
        let facing = if speed > 0.1 { libm::atan2f(p.vx, -p.vz) } else { pose.facing_rad };
        let (side, toward) = (libm::sinf(facing), libm::cosf(facing));
        Self {
            look,
            pose,
            foot,
            scale,
            side,
            away: toward < -0.2,
            narrow: 1.0 - 0.42 * side.abs(),
            gait: look.phase + p.walked_m * 4.4 / look.height_m,
            moving: (speed * 1.4).min(1.0),
            limb: 0.036 * look.height_m * look.width,
        }
    }

    /// A point of the body: metres right of the middle, metres up.
    fn at(&self, x: f32, y: f32) -> Px {
        (self.foot.0 + x * self.scale, self.foot.1 - y * self.scale)
    }

    fn h(&self, k: f32) -> f32 {
        k * self.look.height_m
    }

    fn top_paint(&self, dark: f32) -> Paint {
        let mut p = Paint::flat(shade(self.look.top, dark)).rounded(self.foot.0, self.h(0.15) * self.scale, 0.16);
        if let Some((b, across, period)) = self.look.bands {
            let d = if across { (1.0, 0.0) } else { (0.0, 1.0) };
            p = p.banded(shade(b, dark), d, period * self.scale, self.at(0.0, self.h(0.8)));
        }
        p
    }

    fn legs(&self, c: &mut Canvas) {
        let (l, w, s) = (self.look, self.limb, self.scale);
        let hip = self.h(0.052) * l.width * self.narrow;
        // In a side view the far leg is drawn first and darker.
        let order = if self.side > 0.0 { [1.0f32, -1.0] } else { [-1.0, 1.0] };
        for (i, leg) in order.into_iter().enumerate() {
            let swing = libm::sinf(self.gait) * leg * self.moving;
            let lift = (libm::cosf(self.gait) * leg).max(0.0) * self.moving * self.h(0.05);
            let x = leg * (self.h(l.stance) * self.narrow + hip * 0.4) * (1.0 - 0.6 * self.side.abs())
                + swing * self.side * self.h(0.16);
            let y = lift + (1.0 - self.side.abs()) * swing.max(0.0) * self.h(0.02) + w * 0.55;
            let start = (leg * hip * (1.0 - 0.5 * self.side.abs()), self.h(0.485));
            let knee = ((start.0 + x) * 0.5 + self.side * (0.2 + lift * 4.0) * w, (start.1 + y) * 0.5 + lift * 0.3);
            let dark = if i == 0 { 0.86 } else { 1.0 };
            let cloth = Paint::flat(shade(if l.skirt { l.skin } else { l.legs }, dark));
            c.limb(self.at(start.0, start.1), self.at(knee.0, knee.1), w * 1.3 * s, w * s, &cloth);
            c.limb(self.at(knee.0, knee.1), self.at(x, y), w * s, w * 0.75 * s, &cloth);
            let shoe = Paint::flat(shade(l.shoes, dark));
            let toe = (x + self.side * w * 1.6 + leg * w * 0.4 * (1.0 - self.side.abs()), y - w * 0.1);
            c.limb(self.at(x, y), self.at(toe.0, toe.1), w * 0.6 * s, w * 0.5 * s, &shoe);
        }
        if l.skirt {
            let (hip, hem) = (self.h(0.085) * l.width * self.narrow, self.h(0.12) * l.width * self.narrow);
            c.polygon(
                &[
                    self.at(-hip, self.h(0.52)),
                    self.at(hip, self.h(0.52)),
                    self.at(hem, self.h(0.27)),
                    self.at(-hem, self.h(0.27)),
                ],
                &Paint::flat(l.legs),
            );
        }
    }

    fn shoulder(&self, side: usize) -> (f32, f32) {
        let out = if side == 0 { -1.0 } else { 1.0 };
        (out * self.h(0.112) * self.look.width * self.narrow, self.h(0.8))
    }

    fn torso(&self, c: &mut Canvas) {
        let (l, w, s) = (self.look, self.limb, self.scale);
        let (sh, hip) = (self.shoulder(1).0, self.h(0.082) * l.width * self.narrow);
        let waist = hip * 0.95;
        let paint = self.top_paint(1.0);
        c.limb(self.at(-sh, self.h(0.8)), self.at(sh, self.h(0.8)), w * 0.8 * s, w * 0.8 * s, &paint);
        c.polygon(
            &[
                self.at(-sh - w * 0.5, self.h(0.8)),
                self.at(sh + w * 0.5, self.h(0.8)),
                self.at(waist, self.h(0.6)),
                self.at(-waist, self.h(0.6)),
            ],
            &paint,
        );
        c.polygon(
            &[
                self.at(-waist, self.h(0.605)),
                self.at(waist, self.h(0.605)),
                self.at(hip, self.h(0.475)),
                self.at(-hip, self.h(0.475)),
            ],
            &paint,
        );
        if !l.skirt {
            let belt = Paint::flat(shade(l.legs, 0.8));
            c.polygon(
                &[
                    self.at(-hip, self.h(0.49)),
                    self.at(hip, self.h(0.49)),
                    self.at(hip, self.h(0.462)),
                    self.at(-hip, self.h(0.462)),
                ],
                &belt,
            );
        }
    }

    fn head(&self, c: &mut Canvas) {
        let (l, s) = (self.look, self.scale);
        let ry = self.h(l.head);
        let rx = ry * 0.79;
        let (x, y) = (self.side * self.h(0.012), l.height_m - ry);
        let (skin, hair) = (Paint::flat(l.skin), Paint::flat(l.hair));
        if l.hair_style == 1 {
            c.ellipse(self.at(x - self.side * rx * 0.3, y - ry * 0.45), rx * 1.3 * s, ry * 1.35 * s, &hair);
        }
        c.limb(
            self.at(x * 0.5, self.h(0.81)),
            self.at(x, y),
            rx * 0.5 * s,
            rx * 0.5 * s,
            &Paint::flat(shade(l.skin, 0.84)),
        );
        let middle = self.at(x, y);
        c.ellipse(middle, rx * s, ry * s, &skin);
        let back = self.away;
        match l.hair_style {
            2 => {}
            3 => {
                let brim = self.at(x + self.side * rx * 0.4, y + ry * 0.42);
                c.cap((middle.0, middle.1 - ry * 0.1 * s), rx * 1.1 * s, ry * 1.05 * s, brim.1, &hair);
                c.limb(
                    (brim.0 - rx * 1.2 * s, brim.1),
                    (brim.0 + rx * 1.2 * s, brim.1),
                    ry * 0.1 * s,
                    ry * 0.1 * s,
                    &hair,
                );
            }
            _ if back => c.ellipse((middle.0, middle.1 - ry * 0.08 * s), rx * 1.06 * s, ry * 0.98 * s, &hair),
            style => {
                let line = middle.1 - ry * (0.3 - 0.25 * self.side.abs()) * s;
                c.cap(
                    (middle.0 - self.side * rx * 0.2 * s, middle.1 - ry * 0.04 * s),
                    rx * 1.07 * s,
                    ry * 1.03 * s,
                    line,
                    &hair,
                );
                if style == 4 {
                    c.ellipse(self.at(x - self.side * rx * 0.8, y + ry * 1.02), rx * 0.42 * s, rx * 0.4 * s, &hair);
                }
            }
        }
        if !back && rx * s > 3.0 {
            let dark = Paint::flat([25.0, 20.0, 20.0]);
            for e in [-1.0f32, 1.0] {
                let ex = x + (e * 0.38 * (1.0 - 0.4 * self.side.abs()) + self.side * 0.5) * rx;
                if (ex - x).abs() < rx * 0.8 {
                    c.ellipse(self.at(ex, y + ry * 0.02), rx * 0.11 * s, ry * 0.07 * s, &dark);
                }
            }
            let mouth = x + self.side * 0.4 * rx;
            c.limb(
                self.at(mouth - rx * 0.22, y - ry * 0.48),
                self.at(mouth + rx * 0.22, y - ry * 0.48),
                ry * 0.04 * s,
                ry * 0.04 * s,
                &Paint::flat(shade(l.skin, 0.55)),
            );
        }
    }

    /// Upper-arm and forearm angles of a side at this moment.
    fn angles(&self, side: usize) -> (f32, f32) {
        let (up, l) = (self.pose.up[side], self.look);
        let (rest, raised) = (l.rest[side], l.raised[side]);
        let wave = libm::sin(self.pose.t * 7.5) as f32 * 0.13 * up;
        (rest.0 + (raised.0 - rest.0) * up, rest.1 + (raised.1 - rest.1) * up + wave)
    }

    fn elbow(&self, side: usize) -> (f32, f32) {
        let out = if side == 0 { -1.0 } else { 1.0 };
        let ((x, y), a) = (self.shoulder(side), self.angles(side).0);
        let swing = libm::sinf(self.gait) * out * self.moving * (1.0 - self.pose.up[side]);
        (
            x + out * libm::cosf(a) * self.h(0.16) * self.narrow - swing * self.side * self.h(0.06),
            y + libm::sinf(a) * self.h(0.165),
        )
    }

    fn wrist(&self, side: usize) -> (f32, f32) {
        let out = if side == 0 { -1.0 } else { 1.0 };
        let ((x, y), a) = (self.elbow(side), self.angles(side).1);
        let swing = libm::sinf(self.gait) * out * self.moving * (1.0 - self.pose.up[side]);
        (
            x + out * libm::cosf(a) * self.h(0.155) + self.side * (self.h(0.03) - swing * self.h(0.08)),
            y + libm::sinf(a) * self.h(0.16),
        )
    }

    /// The arms that hang; raised ones are drawn last.
    fn hanging_arms(&self, c: &mut Canvas) {
        for side in [0, 1] {
            if self.pose.up[side] <= 0.05 {
                let elbow = self.upper_arm(c, side);
                self.forearm(c, side, elbow);
            }
        }
    }

    fn upper_arm(&self, c: &mut Canvas, side: usize) -> (f32, f32) {
        let (a, e, w, s) = (self.shoulder(side), self.elbow(side), self.limb, self.scale);
        c.limb(
            self.at(a.0, a.1),
            self.at(e.0, e.1),
            w * 0.85 * s,
            w * 0.72 * s,
            &Paint::flat(shade(self.look.top, 0.92)),
        );
        e
    }

    fn forearm(&self, c: &mut Canvas, side: usize, e: (f32, f32)) {
        let (k, w, s, l) = (self.wrist(side), self.limb, self.scale, self.look);
        let cloth = Paint::flat(shade(if l.long_sleeves { l.top } else { l.skin }, 0.94));
        c.limb(self.at(e.0, e.1), self.at(k.0, k.1), w * 0.7 * s, w * 0.55 * s, &cloth);
        let (dx, dy) = (k.0 - e.0, k.1 - e.1);
        let n = libm::sqrtf(dx * dx + dy * dy).max(1e-4);
        let (ux, uy) = (dx / n, dy / n);
        let q = self.h(0.034);
        let palm = (k.0 + ux * q * 0.8, k.1 + uy * q * 0.8);
        let skin = Paint::flat(l.skin);
        c.ellipse(self.at(palm.0, palm.1), q * 0.85 * s, q * 1.05 * s, &skin);
        if self.pose.up[side] > 0.3 {
            for (spread, length) in [(-0.75f32, 1.6f32), (-0.28, 2.1), (0.2, 2.15), (0.62, 1.85)] {
                let tip = (palm.0 + (ux * length + uy * spread) * q, palm.1 + (uy * length - ux * spread) * q);
                let root = (palm.0 + uy * spread * q * 0.7, palm.1 - ux * spread * q * 0.7);
                c.limb(self.at(root.0, root.1), self.at(tip.0, tip.1), q * 0.22 * s, q * 0.19 * s, &skin);
            }
        }
    }
}

//! Draws a world at a time: room, things from far to near, light, blur and sensor noise. A `World` and seconds flow in;
//! a 640x480 RGB picture and the truth about it (class, box, distance, bearing) flow out. No state is kept between frames.

use super::camera::{CAMERA_HEIGHT_M, CENTRE_X, FOCAL_PX, HEIGHT, HORIZON_Y, WIDTH, project};
use super::figure::{self, Pose};
use super::looks::{Decoration, Light, Room};
use super::props;
use super::random::mix;
use super::raster::{Canvas, Extent, Paint};
use super::texture::shade;
use super::truth::{Class, Seen, Truth};
use super::world::World;

/// Bytes of one picture: rows of red, green, blue.
pub const FRAME_BYTES: usize = WIDTH * HEIGHT * 3;

/// Draws the world at `t` seconds into a picture of [`FRAME_BYTES`] bytes; a slice of another length is left as it is.
pub fn render(world: &World, t: f64, out: &mut [u8]) {
    let _ = render_with_truth(world, t, out);
}

/// Draws the world and tells what can be seen, nearest last.
pub fn render_with_truth(world: &World, t: f64, out: &mut [u8]) -> Vec<Truth> {
    if out.len() != FRAME_BYTES {
        return Vec::new();
    }
    let mut canvas = Canvas::new(out);
    room(&mut canvas, &world.room);
    let seen = things(&mut canvas, world, t);
    canvas.owner(0);
    for d in &world.room.decorations {
        if let Decoration::Near(x, y, w, h, round, colour) = *d {
            let paint = Paint::flat(colour);
            if round {
                canvas.ellipse((x, y), w, h, &paint)
            } else {
                canvas.rectangle(x - w, y - h, x + w, y + h, &paint)
            }
        }
    }
    let truth = seen.iter().filter_map(|s| s.judge(&canvas)).collect();
    for _ in 0..world.light.blur {
        blur(canvas.rgb());
    }
    light(canvas.rgb(), &world.light, mix(world.seed ^ t.to_bits()));
    truth
}

/// Wall, ceiling, floor and what belongs to them.
fn room(c: &mut Canvas, r: &Room) {
    let per_metre = FOCAL_PX / r.wall_m;
    let wall_level = r.wall.level(1.0 / per_metre);
    let foot = HORIZON_Y + CAMERA_HEIGHT_M * per_metre;
    let ceiling_row = HORIZON_Y - (r.ceiling_m - CAMERA_HEIGHT_M) * per_metre;
    let corner_column = CENTRE_X + (r.corner_m * per_metre).min(1e4);
    let rgb = c.rgb();
    for (y, row) in rgb.chunks_exact_mut(WIDTH * 3).enumerate() {
        let fy = y as f32 + 0.5;
        if fy < ceiling_row {
            let k = 0.8 + 0.2 * (ceiling_row - fy) / ceiling_row.max(1.0);
            let p = shade(r.ceiling, k).map(|v| v as u8);
            row.chunks_exact_mut(3).for_each(|o| o.copy_from_slice(&p));
        } else if fy < foot {
            let v = (foot - fy) / per_metre;
            let skirting = r.skirting.filter(|s| v < s.0).map(|s| s.1.map(|v| v as u8));
            for (x, o) in row.chunks_exact_mut(3).enumerate() {
                let fx = x as f32 + 0.5;
                let p = skirting.unwrap_or_else(|| r.wall.at((fx - CENTRE_X) / per_metre, v, wall_level));
                if fx > corner_column {
                    o.copy_from_slice(&p.map(|v| (f32::from(v) * r.corner_light) as u8));
                } else {
                    o.copy_from_slice(&p);
                }
            }
        } else {
            let z = FOCAL_PX * CAMERA_HEIGHT_M / (fy - HORIZON_Y);
            let (across, along) = (z / FOCAL_PX, z * z / (FOCAL_PX * CAMERA_HEIGHT_M));
            let level = r.floor.level(libm::sqrtf(across * along));
            for (x, o) in row.chunks_exact_mut(3).enumerate() {
                o.copy_from_slice(&r.floor.at((x as f32 + 0.5 - CENTRE_X) * across, z, level));
            }
        }
    }
    for d in &r.decorations {
        decoration(c, r, d);
    }
}

fn decoration(c: &mut Canvas, r: &Room, d: &Decoration) {
    let wall = |x: f32, y: f32| project(x, y, r.wall_m);
    match *d {
        Decoration::Picture(x, y, w, h, round, frame, inside) => {
            let (a, b) = (wall(x - w, y + h), wall(x + w, y - h));
            if round {
                let m = wall(x, y);
                c.ellipse(m, (b.0 - a.0) * 0.5, (b.1 - a.1) * 0.5, &Paint::flat(frame));
                c.ellipse(m, (b.0 - a.0) * 0.4, (b.1 - a.1) * 0.4, &Paint::flat(inside));
            } else {
                c.rectangle(a.0, a.1, b.0, b.1, &Paint::flat(frame));
                let e = (b.0 - a.0).min(b.1 - a.1) * 0.12;
                c.rectangle(a.0 + e, a.1 + e, b.0 - e, b.1 - e, &Paint::flat(inside));
            }
        }
        Decoration::Door(x, w, h, colour) => {
            let (a, b) = (wall(x - w, h), wall(x + w, 0.0));
            c.rectangle(a.0 - 3.0, a.1 - 3.0, b.0 + 3.0, b.1, &Paint::flat(shade(colour, 0.6)));
            c.rectangle(a.0, a.1, b.0, b.1, &Paint::flat(colour));
            c.ellipse(wall(x + w * 0.8, 1.0), 2.0, 2.0, &Paint::flat(shade(colour, 0.4)));
        }
        Decoration::Window(x, y, w, h, colour) => {
            let (a, b) = (wall(x - w, y + h), wall(x + w, y - h));
            c.rectangle(a.0 - 4.0, a.1 - 4.0, b.0 + 4.0, b.1 + 4.0, &Paint::flat([215.0, 212.0, 205.0]));
            c.rectangle(a.0, a.1, b.0, b.1, &Paint::flat(colour));
            let m = wall(x, y);
            c.rectangle(m.0 - 1.5, a.1, m.0 + 1.5, b.1, &Paint::flat([215.0, 212.0, 205.0]));
        }
        Decoration::Rug(x, z, w, depth, colour) => {
            let corner = |dx: f32, dz: f32| project(x + dx, 0.0, (z + dz).max(0.4));
            c.polygon(
                &[corner(-w, -depth), corner(w, -depth), corner(w, depth), corner(-w, depth)],
                &Paint::flat(colour),
            );
            let (w, depth) = (w * 0.8, depth * 0.75);
            c.polygon(
                &[corner(-w, -depth), corner(w, -depth), corner(w, depth), corner(-w, depth)],
                &Paint::flat(shade(colour, 0.8)),
            );
        }
        Decoration::Pole(x, radius, colour) => {
            let z = r.wall_m - radius;
            let (a, b) = (project(x - radius, r.ceiling_m, z), project(x + radius, 0.0, z));
            c.rectangle(
                a.0,
                a.1.min(-1.0),
                b.0,
                b.1,
                &Paint::flat(colour).rounded((a.0 + b.0) * 0.5, (b.0 - a.0) * 0.5, 0.4),
            );
        }
        Decoration::Near(..) => {}
    }
}

/// Which thing of the world, by list and index.
#[derive(Clone, Copy)]
enum Thing {
    Person(usize),
    Obstacle(usize),
    Charger(usize),
}

/// Draws people, obstacles and chargers from far to near.
fn things(c: &mut Canvas, world: &World, t: f64) -> Vec<Seen> {
    let there = |p: (f64, f64)| t >= p.0 && t <= p.1;
    let mut order = Vec::new();
    for (i, (p, _)) in world.people.iter().enumerate() {
        if there(p.present) {
            order.push((p.track.at(t), Thing::Person(i)));
        }
    }
    for (i, (o, _)) in world.obstacles.iter().enumerate() {
        if there(o.present) {
            order.push((o.track.at(t), Thing::Obstacle(i)));
        }
    }
    for (i, (track, _)) in world.chargers.iter().enumerate() {
        order.push((track.at(t), Thing::Charger(i)));
    }
    order.retain(|(p, _)| p.z_m > 0.3);
    order.sort_by(|a, b| b.0.z_m.total_cmp(&a.0.z_m));
    let mut seen = Vec::new();
    let mut owner = 1;
    for (place, thing) in order {
        let distance = |reach: f32| (libm::hypotf(place.x_m, place.z_m) - reach).max(0.05);
        let bearing_rad = libm::atan2f(place.x_m, place.z_m);
        let foot = project(place.x_m, 0.0, place.z_m);
        let half = match thing {
            Thing::Person(_) => 0.3,
            Thing::Obstacle(i) => world.obstacles[i].1.width_m * 0.6,
            Thing::Charger(i) => world.chargers[i].1.height_m * 0.55,
        };
        let w = half * FOCAL_PX / place.z_m;
        c.shadow(foot, w, (w * CAMERA_HEIGHT_M / place.z_m).clamp(1.5, w), 0.45);
        let mut note = |class, extent: Extent, owner, distance_m, raising| {
            seen.push(Seen { class, extent, owner, distance_m, bearing_rad, raising })
        };
        match thing {
            Thing::Person(i) => {
                let (p, look) = &world.people[i];
                let pose = Pose { place, up: p.arms_up(t), t, facing_rad: p.facing_rad.unwrap_or(look.facing_rad) };
                let (body, hands) = figure::draw(c, look, &pose, owner);
                let d = distance(0.15);
                note(Class::Person, body, owner, d, hands.iter().any(Option::is_some));
                for (k, h) in hands.iter().enumerate() {
                    if let Some(e) = h {
                        note(Class::Hand, *e, owner + 1 + k, d, false);
                    }
                }
                owner += 3;
            }
            Thing::Obstacle(i) => {
                let (o, look) = &world.obstacles[i];
                c.owner(owner);
                c.extent = Extent::NONE;
                props::obstacle(c, o.kind, look, &place);
                note(Class::Obstacle, c.extent, owner, distance(props::reach_m(o.kind, look)), false);
                owner += 1;
            }
            Thing::Charger(i) => {
                c.owner(owner);
                c.extent = Extent::NONE;
                props::charger(c, &world.chargers[i].1, &place);
                note(Class::Charger, c.extent, owner, distance(0.1), false);
                owner += 1;
            }
        }
    }
    seen
}

/// One pass of a 3x3 binomial blur, in place; the outermost pixels keep their value.
fn blur(rgb: &mut [u8]) {
    let row = WIDTH * 3;
    let mix3 = |a: u8, b: u8, c: u8| ((u16::from(a) + 2 * u16::from(b) + u16::from(c) + 2) / 4) as u8;
    let mut above = rgb[..row].to_vec();
    let mut current = vec![0u8; row];
    for y in 1..HEIGHT - 1 {
        let (before, rest) = rgb.split_at_mut((y + 1) * row);
        let here = &mut before[y * row..];
        current.copy_from_slice(here);
        for (((o, a), b), c) in here.iter_mut().zip(&above).zip(&current).zip(&rest[..row]) {
            *o = mix3(*a, *b, *c);
        }
        std::mem::swap(&mut above, &mut current);
    }
    for line in rgb.chunks_exact_mut(row) {
        current.copy_from_slice(line);
        for x in 3..row - 3 {
            line[x] = mix3(current[x - 3], current[x], current[x + 3]);
        }
    }
}

/// Gain, gradient, offset and sensor noise.
fn light(rgb: &mut [u8], l: &Light, seed: u64) {
    // Sums of four random bytes have a standard deviation of 147.8; near enough to a normal distribution.
    let k = l.noise / 147.8;
    let mut s = seed | 1;
    for (y, row) in rgb.chunks_exact_mut(WIDTH * 3).enumerate() {
        let down = 1.0 + l.gradient.1 * (y as f32 / HEIGHT as f32 - 0.5);
        for (x, p) in row.chunks_exact_mut(3).enumerate() {
            let g = down + l.gradient.0 * (x as f32 / WIDTH as f32 - 0.5);
            // xorshift64 (Marsaglia 2003), then a multiplication to spread the bits.
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            let b = s.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes().map(i32::from);
            let n = [b[0] + b[1] - b[2] - b[3], b[4] + b[5] - b[6] - b[7], b[0] + b[4] - b[3] - b[7]];
            for ((v, gain), n) in p.iter_mut().zip(l.gain).zip(n) {
                *v = (f32::from(*v) * gain * g + l.offset + n as f32 * k + 0.5) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::camera::floor_z_m;
    use super::super::{Obstacle, Person, Split, Track};
    use super::*;

    fn seen(world: &World, t: f64) -> (Vec<u8>, Vec<Truth>) {
        let mut frame = vec![0; FRAME_BYTES];
        let truth = render_with_truth(world, t, &mut frame);
        (frame, truth)
    }

    #[test]
    fn a_world_and_a_time_give_the_same_picture_again() {
        let w = World::random(12, Split::Train);
        assert!(seen(&w, 0.0).0 == seen(&World::random(12, Split::Train), 0.0).0);
        assert!(seen(&w, 0.0).0 != seen(&w, 0.1).0, "sensor noise differs from frame to frame");
        assert!(seen(&w, 0.0).0 != seen(&World::random(12, Split::HeldOut), 0.0).0);
    }

    #[test]
    fn boxes_are_where_distance_and_height_say() {
        let track = Track::still(0.5, 3.0);
        let w = World::builder(1).person(Person::on(track).height_m(1.8)).build();
        let truth = seen(&w, 0.0).1;
        assert_eq!(truth.len(), 1);
        let (t, e) = (truth[0], truth[0].extent);
        assert!((e.y1 - e.y0 - 1.8 * FOCAL_PX / 3.0).abs() < 12.0, "{e:?}");
        assert!((floor_z_m(e.y1).expect("on the floor") - 3.0).abs() < 0.3, "{e:?}");
        assert!((t.distance_m - (libm::hypotf(0.5, 3.0) - 0.15)).abs() < 1e-4);
        assert!((t.bearing_rad - libm::atan2f(0.5, 3.0)).abs() < 1e-6);
    }

    #[test]
    fn a_script_brings_people_in_raises_arms_and_takes_things_away() {
        let w = World::builder(4)
            .person(Person::on(Track::from(1.0, -6.0, 3.0).to(3.0, 0.0, 2.5)).raises(4.0, 6.0))
            .obstacle(Obstacle::rolling_barrel(Track::from(7.0, 0.2, 5.0).to(9.0, 0.2, 1.0)).present(7.0, 9.5))
            .build();
        let kinds = |t: f64| seen(&w, t).1.iter().map(|t| (t.class, t.raising)).collect::<Vec<_>>();
        assert_eq!(kinds(0.0), []);
        assert_eq!(kinds(3.5), [(Class::Person, false)]);
        assert_eq!(kinds(5.0), [(Class::Person, true), (Class::Hand, false)]);
        assert!(kinds(7.5).contains(&(Class::Obstacle, false)) && !kinds(9.8).contains(&(Class::Obstacle, false)));
        let near = |t: f64| seen(&w, t).1.iter().find(|t| t.class == Class::Obstacle).map(|t| t.extent.area());
        assert!(near(8.5) > near(7.5).map(|a| a * 4.0), "it looms");
    }

    #[test]
    fn a_frame_of_the_wrong_size_is_left_alone() {
        let mut small = vec![7; 100];
        assert!(render_with_truth(&World::random(1, Split::Train), 0.0, &mut small).is_empty());
        assert!(small.iter().all(|v| *v == 7));
    }
}

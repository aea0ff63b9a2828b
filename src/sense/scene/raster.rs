//! A small software rasteriser: discs, capsules and convex polygons with soft edges, drawn far to near into an RGB picture.
//! Shapes in pixels flow in; coloured pixels, the extent of what was drawn, and how much of each thing stayed visible flow out.

use super::camera::{HEIGHT, WIDTH};
use super::texture::Rgb;

/// A point in pixels.
pub type Px = (f32, f32);

/// Most things a picture can hold; the owner map stores one byte a pixel.
pub const MAX_OWNERS: usize = 128;

/// A rectangle in pixels: left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Left edge.
    pub x0: f32,
    /// Upper edge.
    pub y0: f32,
    /// Right edge.
    pub x1: f32,
    /// Lower edge.
    pub y1: f32,
}

impl Extent {
    /// The extent of nothing.
    pub const NONE: Self = Self { x0: f32::MAX, y0: f32::MAX, x1: f32::MIN, y1: f32::MIN };

    /// Grows to take in another.
    pub fn add(&mut self, o: Self) {
        *self = Self { x0: self.x0.min(o.x0), y0: self.y0.min(o.y0), x1: self.x1.max(o.x1), y1: self.y1.max(o.y1) };
    }

    /// The part inside the picture.
    #[must_use]
    pub fn in_picture(self) -> Self {
        let (w, h) = (WIDTH as f32, HEIGHT as f32);
        Self {
            x0: self.x0.clamp(0.0, w),
            y0: self.y0.clamp(0.0, h),
            x1: self.x1.clamp(0.0, w),
            y1: self.y1.clamp(0.0, h),
        }
    }

    /// Area in square pixels; 0 where empty.
    #[must_use]
    pub fn area(self) -> f32 {
        (self.x1 - self.x0).max(0.0) * (self.y1 - self.y0).max(0.0)
    }
}

/// How a shape is coloured.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// Main colour.
    pub a: Rgb,
    /// Second colour of the bands.
    pub b: Rgb,
    /// Bands across (unit vector over the period in pixels, start in periods), or none where zero.
    pub bands: (f32, f32, f32),
    /// Roundness: middle column, half width in pixels (0: flat), darkening at the edge.
    pub round: (f32, f32, f32),
}

impl Paint {
    /// One colour.
    #[must_use]
    pub fn flat(a: Rgb) -> Self {
        Self { a, b: a, bands: (0.0, 0.0, 0.0), round: (0.0, 0.0, 0.0) }
    }

    /// With bands of a second colour: direction (unit vector), period and origin in pixels.
    #[must_use]
    pub fn banded(mut self, b: Rgb, direction: Px, period: f32, origin: Px) -> Self {
        let k = 1.0 / period.max(1.0);
        self.b = b;
        self.bands =
            (direction.0 * k, direction.1 * k, -(origin.0 * direction.0 + origin.1 * direction.1) * k + 1024.0);
        self
    }

    /// Shaded as a cylinder about a column.
    #[must_use]
    pub fn rounded(mut self, middle: f32, half: f32, dark: f32) -> Self {
        self.round = (middle, half, dark);
        self
    }

    #[inline]
    fn at(&self, x: f32, y: f32) -> Rgb {
        let mut c = self.a;
        if self.bands.2 != 0.0 {
            let p = x * self.bands.0 + y * self.bands.1 + self.bands.2;
            if p - (p as i32) as f32 > 0.5 {
                c = self.b;
            }
        }
        if self.round.1 > 0.0 {
            let d = (x - self.round.0) / self.round.1 + 0.25;
            let k = 1.0 - self.round.2 * d * d;
            c = c.map(|v| v * k);
        }
        c
    }
}

/// A picture being drawn.
pub struct Canvas<'a> {
    rgb: &'a mut [u8],
    owner: Vec<u8>,
    drawn: [u32; MAX_OWNERS],
    lost: [u32; MAX_OWNERS],
    current: u8,
    /// Extent of all shapes since it was last reset, inside the picture or not.
    pub extent: Extent,
}

impl<'a> Canvas<'a> {
    /// A canvas over a picture of [`WIDTH`] x [`HEIGHT`] x 3 bytes; owner 0 is the room.
    pub fn new(rgb: &'a mut [u8]) -> Self {
        Self {
            rgb,
            owner: vec![0; WIDTH * HEIGHT],
            drawn: [0; MAX_OWNERS],
            lost: [0; MAX_OWNERS],
            current: 0,
            extent: Extent::NONE,
        }
    }

    /// The picture's bytes.
    pub fn rgb(&mut self) -> &mut [u8] {
        self.rgb
    }

    /// Says which thing the next shapes belong to.
    pub fn owner(&mut self, id: usize) {
        self.current = id.min(MAX_OWNERS - 1) as u8;
    }

    /// Share of a thing's drawn pixels that nothing nearer covered; 0 where none was drawn.
    #[must_use]
    pub fn visible(&self, id: usize) -> f32 {
        let n = self.drawn[id.min(MAX_OWNERS - 1)];
        if n == 0 { 0.0 } else { 1.0 - self.lost[id.min(MAX_OWNERS - 1)] as f32 / n as f32 }
    }

    #[inline]
    fn put(&mut self, x: usize, y: usize, c: Rgb, cover: f32) {
        let i = y * WIDTH + x;
        let p = &mut self.rgb[i * 3..i * 3 + 3];
        if cover >= 1.0 {
            for (o, v) in p.iter_mut().zip(c) {
                *o = v as u8;
            }
        } else {
            for (o, v) in p.iter_mut().zip(c) {
                *o = (f32::from(*o) + (v - f32::from(*o)) * cover) as u8;
            }
        }
        if cover > 0.5 && self.owner[i] != self.current {
            self.lost[self.owner[i] as usize] += 1;
            self.drawn[self.current as usize] += 1;
            self.owner[i] = self.current;
        }
    }

    /// Calls `cover(x, y)` at pixel centres of an extent and blends the paint by what it returns.
    fn fill(&mut self, e: Extent, paint: &Paint, cover: impl Fn(f32, f32) -> f32) {
        self.extent.add(e);
        let x0 = (e.x0 - 1.0).clamp(0.0, WIDTH as f32) as usize;
        let x1 = (e.x1 + 2.0).clamp(0.0, WIDTH as f32) as usize;
        let y0 = (e.y0 - 1.0).clamp(0.0, HEIGHT as f32) as usize;
        let y1 = (e.y1 + 2.0).clamp(0.0, HEIGHT as f32) as usize;
        for y in y0..y1 {
            let fy = y as f32 + 0.5;
            for x in x0..x1 {
                let fx = x as f32 + 0.5;
                let k = cover(fx, fy);
                if k > 0.0 {
                    self.put(x, y, paint.at(fx, fy), k);
                }
            }
        }
    }

    /// An ellipse about a centre with two radii.
    pub fn ellipse(&mut self, c: Px, rx: f32, ry: f32, paint: &Paint) {
        let (rx, ry) = (rx.max(0.4), ry.max(0.4));
        let (ix, iy) = (1.0 / rx, 1.0 / ry);
        self.fill(Extent { x0: c.0 - rx, y0: c.1 - ry, x1: c.0 + rx, y1: c.1 + ry }, paint, |x, y| {
            soft_ellipse((x - c.0) * ix, (y - c.1) * iy, ix, iy)
        });
    }

    /// The upper part of an ellipse, above row `below`.
    pub fn cap(&mut self, c: Px, rx: f32, ry: f32, below: f32, paint: &Paint) {
        let (ix, iy) = (1.0 / rx.max(0.4), 1.0 / ry.max(0.4));
        self.fill(Extent { x0: c.0 - rx, y0: c.1 - ry, x1: c.0 + rx, y1: below }, paint, |x, y| {
            soft_ellipse((x - c.0) * ix, (y - c.1) * iy, ix, iy).min((below - y + 0.5).clamp(0.0, 1.0))
        });
    }

    /// A thick line with round ends, its radius going from `ra` to `rb`.
    pub fn limb(&mut self, a: Px, b: Px, ra: f32, rb: f32, paint: &Paint) {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let inverse = 1.0 / (dx * dx + dy * dy).max(1e-6);
        let r = ra.max(rb);
        let e = Extent { x0: a.0.min(b.0) - r, y0: a.1.min(b.1) - r, x1: a.0.max(b.0) + r, y1: a.1.max(b.1) + r };
        self.fill(e, paint, |x, y| {
            let (px, py) = (x - a.0, y - a.1);
            let t = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
            let (qx, qy) = (px - t * dx, py - t * dy);
            let (d2, w) = (qx * qx + qy * qy, ra + (rb - ra) * t);
            if d2 > (w + 0.5) * (w + 0.5) { 0.0 } else { (w + 0.5 - d2.sqrt()).clamp(0.0, 1.0) }
        });
    }

    /// A convex polygon of up to eight corners, in either turning sense.
    pub fn polygon(&mut self, points: &[Px], paint: &Paint) {
        let n = points.len().min(8);
        let mut e = Extent::NONE;
        let mut twice_area = 0.0;
        for i in 0..n {
            let (p, q) = (points[i], points[(i + 1) % n]);
            e.add(Extent { x0: p.0, y0: p.1, x1: p.0, y1: p.1 });
            twice_area += p.0 * q.1 - q.0 * p.1;
        }
        let sign = if twice_area < 0.0 { -1.0 } else { 1.0 };
        let mut edges = [(0.0f32, 0.0f32, 1.0f32); 8];
        for i in 0..n {
            let (p, q) = (points[i], points[(i + 1) % n]);
            let (dx, dy) = (q.0 - p.0, q.1 - p.1);
            let l = (dx * dx + dy * dy).sqrt();
            if l > 1e-4 {
                let (nx, ny) = (-dy / l * sign, dx / l * sign);
                edges[i] = (nx, ny, 0.5 - nx * p.0 - ny * p.1);
            }
        }
        self.fill(e, paint, |x, y| edges[..n].iter().fold(1.0f32, |k, w| k.min(w.0 * x + w.1 * y + w.2)).max(0.0));
    }

    /// An upright rectangle.
    pub fn rectangle(&mut self, x0: f32, y0: f32, x1: f32, y1: f32, paint: &Paint) {
        self.polygon(&[(x0, y0), (x1, y0), (x1, y1), (x0, y1)], paint);
    }

    /// Darkens the floor under a thing; belongs to nothing and has no extent.
    pub fn shadow(&mut self, c: Px, rx: f32, ry: f32, dark: f32) {
        let x0 = (c.0 - rx).clamp(0.0, WIDTH as f32) as usize;
        let x1 = (c.0 + rx).clamp(0.0, WIDTH as f32) as usize;
        let y0 = (c.1 - ry).clamp(0.0, HEIGHT as f32) as usize;
        let y1 = (c.1 + ry).clamp(0.0, HEIGHT as f32) as usize;
        for y in y0..y1 {
            for x in x0..x1 {
                let (dx, dy) = ((x as f32 + 0.5 - c.0) / rx, (y as f32 + 0.5 - c.1) / ry);
                let k = 1.0 - dark * (1.5 - 1.5 * (dx * dx + dy * dy)).clamp(0.0, 1.0);
                let i = (y * WIDTH + x) * 3;
                for p in &mut self.rgb[i..i + 3] {
                    *p = (f32::from(*p) * k) as u8;
                }
            }
        }
    }
}

/// Cover of a pixel by an ellipse; `u`, `v` are offsets over the radii, `ix`, `iy` the inverse radii.
#[inline]
fn soft_ellipse(u: f32, v: f32, ix: f32, iy: f32) -> f32 {
    let q = u * u + v * v;
    if q > 9.0 {
        return 0.0;
    }
    let slope = ((u * ix) * (u * ix) + (v * iy) * (v * iy)).sqrt().max(1e-6);
    (0.5 - (q - 1.0) * 0.5 / slope).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> Vec<u8> {
        vec![0; WIDTH * HEIGHT * 3]
    }

    fn weight(rgb: &[u8]) -> f32 {
        rgb.iter().step_by(3).map(|v| f32::from(*v)).sum::<f32>() / 255.0
    }

    #[test]
    fn shapes_cover_their_area_with_soft_edges() {
        let white = Paint::flat([255.0; 3]);
        let mut p = blank();
        Canvas::new(&mut p).ellipse((100.3, 80.6), 20.0, 10.0, &white);
        assert!((weight(&p) - 628.3).abs() < 8.0, "{}", weight(&p));
        let mut p = blank();
        Canvas::new(&mut p).polygon(&[(10.0, 10.0), (10.0, 50.5), (50.5, 50.5)], &white);
        assert!((weight(&p) - 820.1).abs() < 8.0, "{}", weight(&p));
        let mut p = blank();
        Canvas::new(&mut p).limb((100.0, 100.0), (140.0, 130.0), 5.0, 5.0, &white);
        assert!((weight(&p) - 578.5).abs() < 8.0, "{}", weight(&p));
    }

    #[test]
    fn shapes_outside_the_picture_are_measured_but_not_drawn() {
        let mut p = blank();
        let mut c = Canvas::new(&mut p);
        c.rectangle(-100.0, -50.0, -10.0, 20.0, &Paint::flat([255.0; 3]));
        assert_eq!(c.extent, Extent { x0: -100.0, y0: -50.0, x1: -10.0, y1: 20.0 });
        assert_eq!(c.extent.in_picture().area(), 0.0);
        assert!(p.iter().all(|v| *v == 0));
    }

    #[test]
    fn a_nearer_thing_takes_visibility_from_the_one_behind() {
        let mut p = blank();
        let mut c = Canvas::new(&mut p);
        c.owner(1);
        c.rectangle(100.0, 100.0, 200.0, 200.0, &Paint::flat([9.0; 3]));
        c.owner(2);
        c.rectangle(150.0, 50.0, 250.0, 250.0, &Paint::flat([99.0; 3]));
        assert!((c.visible(1) - 0.5).abs() < 0.02 && c.visible(2) == 1.0 && c.visible(3) == 0.0);
    }
}

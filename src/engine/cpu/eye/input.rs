//! The eye's input: a 640x480 RGB picture flows in, the same picture reduced four times by area average (160x120) flows out.
//! Training data are made with this very function, so the network sees in use what it saw in training.

use super::kernel::Shape;

/// Width of the network's picture.
pub const WIDTH: usize = 160;
/// Height of the network's picture.
pub const HEIGHT: usize = 120;
/// Pixels of the camera's picture per pixel of the network's, each way.
pub const REDUCTION: usize = 4;
/// Width of the camera's picture.
pub const CAMERA_WIDTH: usize = WIDTH * REDUCTION;
/// Height of the camera's picture.
pub const CAMERA_HEIGHT: usize = HEIGHT * REDUCTION;
/// Bytes of the camera's picture.
pub const CAMERA_BYTES: usize = CAMERA_WIDTH * CAMERA_HEIGHT * 3;
/// Focal length in pixels of the camera the training pictures were drawn with (86.5 degrees across). A camera with another
/// lens is seen at wrong bearings and distances.
pub const FOCAL_PX: f32 = 340.0;

/// Reduces a picture of 640 x 480 x 3 bytes to 160 x 120 x 3 by the rounded mean of 4x4 pixels.
/// Nothing is written unless both slices have those lengths.
pub fn reduce(rgb: &[u8], out: &mut [u8]) {
    let row = WIDTH * REDUCTION * 3;
    if rgb.len() != row * HEIGHT * REDUCTION || out.len() != WIDTH * HEIGHT * 3 {
        return;
    }
    let mut sums = [0u16; WIDTH * REDUCTION * 3];
    for (block, line) in rgb.chunks_exact(row * REDUCTION).zip(out.chunks_exact_mut(WIDTH * 3)) {
        let (a, rest) = block.split_at(row);
        let (b, rest) = rest.split_at(row);
        let (c, d) = rest.split_at(row);
        for ((((s, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *s = u16::from(*a) + u16::from(*b) + u16::from(*c) + u16::from(*d);
        }
        for (p, s) in line.chunks_exact_mut(3).zip(sums.chunks_exact(12)) {
            for k in 0..3 {
                p[k] = ((s[k] + s[k + 3] + s[k + 6] + s[k + 9] + 8) / 16) as u8;
            }
        }
    }
}

/// Writes a reduced picture as the network's numbers, `(value / 255 - 0.45) * 4`, into a bordered buffer.
pub fn normalise(small: &[u8], shape: Shape, out: &mut [f32]) {
    let row = shape.width * shape.channels;
    for (y, line) in small.chunks_exact(row).take(shape.height).enumerate() {
        let at = shape.at(y, 0);
        for (o, v) in out[at..at + row].iter_mut().zip(line) {
            *o = (f32::from(*v) / 255.0 - 0.45) * 4.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_pixel_is_the_mean_of_its_sixteen() {
        let rgb: Vec<u8> =
            (0..640 * 480 * 3).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let mut out = vec![0; WIDTH * HEIGHT * 3];
        reduce(&rgb, &mut out);
        for (x, y, c) in [(0, 0, 0), (159, 119, 2), (17, 93, 1)] {
            let mut sum = 0u32;
            for dy in 0..4 {
                for dx in 0..4 {
                    sum += u32::from(rgb[((y * 4 + dy) * 640 + x * 4 + dx) * 3 + c]);
                }
            }
            assert_eq!(u32::from(out[(y * WIDTH + x) * 3 + c]), (sum + 8) / 16);
        }
    }
}

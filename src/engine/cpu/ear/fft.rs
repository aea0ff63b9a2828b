//! Power spectrum of 512 real samples. Real samples flow in, 257 squared magnitudes flow out. Written here so that
//! every machine adds in the same order; plain loops over separate real and imaginary rows that compilers vectorise.

/// Samples in one transform.
pub const SIZE: usize = 512;
/// Squared magnitudes that come out: 0 Hz to half the sample rate.
pub const BINS: usize = SIZE / 2 + 1;
const HALF: usize = SIZE / 2;

/// Twiddle factors and scratch of the transform.
#[derive(Debug, Clone)]
pub struct PowerSpectrum {
    /// e^(-2 pi i k / 256) for the four radix-4 stages.
    stage: Vec<[f32; 2]>,
    /// e^(-2 pi i k / 512) for the split into a real spectrum.
    split: Vec<[f32; 2]>,
    re: [Vec<f32>; 2],
    im: [Vec<f32>; 2],
}

fn twiddles(count: usize, period: usize) -> Vec<[f32; 2]> {
    (0..count)
        .map(|k| {
            let angle = -2.0 * std::f64::consts::PI * k as f64 / period as f64;
            [libm::cos(angle) as f32, libm::sin(angle) as f32]
        })
        .collect()
}

impl Default for PowerSpectrum {
    fn default() -> Self {
        let row = || vec![0.0; HALF];
        PowerSpectrum {
            stage: twiddles(HALF, HALF),
            split: twiddles(BINS, SIZE),
            re: [row(), row()],
            im: [row(), row()],
        }
    }
}

impl PowerSpectrum {
    /// Squared magnitudes of the transform of `samples`; the even samples are the real part, the odd ones the
    /// imaginary part of a complex transform of half the size.
    pub fn of(&mut self, samples: &[f32; SIZE], power: &mut [f32; BINS]) {
        for (k, pair) in samples.chunks_exact(2).enumerate() {
            self.re[0][k] = pair[0];
            self.im[0][k] = pair[1];
        }
        let mut from = 0;
        let (mut size, mut stride) = (HALF, 1);
        while size > 1 {
            self.radix4(from, size, stride);
            from = 1 - from;
            size /= 4;
            stride *= 4;
        }
        let (re, im) = (&self.re[from], &self.im[from]);
        for (k, out) in power.iter_mut().enumerate() {
            let (a, b) = (k % HALF, (HALF - k) % HALF);
            let (even_re, even_im) = (0.5 * (re[a] + re[b]), 0.5 * (im[a] - im[b]));
            let (odd_re, odd_im) = (0.5 * (im[a] + im[b]), 0.5 * (re[b] - re[a]));
            let [c, s] = self.split[k];
            let x = even_re + c * odd_re - s * odd_im;
            let y = even_im + c * odd_im + s * odd_re;
            *out = x * x + y * y;
        }
    }

    /// One stage of the self-sorting radix-4 transform (Stockham): `size` points, `stride` interleaved transforms.
    fn radix4(&mut self, from: usize, size: usize, stride: usize) {
        let quarter = size / 4;
        let (low, high) = self.re.split_at_mut(1);
        let (xr, yr) = if from == 0 { (&low[0], &mut high[0]) } else { (&high[0], &mut low[0]) };
        let (low, high) = self.im.split_at_mut(1);
        let (xi, yi) = if from == 0 { (&low[0], &mut high[0]) } else { (&high[0], &mut low[0]) };
        for p in 0..quarter {
            let turn = |n: usize| self.stage[(n * p * (HALF / size)) % HALF];
            let ([c1, s1], [c2, s2], [c3, s3]) = (turn(1), turn(2), turn(3));
            for q in 0..stride {
                let at = |n: usize| q + stride * (p + n * quarter);
                let (ar, ai, br, bi) = (xr[at(0)], xi[at(0)], xr[at(1)], xi[at(1)]);
                let (cr, ci, dr, di) = (xr[at(2)], xi[at(2)], xr[at(3)], xi[at(3)]);
                let (sum_r, sum_i, dif_r, dif_i) = (ar + cr, ai + ci, ar - cr, ai - ci);
                let (bd_r, bd_i, j_r, j_i) = (br + dr, bi + di, di - bi, br - dr);
                let to = |n: usize| q + stride * (4 * p + n);
                yr[to(0)] = sum_r + bd_r;
                yi[to(0)] = sum_i + bd_i;
                let (r, i) = (dif_r - j_r, dif_i - j_i);
                yr[to(1)] = c1 * r - s1 * i;
                yi[to(1)] = c1 * i + s1 * r;
                let (r, i) = (sum_r - bd_r, sum_i - bd_i);
                yr[to(2)] = c2 * r - s2 * i;
                yi[to(2)] = c2 * i + s2 * r;
                let (r, i) = (dif_r + j_r, dif_i + j_i);
                yr[to(3)] = c3 * r - s3 * i;
                yi[to(3)] = c3 * i + s3 * r;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition() {
        let mut samples = [0.0f32; SIZE];
        let mut state = 1u32;
        for s in &mut samples {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *s = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        }
        let mut power = [0.0; BINS];
        PowerSpectrum::default().of(&samples, &mut power);
        for (k, found) in power.iter().enumerate() {
            let (mut re, mut im) = (0.0f64, 0.0f64);
            for (n, s) in samples.iter().enumerate() {
                let angle = -2.0 * std::f64::consts::PI * (k * n % SIZE) as f64 / SIZE as f64;
                re += f64::from(*s) * angle.cos();
                im += f64::from(*s) * angle.sin();
            }
            let wanted = re * re + im * im;
            assert!((f64::from(*found) - wanted).abs() < 1e-3 * (1.0 + wanted), "bin {k}: {found} instead of {wanted}");
        }
    }
}

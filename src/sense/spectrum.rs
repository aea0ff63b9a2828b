//! A real Fourier transform of 512 points whose result is the same bits on every machine: plain `f32` arithmetic in a
//! fixed order, twiddles from `libm`. Samples flow in, bins 0..=256 flow out, and back. (The `realfft` crate picks
//! kernels by processor, so its last bits differ; features must not.)

/// Points of the transform.
pub const POINTS: usize = 512;
/// Bins 0..=N/2 of a real spectrum.
pub const BINS: usize = POINTS / 2 + 1;
const HALF: usize = POINTS / 2;
const HALF_BITS: u32 = HALF.trailing_zeros();

/// One complex number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Complex {
    /// Real part.
    pub re: f32,
    /// Imaginary part.
    pub im: f32,
}

impl Complex {
    /// Squared magnitude.
    pub fn power(self) -> f32 {
        self.re * self.re + self.im * self.im
    }

    fn plus(self, other: Complex) -> Complex {
        Complex { re: self.re + other.re, im: self.im + other.im }
    }

    fn minus(self, other: Complex) -> Complex {
        Complex { re: self.re - other.re, im: self.im - other.im }
    }

    /// Product.
    pub fn times(self, other: Complex) -> Complex {
        Complex { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }

    /// Complex conjugate.
    pub fn conj(self) -> Complex {
        Complex { re: self.re, im: -self.im }
    }
}

/// Spectrum of 512 real samples.
pub type Bins = [Complex; BINS];

/// Tables of the transform.
#[derive(Debug, Clone)]
pub struct Fourier {
    /// exp(-2πi k / 512).
    turn: Box<[Complex; HALF]>,
}

impl Default for Fourier {
    fn default() -> Self {
        Fourier::new()
    }
}

impl Fourier {
    /// Computes the tables.
    pub fn new() -> Fourier {
        let mut turn = Box::new([Complex::default(); HALF]);
        for (k, t) in turn.iter_mut().enumerate() {
            let angle = -2.0 * core::f64::consts::PI * k as f64 / POINTS as f64;
            *t = Complex { re: libm::cos(angle) as f32, im: libm::sin(angle) as f32 };
        }
        Fourier { turn }
    }

    /// Spectrum of the samples, unscaled.
    pub fn forward(&self, samples: &[f32; POINTS], bins: &mut Bins) {
        let mut z = [Complex::default(); HALF];
        for (k, pair) in samples.chunks_exact(2).enumerate() {
            z[reverse(k)] = Complex { re: pair[0], im: pair[1] };
        }
        self.butterflies(&mut z, false);
        // Even and odd samples went through one complex transform of half the length; take their spectra apart.
        for k in 0..=HALF {
            let (a, b) = (z[k % HALF], z[(HALF - k) % HALF].conj());
            let even = a.plus(b);
            let odd = a.minus(b);
            let turned = self.turned(k).times(Complex { re: odd.im, im: -odd.re });
            bins[k] = Complex { re: 0.5 * (even.re + turned.re), im: 0.5 * (even.im + turned.im) };
        }
    }

    /// Samples of the spectrum, so that `inverse(forward(x)) == x` up to rounding.
    pub fn inverse(&self, bins: &Bins, samples: &mut [f32; POINTS]) {
        let mut z = [Complex::default(); HALF];
        for k in 0..HALF {
            let (a, b) = (bins[k], bins[HALF - k].conj());
            let even = a.plus(b);
            let odd = self.turned(k).conj().times(a.minus(b));
            z[reverse(k)] = Complex { re: 0.5 * (even.re - odd.im), im: 0.5 * (even.im + odd.re) };
        }
        self.butterflies(&mut z, true);
        let scale = 1.0 / HALF as f32;
        for (k, pair) in samples.chunks_exact_mut(2).enumerate() {
            pair[0] = z[k].re * scale;
            pair[1] = z[k].im * scale;
        }
    }

    fn turned(&self, k: usize) -> Complex {
        if k == HALF { Complex { re: -1.0, im: 0.0 } } else { self.turn[k] }
    }

    fn butterflies(&self, z: &mut [Complex; HALF], inverse: bool) {
        let mut span = 1;
        while span < HALF {
            let stride = POINTS / (2 * span);
            for start in (0..HALF).step_by(2 * span) {
                for k in 0..span {
                    let w = self.turn[k * stride];
                    let w = if inverse { w.conj() } else { w };
                    let (a, b) = (z[start + k], w.times(z[start + k + span]));
                    z[start + k] = a.plus(b);
                    z[start + k + span] = a.minus(b);
                }
            }
            span *= 2;
        }
    }
}

fn reverse(k: usize) -> usize {
    (k as u32).reverse_bits() as usize >> (u32::BITS - HALF_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_lands_in_its_bin_and_comes_back() {
        let fourier = Fourier::new();
        let mut samples = [0.0f32; POINTS];
        for (n, s) in samples.iter_mut().enumerate() {
            let angle = 2.0 * core::f64::consts::PI * 37.0 * n as f64 / POINTS as f64;
            *s = libm::sin(angle) as f32 + if n == 3 { 0.5 } else { 0.0 };
        }
        let mut bins = [Complex::default(); BINS];
        fourier.forward(&samples, &mut bins);
        let loudest = (0..BINS).max_by(|&a, &b| bins[a].power().total_cmp(&bins[b].power())).unwrap();
        assert_eq!(loudest, 37);
        assert!((libm::sqrtf(bins[37].power()) - 256.0).abs() < 1.0);
        let mut back = [0.0f32; POINTS];
        fourier.inverse(&bins, &mut back);
        for (a, b) in samples.iter().zip(&back) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        let fourier = Fourier::new();
        let mut seed = 1u32;
        let samples: [f32; POINTS] = std::array::from_fn(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        });
        let mut bins = [Complex::default(); BINS];
        fourier.forward(&samples, &mut bins);
        for k in [0usize, 1, 5, 128, 200, 255, 256] {
            let (mut re, mut im) = (0.0f64, 0.0f64);
            for (n, s) in samples.iter().enumerate() {
                let angle = -2.0 * core::f64::consts::PI * (k * n) as f64 / POINTS as f64;
                re += f64::from(*s) * libm::cos(angle);
                im += f64::from(*s) * libm::sin(angle);
            }
            assert!((f64::from(bins[k].re) - re).abs() < 1e-3 && (f64::from(bins[k].im) - im).abs() < 1e-3, "bin {k}");
        }
    }
}

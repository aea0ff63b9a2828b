//! The convolution kernels of the eye: channels last, sixteen output channels a vector, compiled for AVX-512, AVX2 and any machine.
//! A layer's packed weights and a padded picture flow in; a padded picture flows out. Each set sums in a fixed order, so a set gives the
//! same bits everywhere; the sets differ from each other in the last bits (fused or separate multiply and add).

use crate::engine::cpu::simd::Simd;

/// Output channels of one vector.
pub const LANES: usize = 16;

/// A picture with a border of one zero pixel: rows of pixels of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows without the border.
    pub height: usize,
    /// Pixels in a row without the border.
    pub width: usize,
    /// Channels, stored; a multiple of [`LANES`] for outputs.
    pub channels: usize,
}

impl Shape {
    /// Numbers stored, border included.
    #[must_use]
    pub fn numbers(self) -> usize {
        (self.height + 2) * (self.width + 2) * self.channels
    }

    /// Numbers in a stored row.
    #[must_use]
    pub fn line(self) -> usize {
        (self.width + 2) * self.channels
    }

    /// Index of a pixel's first channel.
    #[must_use]
    pub fn at(self, y: usize, x: usize) -> usize {
        (y + 1) * self.line() + (x + 1) * self.channels
    }
}

/// One convolution with its packed weights.
#[derive(Clone, Debug)]
pub struct Conv {
    from: Shape,
    to: Shape,
    /// Rows of taps (1 or 3) and contiguous input numbers a row of taps.
    rows: usize,
    run: usize,
    stride: usize,
    relu: bool,
    /// Vectors of output channels and pixels worked on at once.
    block: (usize, usize),
    /// `[chunk][row][run][block.0 * LANES]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    simd: Simd,
}

impl Conv {
    /// Packs weights `[out][in][size][size]` (size 1 or 3) and a bias for a picture shape; missing output channels are zeros.
    /// `None` if the numbers do not fit the shapes.
    #[must_use]
    pub fn new(
        simd: Simd,
        from: Shape,
        weights: &[f32],
        bias: &[f32],
        size: usize,
        stride: usize,
        relu: bool,
    ) -> Option<Self> {
        let simd = simd.supported();
        let outputs = bias.len();
        let to = Shape {
            height: from.height.div_ceil(stride),
            width: from.width.div_ceil(stride),
            channels: outputs.div_ceil(LANES) * LANES,
        };
        if weights.len() != outputs * from.channels * size * size
            || !(size == 1 || size == 3)
            || !to.width.is_multiple_of(5)
        {
            return None;
        }
        let vectors = to.channels / LANES;
        let block = match (simd, vectors) {
            (Simd::Avx512, 1) if to.width.is_multiple_of(20) => (1, 20),
            (Simd::Avx512, 2) if to.width.is_multiple_of(10) => (2, 10),
            (Simd::Avx512, 2 | 3) => (vectors, 5),
            (Simd::Avx512, n) if n % 4 == 0 => (4, 5),
            (Simd::Avx512, n) if n % 3 == 0 => (3, 5),
            _ => (1, 5),
        };
        let wide = block.0 * LANES;
        let run = size * from.channels;
        let mut packed = vec![0.0; to.channels * size * run];
        for o in 0..outputs {
            for i in 0..from.channels {
                for r in 0..size {
                    for c in 0..size {
                        let k = c * from.channels + i;
                        packed[((o / wide * size + r) * run + k) * wide + o % wide] =
                            weights[((o * from.channels + i) * size + r) * size + c];
                    }
                }
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(to.channels, 0.0);
        Some(Self { from, to, rows: size, run, stride, relu, block, weights: packed, bias: padded, simd })
    }

    /// Shape of what it makes.
    #[must_use]
    pub fn to(&self) -> Shape {
        self.to
    }

    /// Bytes of weights.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.weights.len() + self.bias.len()) * 4
    }

    /// Runs the layer; `add` (of the output's shape) is added before the ReLU. Slices of other lengths than the shapes' change nothing.
    pub fn run(&self, from: &[f32], add: Option<&[f32]>, to: &mut [f32]) {
        let fits = from.len() == self.from.numbers()
            && to.len() == self.to.numbers()
            && add.is_none_or(|a| a.len() == self.to.numbers());
        if !fits {
            debug_assert!(fits, "the buffers do not have the layer's shapes");
            return;
        }
        match self.simd {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` keeps only instructions that this processor has;
            // the lengths were checked above and `new` built the geometry from the same shapes.
            Simd::Avx512 => unsafe { x86::avx512(self, from, add, to) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Simd::Avx2 => unsafe { x86::avx2(self, from, add, to) },
            _ => {
                debug_assert!(self.block == (1, 5), "`new` packs weights for one vector unless the set is AVX-512");
                // SAFETY: the lengths were checked above; plain lanes need no instructions.
                unsafe { convolve::<[f32; LANES], 1, 5>(self, from, add, to) }
            }
        }
    }
}

/// Sixteen numbers worked on at once.
trait Vector: Copy {
    /// Reads sixteen numbers.
    unsafe fn load(p: *const f32) -> Self;
    /// Writes sixteen numbers.
    unsafe fn store(self, p: *mut f32);
    /// `self + x * w`, `x` in every lane.
    unsafe fn accumulate(self, x: *const f32, w: Self) -> Self;
    /// Lane by lane.
    unsafe fn plus(self, o: Self) -> Self;
    /// Negative lanes become zero.
    unsafe fn positive(self) -> Self;
}

impl Vector for [f32; LANES] {
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives sixteen readable numbers.
        unsafe { p.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives sixteen writable numbers.
        unsafe { p.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn accumulate(mut self, x: *const f32, w: Self) -> Self {
        // SAFETY: the caller gives a readable number.
        let x = unsafe { *x };
        for (s, w) in self.iter_mut().zip(w) {
            *s += x * w;
        }
        self
    }
    #[inline(always)]
    unsafe fn plus(mut self, o: Self) -> Self {
        for (s, o) in self.iter_mut().zip(o) {
            *s += o;
        }
        self
    }
    #[inline(always)]
    unsafe fn positive(self) -> Self {
        self.map(|v| if v > 0.0 { v } else { 0.0 })
    }
}

/// The loop all sets share: `NV` vectors of channels by `P` pixels are summed in registers over all taps.
///
/// # Safety
/// The slices have the lengths of the layer's shapes, `P` divides the output width, `NV * LANES` its channels, and the processor has the
/// instructions of `V`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays are walked in step
unsafe fn convolve<V: Vector, const NV: usize, const P: usize>(
    c: &Conv,
    from: &[f32],
    add: Option<&[f32]>,
    to: &mut [f32],
) {
    let (line, step) = (c.from.line(), c.stride * c.from.channels);
    // First tap of output pixel (0, 0): the border pixel for 3x3, the pixel itself for 1x1.
    let first = if c.rows == 3 { 0 } else { c.from.at(0, 0) };
    let wide = NV * LANES;
    for chunk in 0..c.to.channels / wide {
        for y in 0..c.to.height {
            for x in (0..c.to.width).step_by(P) {
                // SAFETY: every index below is inside the checked shapes: `x + P <= width`, taps stay within the one pixel border,
                // and the packed weights hold `rows * run * wide` numbers a chunk.
                unsafe {
                    let mut sums = [[V::load(c.bias.as_ptr().add(chunk * wide)); NV]; P];
                    for (v, s) in sums[0].iter_mut().enumerate() {
                        *s = V::load(c.bias.as_ptr().add(chunk * wide + v * LANES));
                    }
                    for p in 1..P {
                        sums[p] = sums[0];
                    }
                    let mut w = c.weights.as_ptr().add(chunk * c.rows * c.run * wide);
                    for r in 0..c.rows {
                        let mut input = from.as_ptr().add(first + (y * c.stride + r) * line + x * step);
                        for _ in 0..c.run {
                            let mut taps = [V::load(w); NV];
                            for v in 1..NV {
                                taps[v] = V::load(w.add(v * LANES));
                            }
                            for p in 0..P {
                                for v in 0..NV {
                                    sums[p][v] = sums[p][v].accumulate(input.add(p * step), taps[v]);
                                }
                            }
                            w = w.add(wide);
                            input = input.add(1);
                        }
                    }
                    for p in 0..P {
                        for v in 0..NV {
                            let i = c.to.at(y, x + p) + chunk * wide + v * LANES;
                            let mut s = sums[p][v];
                            if let Some(a) = add {
                                s = s.plus(V::load(a.as_ptr().add(i)));
                            }
                            if c.relu {
                                s = s.positive();
                            }
                            s.store(to.as_mut_ptr().add(i));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The AVX-512 and AVX2 vectors and the entry points compiled for them.
    use super::{Conv, LANES, Vector, convolve};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    struct Wide(__m512);

    impl Vector for Wide {
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: sixteen readable numbers, AVX-512F present (both by the trait's callers).
            Self(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: sixteen writable numbers, AVX-512F present.
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn accumulate(self, x: *const f32, w: Self) -> Self {
            // SAFETY: a readable number, AVX-512F present.
            Self(unsafe { _mm512_fmadd_ps(_mm512_set1_ps(*x), w.0, self.0) })
        }
        #[inline(always)]
        unsafe fn plus(self, o: Self) -> Self {
            // SAFETY: AVX-512F present.
            Self(unsafe { _mm512_add_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn positive(self) -> Self {
            // SAFETY: AVX-512F present.
            Self(unsafe { _mm512_max_ps(self.0, _mm512_setzero_ps()) })
        }
    }

    #[derive(Clone, Copy)]
    struct Pair(__m256, __m256);

    impl Vector for Pair {
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: sixteen readable numbers, AVX2 present (both by the trait's callers).
            unsafe { Self(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(LANES / 2))) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: sixteen writable numbers, AVX2 present.
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(LANES / 2), self.1);
            }
        }
        #[inline(always)]
        unsafe fn accumulate(self, x: *const f32, w: Self) -> Self {
            // SAFETY: a readable number, AVX2 and FMA present.
            unsafe {
                let x = _mm256_set1_ps(*x);
                Self(_mm256_fmadd_ps(x, w.0, self.0), _mm256_fmadd_ps(x, w.1, self.1))
            }
        }
        #[inline(always)]
        unsafe fn plus(self, o: Self) -> Self {
            // SAFETY: AVX2 present.
            unsafe { Self(_mm256_add_ps(self.0, o.0), _mm256_add_ps(self.1, o.1)) }
        }
        #[inline(always)]
        unsafe fn positive(self) -> Self {
            // SAFETY: AVX2 present.
            unsafe {
                let z = _mm256_setzero_ps();
                Self(_mm256_max_ps(self.0, z), _mm256_max_ps(self.1, z))
            }
        }
    }

    /// # Safety
    /// AVX-512F is present and the slices fit the layer.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(c: &Conv, from: &[f32], add: Option<&[f32]>, to: &mut [f32]) {
        // SAFETY: passed on from the caller; `Conv::new` chose a block that divides the shape.
        unsafe {
            match c.block {
                (1, 20) => convolve::<Wide, 1, 20>(c, from, add, to),
                (2, 10) => convolve::<Wide, 2, 10>(c, from, add, to),
                (2, _) => convolve::<Wide, 2, 5>(c, from, add, to),
                (3, _) => convolve::<Wide, 3, 5>(c, from, add, to),
                (4, _) => convolve::<Wide, 4, 5>(c, from, add, to),
                _ => convolve::<Wide, 1, 5>(c, from, add, to),
            }
        }
    }

    /// # Safety
    /// AVX2 and FMA are present and the slices fit the layer.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(c: &Conv, from: &[f32], add: Option<&[f32]>, to: &mut [f32]) {
        // SAFETY: passed on from the caller.
        unsafe { convolve::<Pair, 1, 5>(c, from, add, to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    }

    /// The definition, with no tricks.
    #[allow(clippy::too_many_arguments)] // a formula
    fn plain(
        s: Shape,
        x: &[f32],
        w: &[f32],
        b: &[f32],
        size: usize,
        stride: usize,
        relu: bool,
        o: usize,
        y: usize,
        c: usize,
    ) -> f32 {
        let mut sum = b[o];
        for i in 0..s.channels {
            for r in 0..size {
                for k in 0..size {
                    let (py, px) = (y * stride + r + 1 - size / 2, c * stride + k + 1 - size / 2);
                    sum += x[py * s.line() + px * s.channels + i] * w[((o * s.channels + i) * size + r) * size + k];
                }
            }
        }
        if relu { sum.max(0.0) } else { sum }
    }

    #[test]
    fn every_kernel_set_computes_the_convolution() {
        for (channels, outputs, size, stride, h, w) in [
            (3, 16, 3, 2, 12, 40),
            (16, 32, 3, 1, 7, 20),
            (32, 48, 3, 1, 4, 10),
            (32, 96, 3, 2, 5, 10),
            (96, 128, 3, 2, 8, 10),
            (64, 32, 1, 1, 3, 5),
            (48, 9, 1, 1, 6, 40),
        ] {
            let from = Shape { height: h, width: w, channels };
            let mut x = vec![0.0; from.numbers()];
            for y in 0..h {
                let row = numbers(w * channels, y as u32 * 77);
                x[from.at(y, 0)..][..w * channels].copy_from_slice(&row);
            }
            let (weights, bias) = (numbers(outputs * channels * size * size, 5), numbers(outputs, 9));
            for simd in [Simd::Scalar, Simd::Avx2, Simd::Avx512] {
                let conv =
                    Conv::new(simd.supported(), from, &weights, &bias, size, stride, true).expect("the shapes fit");
                let mut out = vec![0.0; conv.to().numbers()];
                conv.run(&x, None, &mut out);
                for (o, y, c) in
                    [(0, 0, 0), (outputs - 1, conv.to().height - 1, conv.to().width - 1), (outputs / 2, 1, 3)]
                {
                    let (got, want) =
                        (out[conv.to().at(y, c) + o], plain(from, &x, &weights, &bias, size, stride, true, o, y, c));
                    assert!((got - want).abs() < 2e-4, "{simd:?} {channels}->{outputs}: {got} for {want}");
                }
                assert!(out[..conv.to().line()].iter().all(|v| *v == 0.0), "the border stays zero");
            }
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let from = Shape { height: 4, width: 10, channels: 16 };
        assert!(Conv::new(Simd::Scalar, from, &[0.0; 100], &[0.0; 16], 3, 1, true).is_none());
    }
}

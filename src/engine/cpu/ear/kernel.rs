//! Matrix times vector: the one product the ear's net is made of. Weights as trained (16-bit floats) flow in at load,
//! a vector flows in and one flows out per call. Three kernel sets: scalar, AVX2, AVX-512; each gives the same bits on
//! every machine that has it.

#![allow(clippy::needless_range_loop)] // panels and halves are indexed alike in weights, sums and outputs

use crate::engine::cpu::simd::Simd;
use half::f16;

/// Outputs that lie side by side in memory.
const PANEL: usize = 16;

/// Weights in panels of 16 outputs: panel, then input, then output. Missing outputs of the last panel are zero.
#[derive(Debug, Clone)]
enum Weights {
    Half(Vec<u16>),
    Single(Vec<f32>),
}

/// A matrix with its bias, laid out for its kernel set.
#[derive(Debug, Clone)]
pub struct Matrix {
    simd: Simd,
    inputs: usize,
    weights: Weights,
    /// One value an output, padded to whole panels.
    bias: Vec<f32>,
}

impl Matrix {
    /// `rows` is row-major `[bias.len()][inputs]`. Falls back to scalar ones where `simd` cannot run.
    pub fn new(rows: &[f16], bias: &[f32], inputs: usize, simd: Simd) -> Matrix {
        assert_eq!(rows.len(), bias.len() * inputs, "a matrix has one row an output");
        let simd = if simd.available() { simd } else { Simd::Scalar };
        let panels = bias.len().div_ceil(PANEL);
        let mut packed = vec![f16::ZERO; panels * inputs * PANEL];
        for (output, row) in rows.chunks_exact(inputs).enumerate() {
            for (input, weight) in row.iter().enumerate() {
                packed[(output / PANEL * inputs + input) * PANEL + output % PANEL] = *weight;
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(panels * PANEL, 0.0);
        let weights = match simd {
            Simd::Scalar => Weights::Single(packed.iter().map(|w| w.to_f32()).collect()),
            _ => Weights::Half(packed.iter().map(|w| w.to_bits()).collect()),
        };
        Matrix { simd, inputs, weights, bias: padded }
    }

    /// Length of the vector it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of the vector it gives: the outputs, padded to whole panels.
    pub fn padded(&self) -> usize {
        self.bias.len()
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bias.len() * 4
            + match &self.weights {
                Weights::Half(w) => w.len() * 2,
                Weights::Single(w) => w.len() * 4,
            }
    }

    /// `y = W x + bias`. `x` has `inputs()` values, `y` has `padded()`.
    pub fn times(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == self.inputs && y.len() == self.bias.len(), "vector of another length than the matrix");
        match (&self.weights, self.simd) {
            (Weights::Single(w), _) => scalar(w, x, &self.bias, y),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` kept this kernel set only because the machine has its features, and the lengths were checked
            // above: `w` has inputs * padded values by construction.
            (Weights::Half(w), Simd::Avx512) => unsafe { x86::avx512(w, x, &self.bias, y) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Weights::Half(w), _) => unsafe { x86::avx2(w, x, &self.bias, y) },
            #[cfg(not(target_arch = "x86_64"))]
            (Weights::Half(_), _) => unreachable!("half weights are kept for x86 kernels only"),
        }
    }
}

fn scalar(weights: &[f32], x: &[f32], bias: &[f32], y: &mut [f32]) {
    let panels = weights.chunks_exact(x.len() * PANEL).zip(bias.chunks_exact(PANEL)).zip(y.chunks_exact_mut(PANEL));
    for ((panel, bias), out) in panels {
        let mut sums = [0.0f32; PANEL];
        for (row, value) in panel.chunks_exact(PANEL).zip(x) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
        for ((out, sum), bias) in out.iter_mut().zip(&sums).zip(bias) {
            *out = sum + bias;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::PANEL;
    use std::arch::x86_64::*;

    /// # Safety
    /// Needs AVX-512F; `weights` holds `x.len() * bias.len()` values, `y` and `bias` the same whole number of panels.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(weights: &[u16], x: &[f32], bias: &[f32], y: &mut [f32]) {
        let panel = x.len() * PANEL;
        let mut at = 0;
        let panels = bias.len() / PANEL;
        while at < panels {
            // SAFETY: panels `at..at + P` exist in weights, bias and y.
            unsafe {
                let (w, b, out) =
                    (weights.as_ptr().add(at * panel), bias.as_ptr().add(at * PANEL), y.as_mut_ptr().add(at * PANEL));
                match panels - at {
                    1 => avx512_panels::<1>(w, x, b, out),
                    2 => avx512_panels::<2>(w, x, b, out),
                    3 => avx512_panels::<3>(w, x, b, out),
                    _ => avx512_panels::<4>(w, x, b, out),
                }
            }
            at += 4;
        }
    }

    /// Even and odd inputs have their own sums, which keeps enough independent additions in flight.
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_panels<const P: usize>(weights: *const u16, x: &[f32], bias: *const f32, y: *mut f32) {
        let panel = x.len() * PANEL;
        let mut even = [_mm512_setzero_ps(); P];
        let mut odd = [_mm512_setzero_ps(); P];
        // SAFETY: the caller gives P panels of x.len() inputs; every offset stays inside its panel.
        unsafe {
            let load =
                |p: usize, k: usize| _mm512_cvtph_ps(_mm256_loadu_si256(weights.add(p * panel + k * PANEL).cast()));
            let mut k = 0;
            while k + 1 < x.len() {
                let (a, b) = (_mm512_set1_ps(x[k]), _mm512_set1_ps(x[k + 1]));
                for p in 0..P {
                    even[p] = _mm512_fmadd_ps(load(p, k), a, even[p]);
                    odd[p] = _mm512_fmadd_ps(load(p, k + 1), b, odd[p]);
                }
                k += 2;
            }
            if k < x.len() {
                let a = _mm512_set1_ps(x[k]);
                for p in 0..P {
                    even[p] = _mm512_fmadd_ps(load(p, k), a, even[p]);
                }
            }
            for p in 0..P {
                let sum = _mm512_add_ps(_mm512_add_ps(even[p], odd[p]), _mm512_loadu_ps(bias.add(p * PANEL)));
                _mm512_storeu_ps(y.add(p * PANEL), sum);
            }
        }
    }

    /// # Safety
    /// Needs AVX2, FMA and F16C; lengths as for `avx512`.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn avx2(weights: &[u16], x: &[f32], bias: &[f32], y: &mut [f32]) {
        let panel = x.len() * PANEL;
        let mut at = 0;
        let panels = bias.len() / PANEL;
        while at < panels {
            // SAFETY: panels `at..at + P` exist in weights, bias and y.
            unsafe {
                let (w, b, out) =
                    (weights.as_ptr().add(at * panel), bias.as_ptr().add(at * PANEL), y.as_mut_ptr().add(at * PANEL));
                match panels - at {
                    1 => avx2_panels::<1>(w, x, b, out),
                    _ => avx2_panels::<2>(w, x, b, out),
                }
            }
            at += 2;
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2_panels<const P: usize>(weights: *const u16, x: &[f32], bias: *const f32, y: *mut f32) {
        let panel = x.len() * PANEL;
        let mut even = [[_mm256_setzero_ps(); 2]; P];
        let mut odd = [[_mm256_setzero_ps(); 2]; P];
        // SAFETY: the caller gives P panels of x.len() inputs; every offset stays inside its panel.
        unsafe {
            let load = |p: usize, k: usize, h: usize| {
                _mm256_cvtph_ps(_mm_loadu_si128(weights.add(p * panel + k * PANEL + h * 8).cast()))
            };
            let mut k = 0;
            while k + 1 < x.len() {
                let (a, b) = (_mm256_set1_ps(x[k]), _mm256_set1_ps(x[k + 1]));
                for p in 0..P {
                    for h in 0..2 {
                        even[p][h] = _mm256_fmadd_ps(load(p, k, h), a, even[p][h]);
                        odd[p][h] = _mm256_fmadd_ps(load(p, k + 1, h), b, odd[p][h]);
                    }
                }
                k += 2;
            }
            if k < x.len() {
                let a = _mm256_set1_ps(x[k]);
                for p in 0..P {
                    for h in 0..2 {
                        even[p][h] = _mm256_fmadd_ps(load(p, k, h), a, even[p][h]);
                    }
                }
            }
            for p in 0..P {
                for h in 0..2 {
                    let bias = _mm256_loadu_ps(bias.add(p * PANEL + h * 8));
                    _mm256_storeu_ps(
                        y.add(p * PANEL + h * 8),
                        _mm256_add_ps(_mm256_add_ps(even[p][h], odd[p][h]), bias),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_set_multiplies() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for (outputs, inputs) in [(78, 192), (96, 200), (33, 7), (192, 480)] {
            let rows: Vec<f16> = (0..outputs * inputs).map(|_| f16::from_f32(next())).collect();
            let bias: Vec<f32> = (0..outputs).map(|_| next()).collect();
            let x: Vec<f32> = (0..inputs).map(|_| next()).collect();
            for simd in [Simd::Scalar, Simd::Avx2, Simd::Avx512] {
                let matrix = Matrix::new(&rows, &bias, inputs, simd);
                let mut y = vec![0.0; matrix.padded()];
                matrix.times(&x, &mut y);
                for (o, found) in y.iter().enumerate() {
                    let wanted: f64 = bias.get(o).map_or(0.0, |b| {
                        f64::from(*b)
                            + (0..inputs).map(|i| rows[o * inputs + i].to_f64() * f64::from(x[i])).sum::<f64>()
                    });
                    assert!((f64::from(*found) - wanted).abs() < 1e-4, "{simd:?} {outputs}x{inputs} output {o}");
                }
            }
        }
    }
}

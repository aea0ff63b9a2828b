//! AVX-512: sixteen f32 lanes.
//! Flows in and out: see [`super::vector::Vector`].

use super::kernel_table;
use super::vector::Vector;
use std::arch::x86_64::*;

/// One zmm register.
#[derive(Clone, Copy)]
pub(super) struct Zmm(pub(super) __m512);

impl Vector for Zmm {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Zmm(_mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Zmm(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        _mm512_storeu_ps(to, self.0)
    }
    #[inline(always)]
    unsafe fn widen_bf16(from: *const u8) -> Self {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
    }
    #[inline(always)]
    unsafe fn widen_f16(from: *const u8) -> Self {
        Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Zmm(_mm512_fmadd_ps(self.0, factor.0, addend.0))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Zmm(_mm512_add_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Zmm(_mm512_mul_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Zmm(_mm512_div_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Zmm(_mm512_max_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Zmm(_mm512_min_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Zmm(_mm512_roundscale_ps::<0>(self.0))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Zmm(_mm512_scalef_ps(_mm512_set1_ps(1.0), self.0))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        _mm512_reduce_add_ps(self.0)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        _mm512_reduce_max_ps(self.0)
    }
    /// Eight registers at a time, adding the same pairs of lanes as `sum` does.
    #[inline(always)]
    unsafe fn sums<const R: usize, const T: usize>(all: &[[Self; T]; R]) -> [[f32; T]; R] {
        let mut sums = [[0.0f32; T]; R];
        let (registers, flat) = (all.as_flattened(), sums.as_flattened_mut());
        let whole = registers.len() / 8 * 8;
        for first in (0..whole).step_by(8) {
            eight_sums(registers.as_ptr().add(first), flat.as_mut_ptr().add(first));
        }
        for i in whole..registers.len() {
            flat[i] = registers[i].sum();
        }
        sums
    }
}

/// The sums of eight registers: lanes 8 apart are added, then 4, 2 and 1 apart. Loops, since a closure would be compiled
/// without AVX-512.
#[inline(always)]
unsafe fn eight_sums(registers: *const Zmm, sums: *mut f32) {
    let mut halves = [_mm256_setzero_ps(); 8];
    for (i, half) in halves.iter_mut().enumerate() {
        let register = (*registers.add(i)).0;
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(register));
        *half = _mm256_add_ps(_mm512_castps512_ps256(register), _mm256_castpd_ps(high));
    }
    // Register i of the next step holds the quarters of rows 2 i and 2 i + 1.
    let mut quarters = [_mm256_setzero_ps(); 4];
    for (i, quarter) in quarters.iter_mut().enumerate() {
        let (a, b) = (halves[2 * i], halves[2 * i + 1]);
        *quarter = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
    }
    let (a, b) = (pairs(quarters[0], quarters[1]), pairs(quarters[2], quarters[3]));
    let all = _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
    // Lanes are now rows 0 2 4 6 1 3 5 7.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_ps(sums, _mm256_permutevar8x32_ps(all, order));
}

/// Adds lanes 2 apart within the halves of both.
#[inline(always)]
unsafe fn pairs(a: __m256, b: __m256) -> __m256 {
    _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b))
}

kernel_table!("avx512", Zmm, "avx512f,avx512bw,avx512vl", rows: 4, tokens: 6, rest: 4, bytes: bytes_avx2);

/// With dot products of bytes (Ice Lake and later).
pub(super) static WITH_VNNI: Kernels =
    Kernels { extension: "vnni", multiply_bytes: super::bytes_avx512::multiply_bytes, ..TABLE };

/// With dot products of bytes and of bf16 (Zen 4, Sapphire Rapids and later).
pub(super) static WITH_VNNI_AND_BF16: Kernels = Kernels {
    extension: "vnni bf16",
    multiply_bytes: super::bytes_avx512::multiply_bytes,
    multiply_bf16: Some(super::bf16_avx512::multiply),
    ..TABLE
};

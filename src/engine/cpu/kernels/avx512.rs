//! AVX-512: sixteen f32 lanes.
//! Flows in and out: see [`super::vector::Vector`].

use super::kernel_table;
use super::vector::Vector;
use std::arch::x86_64::*;

/// One zmm register.
#[derive(Clone, Copy)]
struct Zmm(__m512);

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
    unsafe fn widen_i8(from: *const u8) -> Self {
        Zmm(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }
    #[inline(always)]
    unsafe fn widen_u4(from: *const u8, high: bool) -> Self {
        let pairs = _mm_loadu_si128(from.cast());
        let half = if high { _mm_srli_epi16::<4>(pairs) } else { pairs };
        Zmm(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(half, _mm_set1_epi8(15)))))
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
}

kernel_table!("avx512", Zmm, "avx512f,avx512bw,avx512vl", rows: 4, tokens: 6, rest: 2);

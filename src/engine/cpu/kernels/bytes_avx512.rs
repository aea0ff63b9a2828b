//! Products of bytes with AVX-512 VNNI: one register holds four columns of sixteen rows.
//! Flows in and out: see [`super::bytes::Panel`].

use super::bytes::{Panel, byte_products};
use std::arch::x86_64::*;

struct Zmm;

impl Panel for Zmm {
    type Weights = __m512i;
    type Activations = __m512i;
    type Whole = __m512i;
    type Real = __m512;

    /// The instruction takes unsigned weights, as they are stored: 8 or 128 too high.
    #[inline(always)]
    unsafe fn start<const FOUR: bool>(minus_sum: *const i32) -> __m512i {
        let minus_sum = _mm512_set1_epi32(*minus_sum);
        if FOUR { _mm512_slli_epi32::<3>(minus_sum) } else { _mm512_slli_epi32::<7>(minus_sum) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        _mm512_setzero_ps()
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m512 {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn eight_bits(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn low_bits(from: *const u8) -> __m512i {
        _mm512_and_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15))
    }
    #[inline(always)]
    unsafe fn high_bits(from: *const u8) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<4>(_mm512_loadu_si512(from.cast())), _mm512_set1_epi8(15))
    }
    #[inline(always)]
    unsafe fn activations(x: *const i8) -> __m512i {
        _mm512_set1_epi32(x.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sum, weights, x)
    }
    #[inline(always)]
    unsafe fn scaled(scales: __m512, scale: f32) -> __m512 {
        _mm512_mul_ps(scales, _mm512_set1_ps(scale))
    }
    #[inline(always)]
    unsafe fn accumulate(sum: __m512, whole: __m512i, scales: __m512) -> __m512 {
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scales, sum)
    }
    #[inline(always)]
    unsafe fn store(sum: __m512, to: *mut f32, count: usize) {
        let lanes = if count == 16 { u16::MAX } else { (1 << count) - 1 };
        _mm512_mask_storeu_ps(to, lanes, sum);
    }
}

byte_products!(Zmm, "avx512f,avx512bw,avx512vl,avx512vnni", blocks: 2, tokens: 6, rest: 4);

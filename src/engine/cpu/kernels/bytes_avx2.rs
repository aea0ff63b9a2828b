//! Products of bytes with AVX2: two registers hold four columns of eight rows each.
//! Flows in and out: see [`super::bytes::Panel`].

use super::bytes::{Panel, byte_products};
use std::arch::x86_64::*;

struct Ymms;

impl Panel for Ymms {
    type Weights = [__m256i; 2];
    type Activations = __m256i;
    type Whole = [__m256i; 2];
    type Real = [__m256; 2];

    /// Only weights of 4 bits are stored without sign.
    #[inline(always)]
    unsafe fn start<const FOUR: bool>(minus_sum: *const i32) -> [__m256i; 2] {
        [if FOUR { _mm256_slli_epi32::<3>(_mm256_set1_epi32(*minus_sum)) } else { _mm256_setzero_si256() }; 2]
    }
    #[inline(always)]
    unsafe fn zero() -> [__m256; 2] {
        [_mm256_setzero_ps(); 2]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m256; 2] {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }
    #[inline(always)]
    unsafe fn scales(from: *const u8) -> [__m256; 2] {
        let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(16).cast()));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
    }
    #[inline(always)]
    unsafe fn eight_bits(from: *const u8) -> [__m256i; 2] {
        let sign = _mm256_set1_epi8(-128);
        let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()));
        [_mm256_xor_si256(low, sign), _mm256_xor_si256(high, sign)]
    }
    #[inline(always)]
    unsafe fn low_bits(from: *const u8) -> [__m256i; 2] {
        let mask = _mm256_set1_epi8(15);
        let (a, b) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()));
        [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)]
    }
    #[inline(always)]
    unsafe fn high_bits(from: *const u8) -> [__m256i; 2] {
        let mask = _mm256_set1_epi8(15);
        let (a, b) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()));
        [_mm256_and_si256(_mm256_srli_epi16::<4>(a), mask), _mm256_and_si256(_mm256_srli_epi16::<4>(b), mask)]
    }
    #[inline(always)]
    unsafe fn activations(x: *const i8) -> __m256i {
        _mm256_set1_epi32(x.cast::<i32>().read_unaligned())
    }
    /// The unsigned times signed instruction saturates at 16 bits; with the signs moved to the activations two products
    /// are at most 2 * 127 * 127.
    #[inline(always)]
    unsafe fn dot(mut sum: [__m256i; 2], weights: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        for (sum, weights) in sum.iter_mut().zip(weights) {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_four(mut sum: [__m256i; 2], weights: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        for (sum, weights) in sum.iter_mut().zip(weights) {
            let pairs = _mm256_maddubs_epi16(weights, x);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        sum
    }
    #[inline(always)]
    unsafe fn scaled(scales: [__m256; 2], scale: f32) -> [__m256; 2] {
        let scale = _mm256_set1_ps(scale);
        [_mm256_mul_ps(scales[0], scale), _mm256_mul_ps(scales[1], scale)]
    }
    #[inline(always)]
    unsafe fn accumulate(mut sum: [__m256; 2], whole: [__m256i; 2], scales: [__m256; 2]) -> [__m256; 2] {
        for i in 0..2 {
            sum[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[i]), scales[i], sum[i]);
        }
        sum
    }
    #[inline(always)]
    unsafe fn store(sum: [__m256; 2], to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; 16];
        _mm256_storeu_ps(lanes.as_mut_ptr(), sum[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sum[1]);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
    }
}

byte_products!(Ymms, "avx2,fma", blocks: 1, tokens: 2, rest: 2);

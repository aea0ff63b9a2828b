//! Products of bytes with NEON: four registers hold four columns of four rows each.
//! Flows in and out: see [`super::bytes::Panel`].

use super::bytes::{Panel, byte_products};
use std::arch::aarch64::*;
use std::marker::PhantomData;

/// Adds four products to each lane.
///
/// # Safety
/// The CPU has the instruction.
pub(super) trait FourProducts {
    /// `sum[i]` plus the products of bytes `4 i` to `4 i + 3`.
    unsafe fn dot(sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t;
}

/// Widening products and pairwise sums: every 64-bit Arm.
struct Widening;

impl FourProducts for Widening {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(x)));
        let high = vpaddlq_s16(vmull_high_s8(weights, x));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }
}

/// Sixteen rows; `D` multiplies.
pub(super) struct Quads<D>(PhantomData<D>);

impl<D: FourProducts> Panel for Quads<D> {
    type Weights = [int8x16_t; 4];
    type Activations = int8x16_t;
    type Whole = [int32x4_t; 4];
    type Real = [float32x4_t; 4];

    /// Only weights of 4 bits are stored without sign.
    #[inline(always)]
    unsafe fn start<const FOUR: bool>(minus_sum: *const i32) -> Self::Whole {
        [vdupq_n_s32(if FOUR { minus_sum.read().wrapping_mul(8) } else { 0 }); 4]
    }
    #[inline(always)]
    unsafe fn zero() -> Self::Real {
        [vdupq_n_f32(0.0); 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Real {
        [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]
    }
    #[inline(always)]
    unsafe fn scales(from: *const u8) -> Self::Real {
        let mut scales = Self::zero();
        for (i, scale) in scales.iter_mut().enumerate() {
            let four = vreinterpret_u16_u8(vld1_u8(from.add(i * 8)));
            *scale = vreinterpretq_f32_u32(vshll_n_u16::<16>(four));
        }
        scales
    }
    #[inline(always)]
    unsafe fn eight_bits(from: *const u8) -> Self::Weights {
        let mut weights = [vdupq_n_s8(0); 4];
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.add(i * 16)), vdupq_n_u8(128)));
        }
        weights
    }
    #[inline(always)]
    unsafe fn low_bits(from: *const u8) -> Self::Weights {
        let mut weights = [vdupq_n_s8(0); 4];
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = vreinterpretq_s8_u8(vandq_u8(vld1q_u8(from.add(i * 16)), vdupq_n_u8(15)));
        }
        weights
    }
    #[inline(always)]
    unsafe fn high_bits(from: *const u8) -> Self::Weights {
        let mut weights = [vdupq_n_s8(0); 4];
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = vreinterpretq_s8_u8(vshrq_n_u8::<4>(vld1q_u8(from.add(i * 16))));
        }
        weights
    }
    #[inline(always)]
    unsafe fn activations(x: *const i8) -> int8x16_t {
        vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn dot(mut sum: Self::Whole, weights: Self::Weights, x: int8x16_t) -> Self::Whole {
        // Loops throughout: a closure would be compiled without the instructions at hand.
        for (sum, weights) in sum.iter_mut().zip(weights) {
            *sum = D::dot(*sum, weights, x);
        }
        sum
    }
    #[inline(always)]
    unsafe fn scaled(mut scales: Self::Real, scale: f32) -> Self::Real {
        for scales in &mut scales {
            *scales = vmulq_n_f32(*scales, scale);
        }
        scales
    }
    #[inline(always)]
    unsafe fn accumulate(mut sum: Self::Real, whole: Self::Whole, scales: Self::Real) -> Self::Real {
        for i in 0..4 {
            sum[i] = vfmaq_f32(sum[i], vcvtq_f32_s32(whole[i]), scales[i]);
        }
        sum
    }
    #[inline(always)]
    unsafe fn store(sum: Self::Real, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; 16];
        for (i, sum) in sum.iter().enumerate() {
            vst1q_f32(lanes.as_mut_ptr().add(i * 4), *sum);
        }
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
    }
}

byte_products!(Quads<Widening>, "neon", blocks: 1, tokens: 2, rest: 2);

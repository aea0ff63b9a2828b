//! NEON of 64-bit Arm (Jetson Thor's own cores): four f32 lanes.
//! Flows in and out: see [`super::vector::Vector`].

use super::kernel_table;
use super::vector::Vector;
use std::arch::aarch64::*;
use std::arch::asm;

/// One q register.
#[derive(Clone, Copy)]
pub(super) struct Quad(pub(super) float32x4_t);

impl Vector for Quad {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Quad(vdupq_n_f32(value))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Quad(vld1q_f32(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        vst1q_f32(to, self.0)
    }
    #[inline(always)]
    unsafe fn widen_bf16(from: *const u8) -> Self {
        let wide = vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from)));
        Quad(vreinterpretq_f32_u32(wide))
    }
    #[inline(always)]
    unsafe fn widen_f16(from: *const u8) -> Self {
        let wide: float32x4_t;
        // Every 64-bit Arm has it; the intrinsic is not in stable Rust. It may set floating-point status flags.
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide, halves = in(vreg) vld1_u8(from),
            options(pure, nomem, nostack)
        );
        Quad(wide)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Quad(vfmaq_f32(addend.0, self.0, factor.0))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Quad(vaddq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Quad(vmulq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Quad(vdivq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Quad(vmaxq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Quad(vminq_f32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Quad(vrndnq_f32(self.0))
    }
    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        let exponent = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
        Quad(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        vaddvq_f32(self.0)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        vmaxvq_f32(self.0)
    }
}

kernel_table!("neon", Quad, "neon", rows: 4, tokens: 4, rest: 2, bytes: bytes_neon);

/// With dot products of bytes (Armv8.2).
pub(super) static WITH_DOT: Kernels =
    Kernels { extension: "dot", multiply_bytes: super::bytes_neon_dot::multiply_bytes, ..TABLE };

/// With dot products of bytes and of bf16 (Armv8.6).
pub(super) static WITH_DOT_AND_BF16: Kernels = Kernels {
    extension: "dot bf16",
    multiply_bytes: super::bytes_neon_dot::multiply_bytes,
    multiply_bf16: Some(super::bf16_neon::multiply),
    ..TABLE
};

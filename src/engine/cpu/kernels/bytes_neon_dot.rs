//! Products of bytes with the dot product instruction of Armv8.2 and later (Jetson Thor's own cores).
//! Flows in and out: see [`super::bytes::Panel`].

use super::bytes::byte_products;
use super::bytes_neon::{FourProducts, Quads};
use std::arch::aarch64::{int8x16_t, int32x4_t};
use std::arch::asm;

struct Dot;

impl FourProducts for Dot {
    #[inline(always)]
    unsafe fn dot(mut sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        // The intrinsic is not in stable Rust. Unoptimised, this is a function of its own, which must name its extension.
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum, weights = in(vreg) weights, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
        sum
    }
}

byte_products!(Quads<Dot>, "neon,dotprod", blocks: 1, tokens: 2, rest: 2);

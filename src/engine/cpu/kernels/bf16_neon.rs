//! Products of bf16 pairs with the dot product instruction of Armv8.6 (Jetson Thor's own cores), for the mode that rounds
//! activations: eight weights and eight activations a register.
//! Flows in and out: see [`super::matmul::Product`].

use super::matmul::{self, InstructionSet, Product, Tile};
use super::neon::Quad;
use super::{CancelToken, Multiply};
use std::arch::aarch64::*;
use std::arch::asm;

struct Pairs;

#[inline(always)]
unsafe fn first(from: *const u8, count: usize) -> uint16x8_t {
    let mut lanes = [0u16; 8];
    std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr().cast(), count * 2);
    vld1q_u16(lanes.as_ptr())
}

impl Product for Pairs {
    type X = u16;
    type Sum = Quad;
    type Factor = uint16x8_t;
    const LANES: usize = 8;

    fn row_bytes(columns: usize) -> usize {
        columns * 2
    }
    #[inline(always)]
    unsafe fn activations(from: *const u16) -> uint16x8_t {
        vld1q_u16(from)
    }
    #[inline(always)]
    unsafe fn first_activations(from: *const u16, count: usize) -> uint16x8_t {
        first(from.cast(), count)
    }
    #[inline(always)]
    unsafe fn weights(row: *const u8, index: usize) -> uint16x8_t {
        vreinterpretq_u16_u8(vld1q_u8(row.add(index * 2)))
    }
    #[inline(always)]
    unsafe fn first_weights(row: *const u8, index: usize, count: usize) -> uint16x8_t {
        first(row.add(index * 2), count)
    }
    #[inline(always)]
    unsafe fn add(sum: Quad, weights: uint16x8_t, activations: uint16x8_t) -> Quad {
        let mut lanes = sum.0;
        // As in `bytes_neon_dot`.
        asm!(
            ".arch_extension bf16",
            "bfdot {sum:v}.4s, {weights:v}.8h, {x:v}.8h",
            sum = inout(vreg) lanes, weights = in(vreg) weights, x = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags)
        );
        Quad(lanes)
    }
}

struct Set;

impl InstructionSet for Set {
    #[inline(always)]
    unsafe fn tile<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
        #[target_feature(enable = "neon,bf16")]
        #[inline(never)]
        unsafe fn on<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
            matmul::tile::<P, R, T>(tile)
        }
        on::<P, R, T>(tile)
    }
}

/// bf16 weights times bf16 activations.
pub(super) unsafe fn multiply(task: &Multiply<u16>, cancel: &CancelToken) {
    matmul::multiply::<Set, Pairs, 4, 4, 2>(task, cancel)
}

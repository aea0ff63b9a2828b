//! Products of bf16 pairs with AVX-512 BF16, for the mode that rounds activations: 32 weights and 32 activations a register.
//! Flows in and out: see [`super::matmul::Product`].

use super::avx512::Zmm;
use super::matmul::{self, InstructionSet, Product, Tile};
use super::{CancelToken, Multiply};
use std::arch::x86_64::*;

struct Pairs;

impl Product for Pairs {
    type X = u16;
    type Sum = Zmm;
    type Factor = __m512i;
    const LANES: usize = 32;

    fn row_bytes(columns: usize) -> usize {
        columns * 2
    }
    #[inline(always)]
    unsafe fn activations(from: *const u16) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn first_activations(from: *const u16, count: usize) -> __m512i {
        _mm512_maskz_loadu_epi16((1 << count) - 1, from.cast())
    }
    #[inline(always)]
    unsafe fn weights(row: *const u8, index: usize) -> __m512i {
        _mm512_loadu_si512(row.add(index * 2).cast())
    }
    #[inline(always)]
    unsafe fn first_weights(row: *const u8, index: usize, count: usize) -> __m512i {
        _mm512_maskz_loadu_epi16((1 << count) - 1, row.add(index * 2).cast())
    }
    #[inline(always)]
    unsafe fn add(sum: Zmm, weights: __m512i, activations: __m512i) -> Zmm {
        // A register of 32 bf16 is the same 512 bits as one of integers.
        let (weights, activations): (__m512bh, __m512bh) =
            (std::mem::transmute::<__m512i, __m512bh>(weights), std::mem::transmute::<__m512i, __m512bh>(activations));
        Zmm(_mm512_dpbf16_ps(sum.0, weights, activations))
    }
}

struct Set;

impl InstructionSet for Set {
    #[inline(always)]
    unsafe fn tile<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
        #[inline(never)]
        unsafe fn on<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
            matmul::tile::<P, R, T>(tile)
        }
        on::<P, R, T>(tile)
    }
}

/// bf16 weights times bf16 activations.
pub(super) unsafe fn multiply(task: &Multiply<u16>, cancel: &CancelToken) {
    matmul::multiply::<Set, Pairs, 4, 6, 4>(task, cancel)
}

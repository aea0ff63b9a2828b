//! The arithmetic of the embedded engine, chosen at run time for the processor it runs on.
//! Flows in: one of the task structs ([`Multiply`], [`Attend`]). Flows out: results through the task's pointers.
//!
//! Each kernel is written once over the `vector::Vector` trait and compiled for AVX-512, AVX2+FMA and NEON;
//! `scalar` is written apart, as plain loops, and is what all others are tested against.

// The kernels are `unsafe` as a whole: their contract (the CPU has the instruction set, the task's pointers cover what
// the task says) is stated at the task and the trait, and repeating it at each intrinsic would only hide it.
#![allow(unsafe_op_in_unsafe_fn)]

mod attention;
mod elementwise;
mod matmul;
mod scalar;
mod vector;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

pub use attention::{Attend, KEY_BLOCK, MAX_QUERIES};

use crate::engine::CancelToken;
use crate::model::checkpoint::Element;
use std::ops::Range;

/// `y[t][r]` = sum over k of `w[r][k] * x[t][k]` for `rows` of a row-major matrix.
///
/// The pointers must cover: `weights` the whole matrix, `x` `tokens * columns`, `y` element `t * y_stride + r` for all
/// tokens and rows. Two tasks that run at the same time must not share rows of the same `y`.
#[derive(Clone)]
pub struct Multiply {
    /// Row 0 of the matrix.
    pub weights: *const u8,
    /// Storage of the weights.
    pub element: Element,
    /// Rows to compute.
    pub rows: Range<usize>,
    /// Length of a row.
    pub columns: usize,
    /// Activations, `[tokens][columns]`.
    pub x: *const f32,
    /// Number of tokens.
    pub tokens: usize,
    /// Results, `[tokens][y_stride]`.
    pub y: *mut f32,
    /// Elements between neighbouring tokens' results.
    pub y_stride: usize,
}

/// One instruction set's kernels.
///
/// # Safety
/// The functions may be called only on a CPU that has the instruction set (which [`Kernels::best`] and
/// [`Kernels::named`] check) and with tasks whose pointers are valid as the task's documentation says.
pub struct Kernels {
    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub name: &'static str,
    /// Runs a matrix product; returns early, with results undefined, once the token is cancelled.
    pub multiply: unsafe fn(&Multiply, &CancelToken),
    /// Runs causal attention for a few queries.
    pub attend: unsafe fn(&mut Attend),
    /// `(x, weight, eps, out, count)`: RMS norm of one row.
    pub rms_norm: unsafe fn(*const f32, *const f32, f32, *mut f32, usize),
    /// `(gate, up, out, count)`: silu(gate) * up.
    pub swiglu: unsafe fn(*const f32, *const f32, *mut f32, usize),
}

impl Kernels {
    /// Every instruction set this processor can run, fastest first; `scalar` is always last.
    pub fn available() -> Vec<&'static Kernels> {
        let mut sets: Vec<&'static Kernels> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
            {
                sets.push(&avx512::KERNELS);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                sets.push(&avx2::KERNELS);
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(&neon::KERNELS);
        sets.push(&scalar::KERNELS);
        sets
    }

    /// The fastest set this processor can run.
    pub fn best() -> &'static Kernels {
        Self::available()[0]
    }

    /// The reference set: the same bits on every machine.
    pub fn scalar() -> &'static Kernels {
        &scalar::KERNELS
    }

    /// The set called `name`, if this processor can run it.
    pub fn named(name: &str) -> Option<&'static Kernels> {
        Self::available().into_iter().find(|set| set.name == name)
    }
}

/// Compiles all kernels for one instruction set: the vector type, its target features, and the largest tile its
/// registers hold (rows x tokens, and a smaller number of tokens for what is left over).
macro_rules! kernel_table {
    ($name:literal, $vector:ty, $features:literal, rows: $rows:literal, tokens: $tokens:literal, rest: $rest:literal) => {
        use super::matmul::{self, InstructionSet, Tile};
        use super::vector::{Bf16, F16, F32, Q4, Q8, Stored};
        use super::{Attend, CancelToken, Element, Kernels, Multiply, attention, elementwise};

        struct Set;

        impl InstructionSet for Set {
            #[inline(always)]
            unsafe fn tile<E: Stored, const R: usize, const T: usize>(tile: &Tile) {
                // Kept out of line: many inlined tiles in one function spill registers.
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn on<E: Stored, const R: usize, const T: usize>(tile: &Tile) {
                    matmul::tile::<$vector, E, R, T>(tile)
                }
                on::<E, R, T>(tile)
            }
        }

        unsafe fn multiply(task: &Multiply, cancel: &CancelToken) {
            match task.element {
                Element::Bf16 => matmul::multiply::<Set, Bf16, $rows, $tokens, $rest>(task, cancel),
                Element::F16 => matmul::multiply::<Set, F16, $rows, $tokens, $rest>(task, cancel),
                Element::F32 => matmul::multiply::<Set, F32, $rows, $tokens, $rest>(task, cancel),
                Element::Q8 => matmul::multiply::<Set, Q8, $rows, $tokens, $rest>(task, cancel),
                Element::Q4 => matmul::multiply::<Set, Q4, $rows, $tokens, $rest>(task, cancel),
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn attend(call: &mut Attend) {
            attention::attend::<$vector>(call)
        }

        #[target_feature(enable = $features)]
        unsafe fn rms_norm(x: *const f32, weight: *const f32, eps: f32, out: *mut f32, count: usize) {
            elementwise::rms_norm::<$vector>(x, weight, eps, out, count)
        }

        #[target_feature(enable = $features)]
        unsafe fn swiglu(gate: *const f32, up: *const f32, out: *mut f32, count: usize) {
            elementwise::swiglu::<$vector>(gate, up, out, count)
        }

        /// The table of this instruction set.
        pub(super) static KERNELS: Kernels = Kernels { name: $name, multiply, attend, rms_norm, swiglu };
    };
}
use kernel_table;

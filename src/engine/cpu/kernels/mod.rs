//! The arithmetic of the embedded engine, chosen at run time for the processor it runs on.
//! Flows in: one of the task structs ([`Multiply`], [`MultiplyBytes`], [`Attend`]). Flows out: results through the task's pointers.
//!
//! Each kernel is written once over a trait (`vector::Vector`, `matmul::Product`, `bytes::Panel`) and compiled for AVX-512,
//! AVX2+FMA and NEON, with their dot products of bytes and of bf16 where the processor has them;
//! `scalar` is written apart, as plain loops, and is what all others are tested against.

// The kernels are `unsafe` as a whole: their contract (the CPU has the instruction set, the task's pointers cover what
// the task says) is stated at the task and the trait, and repeating it at each intrinsic would only hide it.
#![allow(unsafe_op_in_unsafe_fn)]

mod attention;
mod bytes;
mod elementwise;
mod matmul;
mod prefetch;
mod scalar;
mod vector;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16_avx512;
#[cfg(target_arch = "aarch64")]
mod bf16_neon;
#[cfg(target_arch = "x86_64")]
mod bytes_avx2;
#[cfg(target_arch = "x86_64")]
mod bytes_avx512;
#[cfg(target_arch = "aarch64")]
mod bytes_neon;
#[cfg(target_arch = "aarch64")]
mod bytes_neon_dot;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

pub use attention::{Attend, KEY_BLOCK, MAX_QUERIES};
pub use bytes::{Bytes, MultiplyBytes};

use crate::engine::CancelToken;
use crate::model::checkpoint::Element;
use std::ops::Range;

/// `y[t][r]` = sum over k of `w[r][k] * x[t][k]` for `rows` of a row-major matrix. `X` is an activation: f32, or the bits of
/// a bf16.
///
/// The pointers must cover: `weights` the whole matrix, `x` `tokens * columns`, `y` element `t * y_stride + r` for all
/// tokens and rows. Two tasks that run at the same time must not share rows of the same `y`.
#[derive(Clone)]
pub struct Multiply<X = f32> {
    /// Row 0 of the matrix.
    pub weights: *const u8,
    /// Storage of the weights.
    pub element: Element,
    /// Rows to compute.
    pub rows: Range<usize>,
    /// Length of a row.
    pub columns: usize,
    /// Activations, `[tokens][columns]`.
    pub x: *const X,
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
    /// `scalar`, `avx2`, `avx512` or `neon`: which f32 instructions are used, and so which bits f32 results have.
    pub name: &'static str,
    /// Which dot products are used besides, for people: `vnni bf16` and the like, or nothing.
    pub extension: &'static str,
    /// Runs a matrix product of floats; returns early, with results undefined, once the token is cancelled.
    pub multiply: unsafe fn(&Multiply, &CancelToken),
    /// The same for bf16 weights and bf16 activations, if there are instructions for it.
    pub multiply_bf16: Option<unsafe fn(&Multiply<u16>, &CancelToken)>,
    /// The same for quantised weights and activations of 8 bits; equal bits on every set.
    pub multiply_bytes: unsafe fn(&MultiplyBytes, &CancelToken),
    /// `(x, out, count)`: rounds activations to bf16, halves to even.
    pub round_to_bf16: unsafe fn(*const f32, *mut u16, usize),
    /// `(x, columns, out)`: rounds one row of activations to 8 bits, the first token of `out`; equal bits on every set.
    pub round_to_bytes: unsafe fn(*const f32, usize, &Bytes),
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
                if is_x86_feature_detected!("avx512vnni") {
                    if is_x86_feature_detected!("avx512bf16") {
                        sets.push(&avx512::WITH_VNNI_AND_BF16);
                    }
                    sets.push(&avx512::WITH_VNNI);
                }
                sets.push(&avx512::KERNELS);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                sets.push(&avx2::KERNELS);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                if std::arch::is_aarch64_feature_detected!("bf16") {
                    sets.push(&neon::WITH_DOT_AND_BF16);
                }
                sets.push(&neon::WITH_DOT);
            }
            sets.push(&neon::KERNELS);
        }
        sets.push(&scalar::KERNELS);
        sets
    }

    /// The fastest set this processor can run.
    pub fn best() -> &'static Kernels {
        Self::available()[0]
    }

    /// Name and extension, for people.
    pub fn full_name(&self) -> String {
        if self.extension.is_empty() { self.name.to_owned() } else { format!("{} {}", self.name, self.extension) }
    }

    /// The reference set: the same bits on every machine.
    pub fn scalar() -> &'static Kernels {
        &scalar::KERNELS
    }

    /// The fastest set called `name`, if this processor can run it.
    pub fn named(name: &str) -> Option<&'static Kernels> {
        Self::available().into_iter().find(|set| set.name == name)
    }
}

/// Compiles all kernels for one instruction set: the vector type, its target features, and the largest tile its
/// registers hold (rows x tokens, and a smaller number of tokens for what is left over).
macro_rules! kernel_table {
    ($name:literal, $vector:ty, $features:literal, rows: $rows:literal, tokens: $tokens:literal, rest: $rest:literal, bytes: $bytes:ident) => {
        use super::matmul::{self, Fused, InstructionSet, Product, Tile};
        use super::vector::{Bf16, F16, F32};
        use super::{Attend, Bytes, CancelToken, Element, Kernels, Multiply, attention, bytes, elementwise};

        struct Set;

        impl InstructionSet for Set {
            #[inline(always)]
            unsafe fn tile<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
                // Kept out of line: many inlined tiles in one function spill registers.
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn on<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
                    matmul::tile::<P, R, T>(tile)
                }
                on::<P, R, T>(tile)
            }
        }

        unsafe fn multiply(task: &Multiply, cancel: &CancelToken) {
            match task.element {
                Element::Bf16 => matmul::multiply::<Set, Fused<$vector, Bf16>, $rows, $tokens, $rest>(task, cancel),
                Element::F16 => matmul::multiply::<Set, Fused<$vector, F16>, $rows, $tokens, $rest>(task, cancel),
                Element::F32 => matmul::multiply::<Set, Fused<$vector, F32>, $rows, $tokens, $rest>(task, cancel),
                Element::Q8 | Element::Q4 => unreachable!("quantised weights are multiplied by `multiply_bytes`"),
                Element::LowBit => unreachable!("rows in few bits are widened first"),
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn round_to_bytes(x: *const f32, columns: usize, out: &Bytes) {
            bytes::round_to_bytes(x, columns, out)
        }

        #[target_feature(enable = $features)]
        unsafe fn round_to_bf16(x: *const f32, out: *mut u16, count: usize) {
            elementwise::round_to_bf16(x, out, count)
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
        pub(super) static KERNELS: Kernels = TABLE;

        const TABLE: Kernels = Kernels {
            name: $name,
            extension: "",
            multiply,
            multiply_bf16: None,
            multiply_bytes: super::$bytes::multiply_bytes,
            round_to_bf16,
            round_to_bytes,
            attend,
            rms_norm,
            swiglu,
        };
    };
}
use kernel_table;

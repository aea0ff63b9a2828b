//! One SIMD register of f32 as a trait, so that every kernel is written once and compiled for each instruction set.
//! Flows in: raw pointers to weights and activations. Flows out: values in registers and stores through raw pointers.
//!
//! All methods are `inline(always)` and are only ever expanded inside a function that carries the right
//! `#[target_feature]`, so no call boundary is left between the intrinsics.

use crate::model::checkpoint::Element;

/// The widest register any instruction set here has, in f32 lanes.
pub(super) const MAX_LANES: usize = 16;

/// A register of `LANES` f32 values.
///
/// # Safety
/// Every method requires that the CPU has the instruction set of the implementing type, and that pointers are valid
/// for the lanes read or written. Pointers need no alignment beyond that of their element unless stated.
pub(super) trait Vector: Copy {
    /// Values in one register.
    const LANES: usize;

    /// All lanes equal to `value`.
    unsafe fn splat(value: f32) -> Self;
    /// Reads `LANES` f32.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` f32.
    unsafe fn store(self, to: *mut f32);
    /// Reads `LANES` bf16 values (any alignment) and widens them.
    unsafe fn widen_bf16(from: *const u8) -> Self;
    /// Reads `LANES` IEEE half values (any alignment) and widens them.
    unsafe fn widen_f16(from: *const u8) -> Self;
    /// `self * factor + addend`, fused.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lane by lane sum.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane by lane product.
    unsafe fn mul(self, other: Self) -> Self;
    /// Lane by lane quotient.
    unsafe fn div(self, other: Self) -> Self;
    /// Lane by lane maximum.
    unsafe fn max(self, other: Self) -> Self;
    /// Lane by lane minimum.
    unsafe fn min(self, other: Self) -> Self;
    /// Rounded to the nearest whole number, ties to even.
    unsafe fn round(self) -> Self;
    /// 2 to the power of whole-numbered lanes within -126..=127.
    unsafe fn exp2_whole(self) -> Self;
    /// Sum of all lanes, always in the same order.
    unsafe fn sum(self) -> f32;
    /// Largest lane.
    unsafe fn largest(self) -> f32;

    /// The [`Vector::sum`] of every register.
    #[inline(always)]
    unsafe fn sums<const R: usize, const T: usize>(all: &[[Self; T]; R]) -> [[f32; T]; R] {
        let mut sums = [[0.0; T]; R];
        for (sums, row) in sums.iter_mut().zip(all) {
            for (sum, register) in sums.iter_mut().zip(row) {
                *sum = register.sum();
            }
        }
        sums
    }

    /// The first `count` lanes from memory, zero in the others.
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0f32; MAX_LANES];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
        Self::load(lanes.as_ptr())
    }

    /// Writes only the first `count` lanes.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; MAX_LANES];
        self.store(lanes.as_mut_ptr());
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
    }

    /// e to the power of each lane, relative error below 2e-7; inputs below -87 give at least 1.6e-38, never zero.
    ///
    /// Range reduction to |r| <= ln(2)/2 and the degree-5 minimax polynomial of the Cephes library's `expf`.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        let x = self.max(Self::splat(-87.0)).min(Self::splat(88.0));
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(Self::splat(-0.693_359_4), x);
        let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.mul_add(r, Self::splat(coefficient));
        }
        p.mul_add(r.mul(r), r.add(Self::splat(1.0))).mul(n.exp2_whole())
    }
}

/// How one weight is stored in the checkpoint.
///
/// # Safety
/// Rows must hold at least `index + lanes` elements.
pub(super) trait Stored: Copy {
    /// Its name at run time.
    const ELEMENT: Element;
    /// Widens `V::LANES` elements of `row` from element `index`.
    unsafe fn load<V: Vector>(row: *const u8, index: usize) -> V;

    /// Widens `count < V::LANES` elements, zero in the others.
    #[inline(always)]
    unsafe fn load_first<V: Vector>(row: *const u8, index: usize, count: usize) -> V {
        let mut bytes = [0u8; MAX_LANES * 4];
        let from = row.add(Self::ELEMENT.row_bytes(index));
        std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), Self::ELEMENT.row_bytes(count));
        Self::load(bytes.as_ptr(), 0)
    }
}

/// bfloat16 weights.
#[derive(Clone, Copy)]
pub(super) struct Bf16;
/// IEEE half weights.
#[derive(Clone, Copy)]
pub(super) struct F16;
/// Single precision weights.
#[derive(Clone, Copy)]
pub(super) struct F32;
impl Stored for Bf16 {
    const ELEMENT: Element = Element::Bf16;
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, index: usize) -> V {
        V::widen_bf16(row.add(index * 2))
    }
}

impl Stored for F16 {
    const ELEMENT: Element = Element::F16;
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, index: usize) -> V {
        V::widen_f16(row.add(index * 2))
    }
}

impl Stored for F32 {
    const ELEMENT: Element = Element::F32;
    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, index: usize) -> V {
        V::load(row.add(index * 4).cast())
    }
}

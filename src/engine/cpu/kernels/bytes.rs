//! Quantised weights times activations of 8 bits, in whole numbers inside each group of 32.
//! Flows in: blocks of 16 rows as `model::checkpoint::Element` describes them, and activations rounded by
//! [`round_to_bytes`]. Flows out: f32 results.
//!
//! A group's products are summed exactly, then scaled and added to the row's sum with one fused multiply-add, group after
//! group. So every instruction set gives the same bits, for any tile, chunk and number of threads.

use super::CancelToken;
use crate::model::checkpoint::{BLOCK_ROWS, Element, GROUP};
use std::ops::Range;

/// `y[t][r]` = sum over k of `w[r][k] * x[t][k]` for `rows` of a quantised matrix.
///
/// The pointers must cover: `weights` the whole matrix, the activations `tokens * columns` values and as many scales and
/// sums as groups, `y` element `t * y_stride + r` for all tokens and rows. Two tasks that run at the same time must not
/// share rows of the same `y`.
#[derive(Clone)]
pub struct MultiplyBytes {
    /// The first block.
    pub weights: *const u8,
    /// 8 or 4 bits.
    pub element: Element,
    /// Rows to compute; the first is a multiple of [`BLOCK_ROWS`].
    pub rows: Range<usize>,
    /// Length of a row, whole groups.
    pub columns: usize,
    /// Activations of all tokens.
    pub x: Bytes,
    /// Number of tokens.
    pub tokens: usize,
    /// Results, `[tokens][y_stride]`.
    pub y: *mut f32,
    /// Elements between neighbouring tokens' results.
    pub y_stride: usize,
}

/// Activations as whole numbers -127 to 127 with a scale for each group of 32: `[token][column]`, `[token][group]`.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// Whole numbers.
    pub values: *mut i8,
    /// What one of them stands for.
    pub scales: *mut f32,
    /// Sum of a group's whole numbers.
    pub sums: *mut i32,
}

impl Bytes {
    /// The same from the row of `token` on, for rows of `columns`.
    ///
    /// # Safety
    /// The row lies within what the pointers cover.
    pub unsafe fn of_token(&self, token: usize, columns: usize) -> Bytes {
        let groups = token * columns / GROUP;
        Bytes { values: self.values.add(token * columns), scales: self.scales.add(groups), sums: self.sums.add(groups) }
    }
}

/// Values below this are taken as zero, so that the inverse of a scale is finite.
const SMALLEST: f32 = 1e-30;

/// Rounds `columns` activations (whole groups): the largest of a group becomes 127, halves go to even.
#[inline(always)]
pub(super) unsafe fn round_to_bytes(x: *const f32, columns: usize, out: &Bytes) {
    /// Adding it to a number below 2^22 leaves the nearest whole number in the low bits of the sum.
    const WHOLE: f32 = 12_582_912.0;
    for group in 0..columns / GROUP {
        let x = &*x.add(group * GROUP).cast::<[f32; GROUP]>();
        // Without signs, floats order as their bits do.
        let largest = x.iter().fold(0u32, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        let inverse = if largest > SMALLEST { 127.0 / largest } else { 0.0 };
        // Loops, not closures: those would be compiled without the instructions at hand.
        let (mut whole, mut bytes) = ([0i32; GROUP], [0i8; GROUP]);
        for i in 0..GROUP {
            whole[i] = (x[i] * inverse + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits()) as i32;
            bytes[i] = whole[i] as i8;
        }
        *out.values.add(group * GROUP).cast::<[i8; GROUP]>() = bytes;
        *out.scales.add(group) = if largest > SMALLEST { largest / 127.0 } else { 0.0 };
        *out.sums.add(group) = whole.iter().fold(0i32, |sum, whole| sum.wrapping_add(*whole));
    }
}

/// Sixteen rows side by side: one lane a row.
///
/// # Safety
/// As for `vector::Vector`: the CPU has the instructions and pointers cover what is read and written.
pub(super) trait Panel {
    /// Four columns of the sixteen rows, a byte each.
    type Weights: Copy;
    /// Sixteen whole numbers.
    type Whole: Copy;
    /// Sixteen f32.
    type Real: Copy;
    /// What [`Panel::eight_bits`] leaves in each weight beyond its value.
    const EXCESS: i32;

    /// Sixteen times `value`.
    unsafe fn whole(value: i32) -> Self::Whole;
    /// Sixteen zeros.
    unsafe fn zero() -> Self::Real;
    /// Sixteen bf16 scales.
    unsafe fn scales(from: *const u8) -> Self::Real;
    /// 64 weights of 8 bits.
    unsafe fn eight_bits(from: *const u8) -> Self::Weights;
    /// 64 weights of 4 bits in the low halves and 64 in the high halves, 0 to 15.
    unsafe fn four_bits(from: *const u8) -> (Self::Weights, Self::Weights);
    /// Adds four columns of [`Panel::eight_bits`] times the four activations at `x`.
    unsafe fn dot(sum: Self::Whole, weights: Self::Weights, x: *const i8) -> Self::Whole;
    /// Adds four columns of [`Panel::four_bits`] times the four activations at `x`.
    unsafe fn dot_four(sum: Self::Whole, weights: Self::Weights, x: *const i8) -> Self::Whole {
        Self::dot(sum, weights, x)
    }
    /// `sum + whole * (scales * scale)`, the last product and sum fused.
    unsafe fn accumulate(sum: Self::Real, whole: Self::Whole, scales: Self::Real, scale: f32) -> Self::Real;
    /// Writes the first `count` lanes.
    unsafe fn store(sum: Self::Real, to: *mut f32, count: usize);
}

/// Computes `B` blocks of rows, `apart` blocks from each other, the first at `block`, for `T` tokens from `token` on.
#[inline(always)]
pub(super) unsafe fn tile<P: Panel, const FOUR: bool, const B: usize, const T: usize>(
    task: &MultiplyBytes,
    block: usize,
    apart: usize,
    token: usize,
) {
    let (columns, groups) = (task.columns, task.columns / GROUP);
    let block_bytes = BLOCK_ROWS * task.element.row_bytes(columns);
    let group_bytes = if FOUR { GROUP / 2 } else { GROUP } * BLOCK_ROWS;
    let x = task.x.of_token(token, columns);
    let mut sums = [[P::zero(); T]; B];
    for group in 0..groups {
        for (b, sums) in sums.iter_mut().enumerate() {
            let from = task.weights.add((block + b * apart) * block_bytes);
            let weights = from.add(groups * BLOCK_ROWS * 2 + group * group_bytes);
            let excess = if FOUR { 8 } else { P::EXCESS };
            let mut whole = [P::whole(0); T];
            for (t, whole) in whole.iter_mut().enumerate() {
                *whole = P::whole(-excess * *x.sums.add(t * groups + group));
            }
            for step in 0..group_bytes / 64 {
                let at = x.values.add(group * GROUP + step * 4).cast_const();
                if FOUR {
                    let (low, high) = P::four_bits(weights.add(step * 64));
                    for (t, whole) in whole.iter_mut().enumerate() {
                        *whole = P::dot_four(*whole, low, at.add(t * columns));
                        *whole = P::dot_four(*whole, high, at.add(t * columns + GROUP / 2));
                    }
                } else {
                    let weights = P::eight_bits(weights.add(step * 64));
                    for (t, whole) in whole.iter_mut().enumerate() {
                        *whole = P::dot(*whole, weights, at.add(t * columns));
                    }
                }
            }
            let scales = P::scales(from.add(group * BLOCK_ROWS * 2));
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = P::accumulate(*sum, whole[t], scales, *x.scales.add(t * groups + group));
            }
        }
    }
    for (b, sums) in sums.iter().enumerate() {
        let row = (block + b * apart) * BLOCK_ROWS;
        for (t, sum) in sums.iter().enumerate() {
            let to = task.y.add((token + t) * task.y_stride + row);
            P::store(*sum, to, BLOCK_ROWS.min(task.rows.end - row));
        }
    }
}

/// An instruction set: how it runs one tile.
pub(super) trait ByteTiles {
    /// Computes `B` blocks of rows and `T` tokens; see [`tile`].
    ///
    /// # Safety
    /// The CPU has the instruction set and the task's pointers cover its rows, tokens and results.
    unsafe fn tile<const FOUR: bool, const B: usize, const T: usize>(
        task: &MultiplyBytes,
        block: usize,
        apart: usize,
        token: usize,
    );
}

/// Streams of weights read at once while decoding (one alone reaches half the bandwidth; measured).
const STREAMS: usize = 4;
/// Weight bytes read between two looks at the cancel token while decoding.
const STOP_BYTES: usize = 128 * 1024;

/// Computes `task.rows`, looking at `cancel` every few tens of microseconds. `B` blocks x `T` tokens is the largest tile.
#[inline(always)]
pub(super) unsafe fn multiply<I: ByteTiles, const B: usize, const T: usize>(
    task: &MultiplyBytes,
    cancel: &CancelToken,
) {
    match task.element {
        Element::Q4 => blocks::<I, true, B, T>(task, cancel),
        _ => blocks::<I, false, B, T>(task, cancel),
    }
}

unsafe fn blocks<I: ByteTiles, const FOUR: bool, const B: usize, const T: usize>(
    task: &MultiplyBytes,
    cancel: &CancelToken,
) {
    let block_bytes = BLOCK_ROWS * task.element.row_bytes(task.columns);
    let look_every = if task.tokens == 1 { (STOP_BYTES / block_bytes).max(1) } else { B };
    let end = task.rows.end.div_ceil(BLOCK_ROWS);
    let (mut block, mut looked) = (task.rows.start / BLOCK_ROWS, 0);
    if task.tokens == 1 {
        // Bound by memory: blocks far apart are read as streams of their own, which hides where pages end.
        let apart = (end - block) / STREAMS;
        for i in 0..apart {
            if i.is_multiple_of((look_every / STREAMS).max(1)) && cancel.is_cancelled() {
                return;
            }
            I::tile::<FOUR, STREAMS, 1>(task, block + i, apart, 0);
        }
        block += apart * STREAMS;
    }
    while block < end {
        if looked == 0 && cancel.is_cancelled() {
            return;
        }
        let step = if task.tokens > 1 && block + B <= end { B } else { 1 };
        let mut token = 0;
        while token < task.tokens {
            let whole = token + T <= task.tokens;
            match (step == B, whole) {
                (true, true) => I::tile::<FOUR, B, T>(task, block, 1, token),
                (true, false) => I::tile::<FOUR, B, 1>(task, block, 1, token),
                (false, true) => I::tile::<FOUR, 1, T>(task, block, 1, token),
                (false, false) => I::tile::<FOUR, 1, 1>(task, block, 1, token),
            }
            token += if whole { T } else { 1 };
        }
        block += step;
        looked = (looked + step) % look_every;
    }
}

/// Compiles the product for one instruction set: the panel, its target features, and the largest tile its registers hold.
macro_rules! byte_products {
    ($panel:ty, $features:literal, blocks: $blocks:literal, tokens: $tokens:literal) => {
        struct Tiles;

        impl super::bytes::ByteTiles for Tiles {
            #[inline(always)]
            unsafe fn tile<const FOUR: bool, const B: usize, const T: usize>(
                task: &super::MultiplyBytes,
                block: usize,
                apart: usize,
                token: usize,
            ) {
                // Kept out of line: many inlined tiles in one function spill registers.
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn on<const FOUR: bool, const B: usize, const T: usize>(
                    task: &super::MultiplyBytes,
                    block: usize,
                    apart: usize,
                    token: usize,
                ) {
                    super::bytes::tile::<$panel, FOUR, B, T>(task, block, apart, token)
                }
                on::<FOUR, B, T>(task, block, apart, token)
            }
        }

        /// Quantised weights times activations of 8 bits.
        pub(super) unsafe fn multiply_bytes(task: &super::MultiplyBytes, cancel: &super::CancelToken) {
            super::bytes::multiply::<Tiles, $blocks, $tokens>(task, cancel)
        }
    };
}
pub(super) use byte_products;

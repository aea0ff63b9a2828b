//! Quantised weights times activations of 8 bits, in whole numbers inside each group of 32 columns.
//! Flows in: blocks of 16 rows as `model::checkpoint::Element` describes them, and activations rounded by
//! [`round_to_bytes`]. Flows out: f32 results.
//!
//! A group's products are summed exactly, then scaled and added to the row's sum with one fused multiply-add, group after
//! group. So every instruction set gives the same bits, for any tile, chunk and number of threads.

use super::CancelToken;
use super::prefetch::Ahead;
use crate::model::checkpoint::{BLOCK_ROWS, Element, GROUP};
use std::ops::Range;

/// `y[t][r]` = sum over k of `w[r][k] * x[t][k]` for `rows` of a quantised matrix and all tokens of `x`.
///
/// The pointers must cover: `weights` the whole matrix, the activations whole rows of `columns`, `y` element
/// `t * y_stride + r` for all tokens and rows. Two tasks that run at the same time must not share rows of the same `y`.
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
    /// Results, `[tokens][y_stride]`.
    pub y: *mut f32,
    /// Elements between neighbouring tokens' results.
    pub y_stride: usize,
}

/// Activations as whole numbers -127 to 127 with a scale for each group of 32. All tokens of a group lie side by side, so
/// that a product that takes a few groups at a time finds its part in one place.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// Whole numbers, `[group][token][column of the group]`.
    pub values: *mut i8,
    /// What one of them stands for, `[group][token]`.
    pub scales: *mut f32,
    /// Minus the sum of a group's whole numbers, `[group][token]`: takes back what weights stored without sign add.
    pub minus_sums: *mut i32,
    /// Tokens.
    pub tokens: usize,
}

impl Bytes {
    /// The same from `token` and `group` on.
    ///
    /// # Safety
    /// The token and the group are within what the pointers cover.
    #[inline(always)]
    pub unsafe fn from(&self, token: usize, group: usize) -> Bytes {
        let at = group * self.tokens + token;
        Bytes {
            values: self.values.add(at * GROUP),
            scales: self.scales.add(at),
            minus_sums: self.minus_sums.add(at),
            tokens: self.tokens,
        }
    }
}

/// Values below this are taken as zero, so that the inverse of a scale is finite.
const SMALLEST: f32 = 1e-30;

/// Rounds `columns` activations (whole groups) of the first token of `out`: the largest of a group becomes 127, halves go to
/// even.
#[inline(always)]
pub(super) unsafe fn round_to_bytes(x: *const f32, columns: usize, out: &Bytes) {
    /// Adding it to a number below 2^22 leaves the nearest whole number in the low bits of the sum.
    const WHOLE: f32 = 12_582_912.0;
    for group in 0..columns / GROUP {
        let x = &*x.add(group * GROUP).cast::<[f32; GROUP]>();
        let out = out.from(0, group);
        // Loops, not closures: those would be compiled without the instructions at hand. Without signs, floats order as
        // their bits do.
        let mut largest = 0u32;
        for x in x {
            largest = largest.max(x.to_bits() & 0x7fff_ffff);
        }
        let largest = f32::from_bits(largest);
        let inverse = if largest > SMALLEST { 127.0 / largest } else { 0.0 };
        let (mut bytes, mut minus_sum) = ([0i8; GROUP], 0i32);
        for i in 0..GROUP {
            let whole = (x[i] * inverse + WHOLE).to_bits().wrapping_sub(WHOLE.to_bits()) as i32;
            bytes[i] = whole as i8;
            minus_sum = minus_sum.wrapping_sub(whole);
        }
        *out.values.cast::<[i8; GROUP]>() = bytes;
        *out.scales = if largest > SMALLEST { largest / 127.0 } else { 0.0 };
        *out.minus_sums = minus_sum;
    }
}

/// Sixteen rows side by side: one lane a row.
///
/// # Safety
/// As for `vector::Vector`: the CPU has the instructions and pointers cover what is read and written.
pub(super) trait Panel {
    /// Four columns of the sixteen rows, a byte each.
    type Weights: Copy;
    /// Four activations, for every row the same.
    type Activations: Copy;
    /// Sixteen whole numbers.
    type Whole: Copy;
    /// Sixteen f32.
    type Real: Copy;

    /// What a group's sum begins with, so that the excess of its stored weights over their values (8 for 4 bits, what
    /// [`Panel::eight_bits`] leaves of 128 otherwise) is taken back.
    unsafe fn start<const FOUR: bool>(minus_sum: *const i32) -> Self::Whole;
    /// Sixteen zeros.
    unsafe fn zero() -> Self::Real;
    /// Sixteen f32 from memory.
    unsafe fn load(from: *const f32) -> Self::Real;
    /// Sixteen bf16 scales.
    unsafe fn scales(from: *const u8) -> Self::Real;
    /// 64 weights of 8 bits.
    unsafe fn eight_bits(from: *const u8) -> Self::Weights;
    /// 64 weights of 4 bits in the low halves of the bytes, 0 to 15.
    unsafe fn low_bits(from: *const u8) -> Self::Weights;
    /// 64 weights of 4 bits in the high halves of the bytes, 0 to 15.
    unsafe fn high_bits(from: *const u8) -> Self::Weights;
    /// The four activations at `x`.
    unsafe fn activations(x: *const i8) -> Self::Activations;
    /// Adds four columns of [`Panel::eight_bits`] times four activations.
    unsafe fn dot(sum: Self::Whole, weights: Self::Weights, x: Self::Activations) -> Self::Whole;
    /// Adds four columns of 4 bits times four activations.
    unsafe fn dot_four(sum: Self::Whole, weights: Self::Weights, x: Self::Activations) -> Self::Whole {
        Self::dot(sum, weights, x)
    }
    /// `scales * scale`.
    unsafe fn scaled(scales: Self::Real, scale: f32) -> Self::Real;
    /// `sum + whole * scales`, fused.
    unsafe fn accumulate(sum: Self::Real, whole: Self::Whole, scales: Self::Real) -> Self::Real;
    /// Writes the first `count` lanes.
    unsafe fn store(sum: Self::Real, to: *mut f32, count: usize);
}

/// 8 or 4 bits.
const fn element(four: bool) -> Element {
    if four { Element::Q4 } else { Element::Q8 }
}

/// One group of `B` blocks times `T` tokens, in whole numbers. `weights` are those of the first block's group, the next block is
/// `block_bytes` further on; `x` begins with the first token's group.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // weights, activations and sums are walked in step
unsafe fn products<P: Panel, const FOUR: bool, const B: usize, const T: usize>(
    weights: *const u8,
    block_bytes: usize,
    x: &Bytes,
) -> [[P::Whole; T]; B] {
    let mut whole = [[P::start::<FOUR>(x.minus_sums); T]; B];
    for t in 1..T {
        let start = P::start::<FOUR>(x.minus_sums.add(t));
        for whole in &mut whole {
            whole[t] = start;
        }
    }
    // Each activation is broadcast once for all blocks: the loads of this loop are what limits it.
    for step in 0..element(FOUR).group_bytes() / 64 {
        let from = weights.add(step * 64);
        let x = x.values.add(step * 4).cast_const();
        if FOUR {
            let mut w = [P::low_bits(from); B];
            for (b, w) in w.iter_mut().enumerate().skip(1) {
                *w = P::low_bits(from.add(b * block_bytes));
            }
            for t in 0..T {
                let x = P::activations(x.add(t * GROUP));
                for b in 0..B {
                    whole[b][t] = P::dot_four(whole[b][t], w[b], x);
                }
            }
            for (b, w) in w.iter_mut().enumerate() {
                *w = P::high_bits(from.add(b * block_bytes));
            }
            for t in 0..T {
                let x = P::activations(x.add(t * GROUP + GROUP / 2));
                for b in 0..B {
                    whole[b][t] = P::dot_four(whole[b][t], w[b], x);
                }
            }
        } else {
            let mut w = [P::eight_bits(from); B];
            for (b, w) in w.iter_mut().enumerate().skip(1) {
                *w = P::eight_bits(from.add(b * block_bytes));
            }
            for t in 0..T {
                let x = P::activations(x.add(t * GROUP));
                for b in 0..B {
                    whole[b][t] = P::dot(whole[b][t], w[b], x);
                }
            }
        }
    }
    whole
}

/// A run of groups of some neighbouring blocks, times some tokens.
pub(super) struct Part<'a> {
    /// The whole product.
    task: &'a MultiplyBytes,
    /// First block of rows.
    block: usize,
    /// First token.
    token: usize,
    /// The groups.
    groups: Range<usize>,
    /// `[token][block][row]`: sums of the groups before, and where the sums go if more groups follow.
    sums: *mut f32,
}

/// Computes a part for `B` blocks and `T` tokens.
#[inline(always)]
pub(super) unsafe fn tile<P: Panel, const FOUR: bool, const B: usize, const T: usize>(part: &Part) {
    let (task, all) = (part.task, part.task.columns / GROUP);
    let block_bytes = BLOCK_ROWS * element(FOUR).row_bytes(task.columns);
    let first = task.weights.add(part.block * block_bytes);
    let mut sums = [[P::zero(); T]; B];
    if part.groups.start > 0 {
        for (b, sums) in sums.iter_mut().enumerate() {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = P::load(part.sums.add((t * B + b) * BLOCK_ROWS));
            }
        }
    }
    for group in part.groups.start..part.groups.end {
        let ((scales, weights), x) = (element(FOUR).group_at(task.columns, group), task.x.from(part.token, group));
        let whole = products::<P, FOUR, B, T>(first.add(weights), block_bytes, &x);
        for (b, sums) in sums.iter_mut().enumerate() {
            let scales = P::scales(first.add(b * block_bytes + scales));
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = P::accumulate(*sum, whole[b][t], P::scaled(scales, *x.scales.add(t)));
            }
        }
    }
    for (b, sums) in sums.iter().enumerate() {
        let row = (part.block + b) * BLOCK_ROWS;
        for (t, sum) in sums.iter().enumerate() {
            if part.groups.end < all {
                P::store(*sum, part.sums.add((t * B + b) * BLOCK_ROWS), BLOCK_ROWS);
            } else {
                let to = task.y.add((part.token + t) * task.y_stride + row);
                P::store(*sum, to, BLOCK_ROWS.min(task.rows.end - row));
            }
        }
    }
}

/// Computes one block for the only token. This is bound by memory, and the processor fetches ahead best where it sees one
/// linear stream, as a block is. (Several streams, scales apart from weights, and hints to fetch ahead reach 60 to 90 % of its
/// speed; measured.)
#[inline(always)]
pub(super) unsafe fn row_block<P: Panel, const FOUR: bool>(task: &MultiplyBytes, block: usize) {
    let all = task.columns / GROUP;
    let first = task.weights.add(block * BLOCK_ROWS * element(FOUR).row_bytes(task.columns));
    let mut sum = P::zero();
    for group in 0..all {
        let ((scales, weights), x) = (element(FOUR).group_at(task.columns, group), task.x.from(0, group));
        let whole = products::<P, FOUR, 1, 1>(first.add(weights), 0, &x);
        sum = P::accumulate(sum, whole[0][0], P::scaled(P::scales(first.add(scales)), *x.scales));
    }
    let row = block * BLOCK_ROWS;
    P::store(sum, task.y.add(row), BLOCK_ROWS.min(task.rows.end - row));
}

/// An instruction set: how it runs one tile.
pub(super) trait ByteTiles {
    /// Computes `B` blocks of rows and `T` tokens; see [`tile`].
    ///
    /// # Safety
    /// The CPU has the instruction set and the task's pointers cover its rows, tokens and results.
    unsafe fn tile<const FOUR: bool, const B: usize, const T: usize>(part: &Part);
    /// Computes one block for one token; see [`row_block`].
    ///
    /// # Safety
    /// As for [`ByteTiles::tile`].
    unsafe fn row_block<const FOUR: bool>(task: &MultiplyBytes, block: usize);
}

/// Weight bytes read between two looks at the cancel token while decoding.
const STOP_BYTES: usize = 128 * 1024;
/// Tokens whose sums are kept from one run of groups to the next.
const BATCH: usize = 64;
/// Groups in a run: their weights and a batch's activations and sums fit the first-level cache together.
const RUN: usize = 4;
/// Most blocks of a tile.
const MOST_BLOCKS: usize = 2;

/// Sums of a batch, on cache lines of their own.
#[repr(align(64))]
struct Sums([f32; BATCH * MOST_BLOCKS * BLOCK_ROWS]);

/// Computes `task.rows`, looking at `cancel` every few tens of microseconds. `B` blocks x `T` tokens is the largest tile, `H` a
/// smaller number of tokens for what is left.
#[inline(always)]
pub(super) unsafe fn multiply<I: ByteTiles, const B: usize, const T: usize, const H: usize>(
    task: &MultiplyBytes,
    cancel: &CancelToken,
) {
    match (task.element == Element::Q4, task.x.tokens == 1) {
        (true, true) => one_token::<I, true>(task, cancel),
        (false, true) => one_token::<I, false>(task, cancel),
        (true, false) => many_tokens::<I, true, B, T, H>(task, cancel),
        (false, false) => many_tokens::<I, false, B, T, H>(task, cancel),
    }
}

unsafe fn one_token<I: ByteTiles, const FOUR: bool>(task: &MultiplyBytes, cancel: &CancelToken) {
    let block_bytes = BLOCK_ROWS * task.element.row_bytes(task.columns);
    let look_every = (STOP_BYTES / block_bytes).max(1);
    let (start, end) = (task.rows.start / BLOCK_ROWS, task.rows.end.div_ceil(BLOCK_ROWS));
    for block in start..end {
        if (block - start).is_multiple_of(look_every) && cancel.is_cancelled() {
            return;
        }
        I::row_block::<FOUR>(task, block);
    }
}

unsafe fn many_tokens<I: ByteTiles, const FOUR: bool, const B: usize, const T: usize, const H: usize>(
    task: &MultiplyBytes,
    cancel: &CancelToken,
) {
    let block_bytes = BLOCK_ROWS * task.element.row_bytes(task.columns);
    let (mut block, end) = (task.rows.start / BLOCK_ROWS, task.rows.end.div_ceil(BLOCK_ROWS));
    let mut sums = Sums([0.0; BATCH * MOST_BLOCKS * BLOCK_ROWS]);
    let tiles = task.x.tokens.div_ceil(T) * (task.columns / GROUP).div_ceil(RUN);
    while block < end {
        let blocks = if block + B <= end { B } else { 1 };
        let next = task.weights.wrapping_add((block + blocks) * block_bytes);
        // The next blocks come from memory while these are multiplied.
        let mut ahead = Ahead::new(next, blocks * block_bytes, tiles);
        for first in (0..task.x.tokens).step_by(BATCH) {
            let tokens = first..(first + BATCH).min(task.x.tokens);
            for group in (0..task.columns / GROUP).step_by(RUN) {
                if cancel.is_cancelled() {
                    return;
                }
                let groups = group..(group + RUN).min(task.columns / GROUP);
                let mut part = Part { task, block, token: first, groups, sums: sums.0.as_mut_ptr() };
                if blocks == B {
                    run_of_groups::<I, FOUR, B, T, H>(&mut part, tokens.end, &mut ahead);
                } else {
                    run_of_groups::<I, FOUR, 1, T, H>(&mut part, tokens.end, &mut ahead);
                }
            }
        }
        block += blocks;
    }
}

/// All tokens from the part's first to `end`.
unsafe fn run_of_groups<I: ByteTiles, const FOUR: bool, const B: usize, const T: usize, const H: usize>(
    part: &mut Part,
    end: usize,
    ahead: &mut Ahead,
) {
    while part.token < end {
        ahead.step();
        let left = end - part.token;
        let tokens = if left >= T {
            I::tile::<FOUR, B, T>(part);
            T
        } else if left >= H {
            I::tile::<FOUR, B, H>(part);
            H
        } else {
            I::tile::<FOUR, B, 1>(part);
            1
        };
        part.token += tokens;
        part.sums = part.sums.add(tokens * B * BLOCK_ROWS);
    }
}

/// Compiles the product for one instruction set: the panel, its target features, and the largest tile its registers hold.
macro_rules! byte_products {
    ($panel:ty, $features:literal, blocks: $blocks:literal, tokens: $tokens:literal, rest: $rest:literal) => {
        struct Tiles;

        // Kept out of line: many inlined tiles in one function spill registers.
        impl super::bytes::ByteTiles for Tiles {
            #[inline(always)]
            unsafe fn tile<const FOUR: bool, const B: usize, const T: usize>(part: &super::bytes::Part) {
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn on<const FOUR: bool, const B: usize, const T: usize>(part: &super::bytes::Part) {
                    super::bytes::tile::<$panel, FOUR, B, T>(part)
                }
                on::<FOUR, B, T>(part)
            }
            #[inline(always)]
            unsafe fn row_block<const FOUR: bool>(task: &super::MultiplyBytes, block: usize) {
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn on<const FOUR: bool>(task: &super::MultiplyBytes, block: usize) {
                    super::bytes::row_block::<$panel, FOUR>(task, block)
                }
                on::<FOUR>(task, block)
            }
        }

        /// Quantised weights times activations of 8 bits.
        pub(super) unsafe fn multiply_bytes(task: &super::MultiplyBytes, cancel: &super::CancelToken) {
            super::bytes::multiply::<Tiles, $blocks, $tokens, $rest>(task, cancel)
        }
    };
}
pub(super) use byte_products;

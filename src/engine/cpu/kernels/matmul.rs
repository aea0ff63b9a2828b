//! Weights times activations: y[t][r] = sum over k of w[r][k] * x[t][k], for a range of rows.
//! Flows in: checkpoint rows as stored (bf16, f16, f32, 8 or 4 bits) and f32 activations. Flows out: f32 results.
//!
//! Every result is one chain of fused multiply-adds per lane over k and one fixed reduction, whatever the tile it is
//! computed in. So logits do not depend on how a prompt is cut into chunks, on the number of threads, or on whether a
//! token was prefilled or decoded: they are equal bit for bit.

use super::vector::{Stored, Vector};
use super::{CancelToken, Multiply};
use std::marker::PhantomData;

/// How one register's worth of products is added to a sum: which weights, which activations, which instruction.
///
/// # Safety
/// As for [`Vector`]: the CPU has the instructions and pointers cover what is read.
pub(super) trait Product {
    /// One activation.
    type X;
    /// A register of partial sums.
    type Sum: Vector;
    /// A register of weights or activations, `LANES` of them.
    type Factor: Copy;
    /// Weights in one register.
    const LANES: usize;

    /// Bytes of a row of weights.
    fn row_bytes(columns: usize) -> usize;
    /// Activations from `from` on.
    unsafe fn activations(from: *const Self::X) -> Self::Factor;
    /// The first `count` activations, zero in the other lanes.
    unsafe fn first_activations(from: *const Self::X, count: usize) -> Self::Factor;
    /// Weights of `row` from `index` on.
    unsafe fn weights(row: *const u8, index: usize) -> Self::Factor;
    /// The first `count` weights of `row` from `index` on, zero in the other lanes.
    unsafe fn first_weights(row: *const u8, index: usize, count: usize) -> Self::Factor;
    /// Adds the products to the sum.
    unsafe fn add(sum: Self::Sum, weights: Self::Factor, activations: Self::Factor) -> Self::Sum;
}

/// Fused multiply-adds of f32 with weights stored as `E`.
pub(super) struct Fused<V, E>(PhantomData<(V, E)>);

impl<V: Vector, E: Stored> Product for Fused<V, E> {
    type X = f32;
    type Sum = V;
    type Factor = V;
    const LANES: usize = V::LANES;

    fn row_bytes(columns: usize) -> usize {
        E::ELEMENT.row_bytes(columns)
    }
    #[inline(always)]
    unsafe fn activations(from: *const f32) -> V {
        V::load(from)
    }
    #[inline(always)]
    unsafe fn first_activations(from: *const f32, count: usize) -> V {
        V::load_first(from, count)
    }
    #[inline(always)]
    unsafe fn weights(row: *const u8, index: usize) -> V {
        E::load(row, index)
    }
    #[inline(always)]
    unsafe fn first_weights(row: *const u8, index: usize, count: usize) -> V {
        E::load_first(row, index, count)
    }
    #[inline(always)]
    unsafe fn add(sum: V, weights: V, activations: V) -> V {
        weights.mul_add(activations, sum)
    }
}

/// `R` rows times `T` tokens computed together.
pub(super) struct Tile<X> {
    /// First row.
    pub weights: *const u8,
    /// Bytes from one of the tile's rows to the next.
    pub row_step: usize,
    /// First token's activations; tokens are `columns` apart.
    pub x: *const X,
    /// Length of a row.
    pub columns: usize,
    /// Where row 0 of token 0 goes.
    pub y: *mut f32,
    /// Elements between results of neighbouring rows of the tile.
    pub y_row_step: usize,
    /// Elements between results of neighbouring tokens.
    pub y_stride: usize,
}

/// An instruction set: how it runs one tile.
pub(super) trait InstructionSet {
    /// Computes one tile of `R` rows and `T` tokens.
    ///
    /// # Safety
    /// The CPU has the instruction set and the tile's pointers cover its rows, tokens and results.
    unsafe fn tile<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>);
}

/// The body of every tile.
#[inline(always)]
pub(super) unsafe fn tile<P: Product, const R: usize, const T: usize>(tile: &Tile<P::X>) {
    let columns = tile.columns;
    let mut sums = [[P::Sum::splat(0.0); T]; R];
    let whole = columns / P::LANES * P::LANES;
    let mut k = 0;
    while k < whole {
        // A closure here would be compiled without the tile's instructions.
        let mut x = [P::activations(tile.x.add(k)); T];
        for (t, x) in x.iter_mut().enumerate().skip(1) {
            *x = P::activations(tile.x.add(t * columns + k));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let w = P::weights(tile.weights.add(r * tile.row_step), k);
            for t in 0..T {
                sums[t] = P::add(sums[t], w, x[t]);
            }
        }
        k += P::LANES;
    }
    if k < columns {
        let rest = columns - k;
        for t in 0..T {
            let x = P::first_activations(tile.x.add(t * columns + k), rest);
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = P::first_weights(tile.weights.add(r * tile.row_step), k, rest);
                sums[t] = P::add(sums[t], w, x);
            }
        }
    }
    let sums = P::Sum::sums(&sums);
    for (r, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            *tile.y.add(t * tile.y_stride + r * tile.y_row_step) = *sum;
        }
    }
}

/// Rows decoded as separate sequential streams (adjacent rows reach half the bandwidth; measured).
const STREAMS: usize = 8;
/// Weight bytes kept in the second-level cache while the tokens pass over them.
const BLOCK_BYTES: usize = 192 * 1024;
/// Most row bytes computed between two looks at the cancel token.
const STOP_BYTES: usize = 128 * 1024;

/// Computes `task.rows`, looking at `cancel` every few tens of microseconds. `R` x `T` is the largest tile, `H` a
/// smaller number of tokens for what is left.
pub(super) unsafe fn multiply<I, P, const R: usize, const T: usize, const H: usize>(
    task: &Multiply<P::X>,
    cancel: &CancelToken,
) where
    I: InstructionSet,
    P: Product,
{
    if task.tokens == 1 { one_token::<I, P>(task, cancel) } else { many_tokens::<I, P, R, T, H>(task, cancel) }
}

/// Decode: bound by memory, so `STREAMS` far-apart rows advance together.
unsafe fn one_token<I: InstructionSet, P: Product>(task: &Multiply<P::X>, cancel: &CancelToken) {
    let row_bytes = P::row_bytes(task.columns);
    let per_stream = task.rows.len() / STREAMS;
    let look_every = (STOP_BYTES / (STREAMS * row_bytes)).max(1);
    for i in 0..per_stream {
        if i % look_every == 0 && cancel.is_cancelled() {
            return;
        }
        let row = task.rows.start + i;
        I::tile::<P, STREAMS, 1>(&tile_at(task, row, row_bytes, per_stream, 0));
    }
    for row in task.rows.start + per_stream * STREAMS..task.rows.end {
        I::tile::<P, 1, 1>(&tile_at(task, row, row_bytes, 1, 0));
    }
}

/// Prefill: bound by arithmetic, so blocks of rows stay in cache while tiles of tokens pass over them.
unsafe fn many_tokens<I, P, const R: usize, const T: usize, const H: usize>(task: &Multiply<P::X>, cancel: &CancelToken)
where
    I: InstructionSet,
    P: Product,
{
    let row_bytes = P::row_bytes(task.columns);
    let block = (BLOCK_BYTES / row_bytes).max(R) / R * R;
    let mut start = task.rows.start;
    while start < task.rows.end {
        let end = (start + block).min(task.rows.end);
        let mut token = 0;
        while token < task.tokens {
            if cancel.is_cancelled() {
                return;
            }
            let left = task.tokens - token;
            token += if left >= T {
                rows_of_block::<I, P, R, T>(task, start, end, token)
            } else if left >= H {
                rows_of_block::<I, P, R, H>(task, start, end, token)
            } else {
                rows_of_block::<I, P, R, 1>(task, start, end, token)
            };
        }
        start = end;
    }
}

/// All rows of one block for `T` tokens; returns `T`.
unsafe fn rows_of_block<I, P, const R: usize, const T: usize>(
    task: &Multiply<P::X>,
    start: usize,
    end: usize,
    token: usize,
) -> usize
where
    I: InstructionSet,
    P: Product,
{
    let row_bytes = P::row_bytes(task.columns);
    let mut row = start;
    while row + R <= end {
        I::tile::<P, R, T>(&tile_at(task, row, row_bytes, 1, token));
        row += R;
    }
    while row < end {
        I::tile::<P, 1, T>(&tile_at(task, row, row_bytes, 1, token));
        row += 1;
    }
    T
}

#[inline(always)]
unsafe fn tile_at<X>(task: &Multiply<X>, row: usize, row_bytes: usize, row_step: usize, token: usize) -> Tile<X> {
    Tile {
        weights: task.weights.add(row * row_bytes),
        row_step: row_step * row_bytes,
        x: task.x.add(token * task.columns),
        columns: task.columns,
        y: task.y.add(token * task.y_stride + row),
        y_row_step: row_step,
        y_stride: task.y_stride,
    }
}

//! Weights times activations: y[t][r] = sum over k of w[r][k] * x[t][k], for a range of rows.
//! Flows in: checkpoint rows as stored (bf16, f16, f32, 8 or 4 bits) and f32 activations. Flows out: f32 results.
//!
//! Every result is one chain of fused multiply-adds per lane over k and one fixed reduction, whatever the tile it is
//! computed in. So logits do not depend on how a prompt is cut into chunks, on the number of threads, or on whether a
//! token was prefilled or decoded: they are equal bit for bit.

use super::prefetch::{Ahead, LINE, fetch};
use super::vector::{Stored, Vector};
use super::{CancelToken, Multiply};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

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

/// `R` rows times `T` tokens computed together, over a run of their columns.
pub(super) struct Tile<X> {
    /// First row.
    pub weights: *const u8,
    /// Bytes from one of the tile's rows to the next.
    pub row_step: usize,
    /// First token's activations; tokens are `columns` apart.
    pub x: *const X,
    /// Length of a row.
    pub columns: usize,
    /// The run: whole registers, unless it is the last.
    pub run: Range<usize>,
    /// Registers of sums, `[row][token]`: those of the runs before, and where they go if more runs follow.
    pub sums: *mut f32,
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
    if tile.run.start > 0 {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = P::Sum::load(tile.sums.add((r * T + t) * P::Sum::LANES));
            }
        }
    }
    let whole = tile.run.start + tile.run.len() / P::LANES * P::LANES;
    let mut k = tile.run.start;
    while k < whole {
        if R == STREAMS && k.is_multiple_of(LINE / P::row_bytes(1)) {
            for r in 0..R {
                fetch(tile.weights.wrapping_add(r * tile.row_step + P::row_bytes(k) + AHEAD_BYTES));
            }
        }
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
    if tile.run.end < columns {
        for (r, sums) in sums.iter().enumerate() {
            for (t, sum) in sums.iter().enumerate() {
                sum.store(tile.sums.add((r * T + t) * P::Sum::LANES));
            }
        }
        return;
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

/// Rows decoded together, far apart: separate sequential streams. (Adjacent rows reach half the bandwidth; one row after another
/// as much as these on an idle machine, a fifth less on a busy one; measured.)
const STREAMS: usize = 8;
/// How far ahead of the products weights of a stream are fetched.
const AHEAD_BYTES: usize = 256;
/// Weight bytes kept in the second-level cache while the tokens pass over them.
const BLOCK_BYTES: usize = 384 * 1024;
/// Columns of a run: the activations of one tile's tokens stay in the first-level cache while rows pass over them.
const RUN: usize = 1024;
/// Room for the sums of a block's rows between two runs, in f32.
const SUMS: usize = 4096;
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
    let (whole, none) = (0..task.columns, std::ptr::null_mut());
    let per_stream = task.rows.len() / STREAMS;
    let look_every = (STOP_BYTES / (STREAMS * row_bytes)).max(1);
    for i in 0..per_stream {
        if i % look_every == 0 && cancel.is_cancelled() {
            return;
        }
        I::tile::<P, STREAMS, 1>(&tile_at(task, task.rows.start + i, per_stream, 0, &whole, none));
    }
    for row in task.rows.start + per_stream * STREAMS..task.rows.end {
        I::tile::<P, 1, 1>(&tile_at(task, row, 1, 0, &whole, none));
    }
}

/// Sums between two runs, on cache lines of their own.
#[repr(align(64))]
struct Sums([MaybeUninit<f32>; SUMS]);

/// Some rows whose weights stay in cache while all tokens pass over them, run by run.
struct Block {
    rows: Range<usize>,
    /// Columns of a run.
    run: usize,
    sums: *mut f32,
}

/// Prefill: bound by arithmetic, so blocks of rows stay in cache while tiles of tokens pass over them.
unsafe fn many_tokens<I, P, const R: usize, const T: usize, const H: usize>(task: &Multiply<P::X>, cancel: &CancelToken)
where
    I: InstructionSet,
    P: Product,
{
    let row_bytes = P::row_bytes(task.columns);
    let runs = task.columns.div_ceil(RUN).max(1);
    let run = task.columns.div_ceil(runs).next_multiple_of(P::LANES);
    let fit = if runs == 1 { usize::MAX } else { SUMS / (T * P::Sum::LANES) / R * R };
    let most = (BLOCK_BYTES / row_bytes).min(fit).max(R);
    // Blocks of about the same size.
    let blocks = task.rows.len().div_ceil(most).max(1);
    let each = task.rows.len().div_ceil(blocks).next_multiple_of(R);
    let mut sums = Sums([MaybeUninit::uninit(); SUMS]);
    let mut start = task.rows.start;
    while start < task.rows.end {
        let rows = start..(start + each).min(task.rows.end);
        let next = task.weights.wrapping_add(rows.end * row_bytes);
        // The next block comes from memory while this one is multiplied.
        let mut ahead = Ahead::new(next, rows.len() * row_bytes, task.tokens.div_ceil(T) * rows.len().div_ceil(R));
        let block = Block { rows, run, sums: sums.0.as_mut_ptr().cast() };
        let mut token = 0;
        while token < task.tokens {
            if cancel.is_cancelled() {
                return;
            }
            let left = task.tokens - token;
            token += if left >= T {
                rows_of_block::<I, P, R, T>(task, &block, token, &mut ahead)
            } else if left >= H {
                rows_of_block::<I, P, R, H>(task, &block, token, &mut ahead)
            } else {
                rows_of_block::<I, P, R, 1>(task, &block, token, &mut ahead)
            };
        }
        start = block.rows.end;
    }
}

/// All rows of one block for `T` tokens; returns `T`.
unsafe fn rows_of_block<I, P, const R: usize, const T: usize>(
    task: &Multiply<P::X>,
    block: &Block,
    token: usize,
    ahead: &mut Ahead,
) -> usize
where
    I: InstructionSet,
    P: Product,
{
    let mut column = 0;
    loop {
        let run = column..(column + block.run).min(task.columns);
        let (mut row, mut sums) = (block.rows.start, block.sums);
        while row + R <= block.rows.end {
            if column == 0 {
                ahead.step();
            }
            I::tile::<P, R, T>(&tile_at(task, row, 1, token, &run, sums));
            row += R;
            sums = sums.wrapping_add(R * T * P::Sum::LANES);
        }
        while row < block.rows.end {
            I::tile::<P, 1, T>(&tile_at(task, row, 1, token, &run, sums));
            row += 1;
            sums = sums.wrapping_add(T * P::Sum::LANES);
        }
        column = run.end;
        if column >= task.columns {
            return T;
        }
    }
}

#[inline(always)]
unsafe fn tile_at<X>(
    task: &Multiply<X>,
    row: usize,
    row_step: usize,
    token: usize,
    run: &Range<usize>,
    sums: *mut f32,
) -> Tile<X> {
    let row_bytes = task.element.row_bytes(task.columns);
    Tile {
        weights: task.weights.add(row * row_bytes),
        row_step: row_step * row_bytes,
        x: task.x.add(token * task.columns),
        columns: task.columns,
        run: run.start..run.end,
        sums,
        y: task.y.add(token * task.y_stride + row),
        y_row_step: row_step,
        y_stride: task.y_stride,
    }
}

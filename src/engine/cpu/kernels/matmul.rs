//! Weights times activations: y[t][r] = sum over k of w[r][k] * x[t][k], for a range of rows.
//! Flows in: checkpoint rows as stored (bf16, f16, f32, 8 or 4 bits) and f32 activations. Flows out: f32 results.
//!
//! Every result is one chain of fused multiply-adds per lane over k and one fixed reduction, whatever the tile it is
//! computed in. So logits do not depend on how a prompt is cut into chunks, on the number of threads, or on whether a
//! token was prefilled or decoded: they are equal bit for bit.

use super::vector::{Stored, Vector};
use super::{CancelToken, Multiply};

/// `R` rows times `T` tokens computed together.
pub(super) struct Tile {
    /// First row.
    pub weights: *const u8,
    /// Bytes from one of the tile's rows to the next.
    pub row_step: usize,
    /// First token's activations; tokens are `columns` apart.
    pub x: *const f32,
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
    unsafe fn tile<E: Stored, const R: usize, const T: usize>(tile: &Tile);
}

/// The body of every tile.
#[inline(always)]
pub(super) unsafe fn tile<V: Vector, E: Stored, const R: usize, const T: usize>(tile: &Tile) {
    let columns = tile.columns;
    let mut sums = [[V::splat(0.0); T]; R];
    let whole = columns / V::LANES * V::LANES;
    let mut k = 0;
    while k < whole {
        let mut x = [V::splat(0.0); T];
        for (t, x) in x.iter_mut().enumerate() {
            *x = V::load(tile.x.add(t * columns + k));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let w = E::load::<V>(tile.weights.add(r * tile.row_step), k);
            for t in 0..T {
                sums[t] = w.mul_add(x[t], sums[t]);
            }
        }
        k += V::LANES;
    }
    if k < columns {
        let rest = columns - k;
        for t in 0..T {
            let x = V::load_first(tile.x.add(t * columns + k), rest);
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = E::load_first::<V>(tile.weights.add(r * tile.row_step), k, rest);
                sums[t] = w.mul_add(x, sums[t]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            *tile.y.add(t * tile.y_stride + r * tile.y_row_step) = sum.sum();
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
pub(super) unsafe fn multiply<I, E, const R: usize, const T: usize, const H: usize>(
    task: &Multiply,
    cancel: &CancelToken,
) where
    I: InstructionSet,
    E: Stored,
{
    if task.tokens == 1 { one_token::<I, E>(task, cancel) } else { many_tokens::<I, E, R, T, H>(task, cancel) }
}

/// Decode: bound by memory, so `STREAMS` far-apart rows advance together.
unsafe fn one_token<I: InstructionSet, E: Stored>(task: &Multiply, cancel: &CancelToken) {
    let row_bytes = E::ELEMENT.row_bytes(task.columns);
    let per_stream = task.rows.len() / STREAMS;
    let look_every = (STOP_BYTES / (STREAMS * row_bytes)).max(1);
    for i in 0..per_stream {
        if i % look_every == 0 && cancel.is_cancelled() {
            return;
        }
        let row = task.rows.start + i;
        I::tile::<E, STREAMS, 1>(&tile_at(task, row, row_bytes, per_stream, 0));
    }
    for row in task.rows.start + per_stream * STREAMS..task.rows.end {
        I::tile::<E, 1, 1>(&tile_at(task, row, row_bytes, 1, 0));
    }
}

/// Prefill: bound by arithmetic, so blocks of rows stay in cache while tiles of tokens pass over them.
unsafe fn many_tokens<I, E, const R: usize, const T: usize, const H: usize>(task: &Multiply, cancel: &CancelToken)
where
    I: InstructionSet,
    E: Stored,
{
    let row_bytes = E::ELEMENT.row_bytes(task.columns);
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
                rows_of_block::<I, E, R, T>(task, start, end, token)
            } else if left >= H {
                rows_of_block::<I, E, R, H>(task, start, end, token)
            } else {
                rows_of_block::<I, E, R, 1>(task, start, end, token)
            };
        }
        start = end;
    }
}

/// All rows of one block for `T` tokens; returns `T`.
unsafe fn rows_of_block<I, E, const R: usize, const T: usize>(
    task: &Multiply,
    start: usize,
    end: usize,
    token: usize,
) -> usize
where
    I: InstructionSet,
    E: Stored,
{
    let row_bytes = E::ELEMENT.row_bytes(task.columns);
    let mut row = start;
    while row + R <= end {
        I::tile::<E, R, T>(&tile_at(task, row, row_bytes, 1, token));
        row += R;
    }
    while row < end {
        I::tile::<E, 1, T>(&tile_at(task, row, row_bytes, 1, token));
        row += 1;
    }
    T
}

#[inline(always)]
unsafe fn tile_at(task: &Multiply, row: usize, row_bytes: usize, row_step: usize, token: usize) -> Tile {
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

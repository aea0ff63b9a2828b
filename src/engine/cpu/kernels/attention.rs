//! Causal attention of a few queries over one key/value head.
//! Flows in: rotated queries and the cache of one head. Flows out: the weighted values, one row per query.
//!
//! Keys are stored in blocks of [`KEY_BLOCK`] positions, transposed, so a block of scores needs no reduction across
//! lanes; values are stored row by row. What is computed for a query depends only on that query and its length, never
//! on its neighbours in the tile.

use super::vector::{MAX_LANES, Vector};

/// Positions per block of transposed keys: `[position / 16][dimension][position % 16]`.
pub const KEY_BLOCK: usize = 16;
/// Most queries in one call.
pub const MAX_QUERIES: usize = 8;

/// One call: up to [`MAX_QUERIES`] queries that share a key/value head.
pub struct Attend {
    /// Start of each query; only the first `count` are used.
    pub queries: [*const f32; MAX_QUERIES],
    /// Where each result goes.
    pub results: [*mut f32; MAX_QUERIES],
    /// How many positions each query sees.
    pub lengths: [usize; MAX_QUERIES],
    /// Queries in this call.
    pub count: usize,
    /// Transposed key blocks of the head.
    pub keys: *const f32,
    /// Values of the head, `head_dim` apart.
    pub values: *const f32,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Multiplies the scores: 1 / sqrt(head_dim).
    pub scale: f32,
    /// Room for `MAX_QUERIES` rows of scores.
    pub scores: *mut f32,
    /// Elements from one row of scores to the next, a multiple of [`KEY_BLOCK`].
    pub scores_stride: usize,
}

/// Runs `call` in the smallest tile that holds its queries; unused places repeat the last query.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector>(call: &mut Attend) {
    let tile = call.count.next_power_of_two();
    for i in call.count..tile {
        call.queries[i] = call.queries[call.count - 1];
        call.results[i] = call.results[call.count - 1];
        call.lengths[i] = call.lengths[call.count - 1];
    }
    match tile {
        1 => attend_tile::<V, 1>(call),
        2 => attend_tile::<V, 2>(call),
        4 => attend_tile::<V, 4>(call),
        _ if V::LANES == MAX_LANES => attend_tile::<V, 8>(call),
        _ => {
            attend_tile::<V, 4>(call);
            for i in 0..4 {
                call.queries[i] = call.queries[i + 4];
                call.results[i] = call.results[i + 4];
                call.lengths[i] = call.lengths[i + 4];
            }
            attend_tile::<V, 4>(call);
        }
    }
}

#[inline(always)]
unsafe fn attend_tile<V: Vector, const Q: usize>(call: &Attend) {
    let mut longest = 0;
    for &length in &call.lengths[..Q] {
        longest = longest.max(length);
    }
    // Two registers of keys at a time: each broadcast of a query serves both.
    let registers = longest.div_ceil(KEY_BLOCK) * KEY_BLOCK / V::LANES;
    for pair in 0..registers / 2 {
        key_scores::<V, Q, 2>(call, 2 * pair);
    }
    if registers % 2 == 1 {
        key_scores::<V, Q, 1>(call, registers - 1);
    }
    let mut inverse = [0.0f32; MAX_QUERIES];
    for (q, inverse) in inverse.iter_mut().enumerate().take(Q) {
        let scores = call.scores.add(q * call.scores_stride);
        *inverse = 1.0 / exponentials::<V>(scores, call.lengths[q], longest);
    }
    let mut d = 0;
    while d + 2 * V::LANES <= call.head_dim {
        weighted_values::<V, Q, 2>(call, longest, d, &inverse);
        d += 2 * V::LANES;
    }
    while d < call.head_dim {
        weighted_values::<V, Q, 1>(call, longest, d, &inverse);
        d += V::LANES;
    }
}

/// Scores of `N` registers of keys for all queries, the first of them number `first`.
#[inline(always)]
unsafe fn key_scores<V: Vector, const Q: usize, const N: usize>(call: &Attend, first: usize) {
    let mut keys = [call.keys; N];
    for (n, keys) in keys.iter_mut().enumerate() {
        let position = (first + n) * V::LANES;
        *keys = call.keys.add(position / KEY_BLOCK * KEY_BLOCK * call.head_dim + position % KEY_BLOCK);
    }
    let mut sums = [[V::splat(0.0); N]; Q];
    for d in 0..call.head_dim {
        let mut key = [V::load(keys[0].add(d * KEY_BLOCK)); N];
        for n in 1..N {
            key[n] = V::load(keys[n].add(d * KEY_BLOCK));
        }
        for (q, sums) in sums.iter_mut().enumerate() {
            let query = V::splat(*call.queries[q].add(d));
            for n in 0..N {
                sums[n] = key[n].mul_add(query, sums[n]);
            }
        }
    }
    let scale = V::splat(call.scale);
    for (q, sums) in sums.iter().enumerate() {
        for (n, sum) in sums.iter().enumerate() {
            sum.mul(scale).store(call.scores.add(q * call.scores_stride + (first + n) * V::LANES));
        }
    }
}

/// Turns scores into exponentials relative to their maximum, zero from `length` to `longest`; returns their sum.
#[inline(always)]
unsafe fn exponentials<V: Vector>(scores: *mut f32, length: usize, longest: usize) -> f32 {
    let whole = length / V::LANES * V::LANES;
    let mut largest = *scores;
    let mut i = 0;
    if whole > 0 {
        let mut lanes = V::load(scores);
        while i < whole {
            lanes = lanes.max(V::load(scores.add(i)));
            i += V::LANES;
        }
        largest = lanes.largest();
    }
    while i < length {
        largest = largest.max(*scores.add(i));
        i += 1;
    }
    let shift = V::splat(-largest);
    let mut sum = V::splat(0.0);
    i = 0;
    while i < whole {
        let e = V::load(scores.add(i)).add(shift).exp();
        e.store(scores.add(i));
        sum = sum.add(e);
        i += V::LANES;
    }
    if whole < length {
        let rest = length - whole;
        V::load_first(scores.add(whole), rest).add(shift).exp().store_first(scores.add(whole), rest);
        sum = sum.add(V::load_first(scores.add(whole), rest));
    }
    for i in length..longest {
        *scores.add(i) = 0.0;
    }
    sum.sum()
}

/// `N` registers' worth of result dimensions for all queries; one alone may be cut short by the end of the head.
#[inline(always)]
unsafe fn weighted_values<V: Vector, const Q: usize, const N: usize>(
    call: &Attend,
    longest: usize,
    d: usize,
    inverse: &[f32; MAX_QUERIES],
) {
    let count = V::LANES.min(call.head_dim - d);
    let mut sums = [[V::splat(0.0); N]; Q];
    for position in 0..longest {
        let from = call.values.add(position * call.head_dim + d);
        let mut value = [if count == V::LANES { V::load(from) } else { V::load_first(from, count) }; N];
        for (n, value) in value.iter_mut().enumerate().skip(1) {
            *value = V::load(from.add(n * V::LANES));
        }
        for (q, sums) in sums.iter_mut().enumerate() {
            let score = V::splat(*call.scores.add(q * call.scores_stride + position));
            for n in 0..N {
                sums[n] = value[n].mul_add(score, sums[n]);
            }
        }
    }
    for (q, sums) in sums.iter().enumerate() {
        for (n, sum) in sums.iter().enumerate() {
            sum.mul(V::splat(inverse[q])).store_first(call.results[q].add(d + n * V::LANES), count);
        }
    }
}

//! Matrix products and attention spread over the workers of a pool.
//! Flows in: whole matrices and activations of one chunk. Flows out: results in the caller's buffers, unless cancelled.
//!
//! Each result element is computed by exactly one worker in an order that does not depend on which, so any number of
//! threads gives the same bits.

use super::kv::KvCache;
use super::rounded::Rounded;
use super::widened::{ROWS, Widened};
use crate::engine::CancelToken;
use crate::engine::cpu::kernels::{Attend, Kernels, MAX_QUERIES, Multiply};
use crate::engine::cpu::pool::Pool;
use crate::model::checkpoint::{BLOCK_ROWS, Element};
use crate::model::lowbit::LowBit;
use crate::model::qwen2::{Matrix, Qwen2Config};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The step was cancelled; nothing of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

/// A raw pointer that workers may share; each writes a part that no other touches.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: the users below give every worker disjoint elements.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    /// A method, so that closures capture the wrapper and not the bare pointer.
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// The threads and instruction set of one lane.
pub(super) struct Workers {
    pub pool: Pool,
    pub kernels: &'static Kernels,
    /// Activations as the quantised and the bf16 products take them.
    pub rounded: Rounded,
    /// Room for matrices in few bits.
    pub widened: Widened,
    /// Who multiplies which rows.
    pub claims: Claims,
}

/// Numbered parts of a product. Every worker takes those of a share of its own, one after another, so that it reads the weights as
/// one stream; then it helps the others.
pub(super) struct Claims {
    /// How many parts of each worker's share are taken.
    taken: Box<[AtomicUsize]>,
}

impl Claims {
    /// For so many workers.
    pub(super) fn new(workers: usize) -> Claims {
        Claims { taken: (0..workers).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// No part is taken; called while no worker takes any.
    fn reset(&self) {
        self.taken.iter().for_each(|taken| taken.store(0, Relaxed));
    }

    fn share(&self, worker: usize, parts: usize) -> Range<usize> {
        parts * worker / self.taken.len()..parts * (worker + 1) / self.taken.len()
    }

    /// The next of `parts` for `worker`, each given once.
    fn take(&self, worker: usize, parts: usize) -> Option<usize> {
        let workers = self.taken.len();
        (worker..worker + workers).map(|owner| owner % workers).find_map(|owner| {
            let share = self.share(owner, parts);
            let part = share.start + self.taken[owner].fetch_add(1, Relaxed);
            share.contains(&part).then_some(part)
        })
    }
}

/// Multiply-adds below which one thread does the work: handing it over would cost more than it saves.
const WORTH_SHARING: usize = 200_000;

/// Elements of the SwiGLU gate that a worker takes at a time.
const SWIGLU_PART: usize = 8192;

/// Rows that a worker takes at a time: enough to stream, few enough to balance, whole blocks of quantised matrices.
fn rows_per_claim(rows: usize, threads: usize, tokens: usize) -> usize {
    // Decoding reads a claim as several streams, which are faster when long.
    let most = if tokens == 1 { 512 } else { 128 };
    (rows / (threads * 8)).clamp(16, most).next_multiple_of(BLOCK_ROWS)
}

/// Runs the closure on every worker, or on the caller alone if there is little to do.
fn run<F: Fn(usize) + Sync>(pool: &mut Pool, multiply_adds: usize, closure: &F) {
    if multiply_adds < WORTH_SHARING { closure(0) } else { pool.run(closure) }
}

impl Workers {
    /// Rounds the activations as the matrices ask for.
    fn round(&mut self, matrices: &[&Matrix], x: &[f32], tokens: usize) {
        let (kernels, columns) = (self.kernels, matrices[0].columns);
        let (bytes, bf16) = self.rounded.prepare(matrices, kernels, tokens);
        if !bytes && !bf16 {
            return;
        }
        let rounded = &self.rounded;
        let next = AtomicUsize::new(0);
        // A float takes about as long to round as ten multiply-adds.
        run(&mut self.pool, 10 * tokens * columns, &|_| {
            loop {
                let token = next.fetch_add(1, Relaxed);
                if token >= tokens {
                    return;
                }
                let row = &x[token * columns..(token + 1) * columns];
                // SAFETY: `prepare` checked that the rounded rows fit; each token is taken by one worker.
                unsafe { rounded.round_row(kernels, row, (token, tokens), (bytes, bf16)) };
            }
        });
    }

    /// out[i][t] = matrix[i] x[t] for several matrices with the same input.
    pub(super) fn multiply<const N: usize>(
        &mut self,
        mut products: [(&Matrix, &mut [f32]); N],
        x: &[f32],
        tokens: usize,
        cancel: &CancelToken,
    ) -> Result<(), Cancelled> {
        if products.iter().any(|(matrix, _)| matrix.low_bit().is_some()) {
            for (matrix, y) in products {
                match matrix.low_bit() {
                    Some(low) => self.multiply_low(low, x, y, tokens, cancel)?,
                    None => self.multiply([(matrix, y)], x, tokens, cancel)?,
                }
            }
            return Ok(());
        }
        let (kernels, threads) = (self.kernels, self.pool.threads());
        let total: usize = products.iter().map(|(matrix, _)| matrix.rows).sum();
        let step = rows_per_claim(total, threads, tokens);
        let tasks: [(&Matrix, Shared); N] = std::array::from_fn(|i| {
            let (matrix, y) = &mut products[i];
            assert!(x.len() >= tokens * matrix.columns && y.len() >= tokens * matrix.rows);
            (*matrix, Shared(y.as_mut_ptr()))
        });
        let work = tokens * tasks.iter().map(|(matrix, _)| matrix.rows * matrix.columns).sum::<usize>();
        self.round(&tasks.map(|(matrix, _)| matrix), x, tokens);
        let (rounded, claims) = (&self.rounded, &self.claims);
        let parts: usize = tasks.iter().map(|(matrix, _)| matrix.rows.div_ceil(step)).sum();
        claims.reset();
        run(&mut self.pool, work, &|worker| {
            while let Some(mut claim) = claims.take(worker, parts) {
                if cancel.is_cancelled() {
                    return;
                }
                for (matrix, y) in &tasks {
                    let here = matrix.rows.div_ceil(step);
                    if claim >= here {
                        claim -= here;
                        continue;
                    }
                    let rows = claim * step..((claim + 1) * step).min(matrix.rows);
                    let out = (y.pointer(), matrix.rows);
                    // SAFETY: the kernels were chosen for this CPU; the matrix's bytes were checked against its shape
                    // when it was loaded, x and y above; claims give each worker rows of its own.
                    unsafe { rounded.multiply(kernels, (matrix, rows), (x, tokens), out, cancel) };
                    break;
                }
            }
        });
        if cancel.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// y[t] = low x[t]: inputs are rounded as the format says, rows widened to f32 a few at a time.
    fn multiply_low(
        &mut self,
        low: &LowBit,
        x: &[f32],
        y: &mut [f32],
        tokens: usize,
        cancel: &CancelToken,
    ) -> Result<(), Cancelled> {
        let (kernels, rows, columns) = (self.kernels, low.rows, low.columns);
        assert!(x.len() >= tokens * columns && y.len() >= tokens * rows);
        let (x, room) = self.widened.inputs(low, x, tokens);
        assert!(room.len() >= self.pool.threads() * ROWS * columns);
        let (y, room) = (Shared(y.as_mut_ptr()), Shared(room.as_mut_ptr()));
        let next = AtomicUsize::new(0);
        run(&mut self.pool, tokens * rows * columns, &|worker| {
            loop {
                let first = next.fetch_add(1, Relaxed) * ROWS;
                if first >= rows || cancel.is_cancelled() {
                    return;
                }
                let count = ROWS.min(rows - first);
                // SAFETY: each worker has its own ROWS rows of `room`, whose length was checked above.
                let wide = unsafe {
                    std::slice::from_raw_parts_mut(room.pointer().add(worker * ROWS * columns), count * columns)
                };
                for (row, out) in wide.chunks_exact_mut(columns).enumerate() {
                    low.widen_row(first + row, out);
                }
                let task = Multiply {
                    weights: wide.as_ptr().cast(),
                    element: Element::F32,
                    rows: 0..count,
                    columns,
                    x: x.as_ptr(),
                    tokens,
                    // SAFETY: `first` is a row of y, whose length was checked above.
                    y: unsafe { y.pointer().add(first) },
                    y_stride: rows,
                };
                // SAFETY: the kernels were chosen for this CPU; `wide` holds the rows, x and y were checked above; claims
                // give each worker rows of its own.
                unsafe { (kernels.multiply)(&task, cancel) };
            }
        });
        if cancel.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Causal attention of `tokens` new positions of one layer; their keys and values are already written.
    pub(super) fn attend(
        &mut self,
        config: &Qwen2Config,
        (kv, layer): (&KvCache, usize),
        (query, tokens): (&[f32], usize),
        out: &mut [f32],
        scores: &mut [f32],
        cancel: &CancelToken,
    ) -> Result<(), Cancelled> {
        let (heads, head_dim, kernels) = (config.heads, config.head_dim, self.kernels);
        let group = heads / config.kv_heads;
        let stride = kv.capacity();
        assert!(scores.len() >= self.pool.threads() * MAX_QUERIES * stride);
        assert!(query.len() >= tokens * heads * head_dim && out.len() >= tokens * heads * head_dim);
        let per_head = (tokens * group).div_ceil(MAX_QUERIES);
        let (out, scores) = (Shared(out.as_mut_ptr()), Shared(scores.as_mut_ptr()));
        let next = AtomicUsize::new(0);
        let work = 2 * tokens * heads * head_dim * (kv.len() + tokens);
        run(&mut self.pool, work, &|worker| {
            loop {
                let claim = next.fetch_add(1, Relaxed);
                if claim >= per_head * config.kv_heads || cancel.is_cancelled() {
                    return;
                }
                let (head, tile) = (claim / per_head, claim % per_head);
                let first = tile * MAX_QUERIES;
                let mut call = Attend {
                    queries: [std::ptr::null(); MAX_QUERIES],
                    results: [std::ptr::null_mut(); MAX_QUERIES],
                    lengths: [0; MAX_QUERIES],
                    count: MAX_QUERIES.min(tokens * group - first),
                    keys: kv.keys(layer, head).as_ptr(),
                    values: kv.values(layer, head).as_ptr(),
                    head_dim,
                    scale: 1.0 / (head_dim as f32).sqrt(),
                    // SAFETY: each worker has its own MAX_QUERIES rows; the length was checked above.
                    scores: unsafe { scores.pointer().add(worker * MAX_QUERIES * stride) },
                    scores_stride: stride,
                };
                for i in 0..call.count {
                    let (token, member) = ((first + i) / group, (first + i) % group);
                    let at = (token * heads + head * group + member) * head_dim;
                    call.queries[i] = query[at..].as_ptr();
                    // SAFETY: `at` lies within `out`, whose length was checked above.
                    call.results[i] = unsafe { out.pointer().add(at) };
                    call.lengths[i] = kv.len() + token + 1;
                }
                // SAFETY: the kernels were chosen for this CPU; lengths stay within the cache's capacity, which the
                // caller checked; results of different claims are disjoint.
                unsafe { (kernels.attend)(&mut call) };
            }
        });
        if cancel.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// RMS norm of `tokens` rows.
    pub(super) fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            // SAFETY: all three rows have `weight.len()` elements; the kernels were chosen for this CPU.
            unsafe { (self.kernels.rms_norm)(x.as_ptr(), weight.as_ptr(), eps, out.as_mut_ptr(), weight.len()) };
        }
    }

    /// out = silu(gate) * up.
    pub(super) fn swiglu(&mut self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len());
        let (kernels, count, to) = (self.kernels, out.len(), Shared(out.as_mut_ptr()));
        let next = AtomicUsize::new(0);
        // An element takes about as long as thirty multiply-adds.
        run(&mut self.pool, 30 * count, &|_| {
            loop {
                let at = next.fetch_add(1, Relaxed) * SWIGLU_PART;
                if at >= count {
                    return;
                }
                let part = SWIGLU_PART.min(count - at);
                // SAFETY: lengths were checked; parts are disjoint; the kernels were chosen for this CPU.
                unsafe { (kernels.swiglu)(gate[at..].as_ptr(), up[at..].as_ptr(), to.pointer().add(at), part) };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_given_once_and_first_to_its_owner() {
        for (workers, parts) in [(1, 5), (2, 7), (3, 2), (4, 100)] {
            let claims = Claims::new(workers);
            // One worker that is fast, one after another, or all in turn.
            for turn in [0, 1] {
                claims.reset();
                let mut given = Vec::new();
                let mut calls = 0;
                while let Some(part) = claims.take(calls * turn % workers, parts) {
                    given.push(part);
                    calls += 1;
                }
                if turn == 0 {
                    assert_eq!(given, (0..parts).collect::<Vec<_>>());
                }
                given.sort_unstable();
                assert_eq!(given, (0..parts).collect::<Vec<_>>());
            }
            claims.reset();
            let last = workers - 1;
            assert_eq!(claims.take(last, 10 * workers), Some(10 * last));
        }
    }
}

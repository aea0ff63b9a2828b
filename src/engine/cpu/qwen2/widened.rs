//! Room for linear layers in few bits: their inputs rounded, and a few of their rows widened to f32 per worker.
//! Flows in: the inputs of a chunk. Flows out: the inputs as the layer takes them. Exact rather than fast: this is what the
//! engines of accelerators are compared with.

use crate::model::lowbit::LowBit;
use crate::model::qwen2::{Matrix, Qwen2Weights};

/// Rows that a worker widens at a time: enough that many tokens share the work, few enough to stay in cache.
pub(super) const ROWS: usize = 16;

/// Working memory, allocated once; empty if no layer is in few bits.
pub(super) struct Widened {
    /// `[token][column]`.
    inputs: Vec<f32>,
    /// `[worker][ROWS][column]`.
    rows: Vec<f32>,
}

impl Widened {
    /// Room for `chunk` tokens and `threads` workers.
    pub(super) fn new(weights: &Qwen2Weights, threads: usize, chunk: usize) -> Widened {
        let low = || weights.matrices().filter_map(Matrix::low_bit);
        let widest = low().map(|low| low.columns).max().unwrap_or(0);
        let changed = low().filter(|low| low.changes_inputs()).map(|low| low.columns).max().unwrap_or(0);
        Widened { inputs: vec![0.0; chunk * changed], rows: vec![0.0; threads * ROWS * widest] }
    }

    /// Bytes held.
    pub(super) fn bytes_held(&self) -> usize {
        4 * (self.inputs.len() + self.rows.len())
    }

    /// The inputs as `low` takes them, and the workers' rows.
    pub(super) fn inputs<'a>(&'a mut self, low: &LowBit, x: &'a [f32], tokens: usize) -> (&'a [f32], &'a mut [f32]) {
        if !low.changes_inputs() {
            return (x, &mut self.rows);
        }
        let columns = low.columns;
        for (x, out) in x.chunks_exact(columns).zip(self.inputs.chunks_exact_mut(columns)).take(tokens) {
            low.round_inputs(x, out);
        }
        (&self.inputs, &mut self.rows)
    }
}

//! The ear's net, one step at a time. Log-mel rows flow in; every fourth row a vector of logits flows out, for the frame
//! two frames (80 ms) back. All state has a fixed size; nothing is allocated after construction.

use super::frontend::BANDS;
use super::weights::{Norm, SPAN, TAPS, Weights};
use std::sync::Arc;

/// Log-mel rows for one frame of the net: 40 ms.
pub const ROWS_PER_FRAME: u64 = 4;

/// The last vectors of a fixed number, as a ring.
#[derive(Debug, Clone, PartialEq)]
struct Ring {
    values: Vec<f32>,
    width: usize,
    oldest: usize,
}

impl Ring {
    fn new(count: usize, width: usize) -> Ring {
        Ring { values: vec![0.0; count * width], width, oldest: 0 }
    }

    fn clear(&mut self) {
        self.values.fill(0.0);
        self.oldest = 0;
    }

    /// The place of the oldest vector, to be overwritten with the newest.
    fn push(&mut self) -> &mut [f32] {
        let at = self.oldest * self.width;
        self.oldest = (self.oldest + 1) % (self.values.len() / self.width);
        &mut self.values[at..at + self.width]
    }

    /// Vector `age` places after the oldest.
    fn get(&self, age: usize) -> &[f32] {
        let at = (self.oldest + age) % (self.values.len() / self.width) * self.width;
        &self.values[at..at + self.width]
    }

    /// All vectors, oldest first, one after another.
    fn copy_to(&self, out: &mut [f32]) {
        for (age, out) in out.chunks_exact_mut(self.width).enumerate() {
            out.copy_from_slice(self.get(age));
        }
    }
}

/// What a block remembers: normalised inputs under its taps, and inputs that wait for their right context.
#[derive(Debug, Clone, PartialEq)]
struct BlockState {
    normed: Ring,
    waiting: Ring,
    /// Inputs it still swallows before its first output.
    lead: usize,
}

/// Everything that the net remembers of the sound so far.
#[derive(Debug, Clone, PartialEq)]
pub struct NetState {
    rows: Ring,
    halves: Ring,
    row_count: u64,
    blocks: Vec<BlockState>,
}

/// The net with its scratch memory.
#[derive(Debug, Clone)]
pub struct Net {
    weights: Arc<Weights>,
    state: NetState,
    gathered: Vec<f32>,
    x: Vec<f32>,
    mixed: Vec<f32>,
    wide: Vec<f32>,
    logits: Vec<f32>,
}

fn relu(values: &mut [f32]) {
    for v in values {
        *v = v.max(0.0);
    }
}

/// Mean of a function of the values: sixteen partial sums in a fixed order.
fn mean_of(x: &[f32], value: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    for chunk in x.chunks_exact(16) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += value(*v);
        }
    }
    lanes.iter().sum::<f32>() / x.len() as f32
}

/// Layer normalisation (Ba et al. 2016) with the population variance and 1e-5.
fn normalise(x: &[f32], norm: &Norm, out: &mut [f32]) {
    let mean = mean_of(x, |v| v);
    let variance = mean_of(x, |v| (v - mean) * (v - mean));
    let scale = 1.0 / (variance + 1e-5).sqrt();
    for (((out, v), gain), offset) in out.iter_mut().zip(x).zip(&norm.scale).zip(&norm.offset) {
        *out = (v - mean) * scale * gain + offset;
    }
}

impl Net {
    /// A net that has heard nothing.
    pub fn new(weights: Arc<Weights>) -> Net {
        let (front, channels) = (weights.first.padded(), weights.channels);
        let blocks = weights
            .blocks
            .iter()
            .map(|b| BlockState {
                normed: Ring::new(TAPS, channels),
                waiting: Ring::new(b.look + 1, channels),
                lead: b.look,
            })
            .collect();
        let state = NetState { rows: Ring::new(SPAN, BANDS), halves: Ring::new(SPAN, front), row_count: 0, blocks };
        Net {
            state,
            gathered: vec![0.0; SPAN * front.max(BANDS)],
            x: vec![0.0; channels],
            mixed: vec![0.0; channels],
            wide: vec![0.0; 2 * channels],
            logits: vec![0.0; weights.head.padded()],
            weights,
        }
    }

    /// Forgets all sound.
    pub fn reset(&mut self) {
        let state = &mut self.state;
        state.rows.clear();
        state.halves.clear();
        state.row_count = 0;
        for (block, weights) in state.blocks.iter_mut().zip(&self.weights.blocks) {
            block.normed.clear();
            block.waiting.clear();
            block.lead = weights.look;
        }
    }

    /// What it remembers.
    pub fn state(&self) -> &NetState {
        &self.state
    }

    /// Takes one row. Returns logits, one a symbol, if a frame is complete.
    pub fn push(&mut self, row: &[f32; BANDS]) -> Option<&[f32]> {
        let Net { weights, state, gathered, x, mixed, wide, logits } = self;
        state.rows.push().copy_from_slice(row);
        state.row_count += 1;
        if state.row_count % 2 == 1 {
            return None;
        }
        let input = &mut gathered[..SPAN * BANDS];
        state.rows.copy_to(input);
        let half = state.halves.push();
        weights.first.times(input, half);
        relu(half);
        if state.row_count % ROWS_PER_FRAME != 0 {
            return None;
        }
        let input = &mut gathered[..weights.second.inputs()];
        state.halves.copy_to(input);
        weights.second.times(input, x);
        relu(x);
        for (block, memory) in weights.blocks.iter().zip(&mut state.blocks) {
            normalise(x, &block.norm, memory.normed.push());
            memory.waiting.push().copy_from_slice(x);
            if memory.lead > 0 {
                memory.lead -= 1;
                return None;
            }
            mixed.copy_from_slice(&block.depthwise_bias);
            for (tap, weights) in block.depthwise.chunks_exact(mixed.len()).enumerate() {
                for ((sum, v), w) in mixed.iter_mut().zip(memory.normed.get(tap)).zip(weights) {
                    *sum += v * w;
                }
            }
            block.a.times(mixed, wide);
            relu(wide);
            block.b.times(wide, mixed);
            for ((out, residual), change) in x.iter_mut().zip(memory.waiting.get(0)).zip(mixed.iter()) {
                *out = residual + change;
            }
        }
        normalise(x, &weights.norm, mixed);
        weights.head.times(mixed, logits);
        Some(&logits[..weights.symbols.len()])
    }
}

//! Keys and values of the tokens a session has read.
//! Flows in: rotated keys and values, layer by layer. Flows out: slices in the layout the attention kernel reads.
//!
//! All memory is allocated once. `len` is the step boundary: what lies beyond it is scratch, so a cancelled step is
//! undone by not advancing it, and cutting back costs nothing.

use crate::engine::cpu::kernels::KEY_BLOCK;
use crate::model::qwen2::Qwen2Config;

/// Keys and values of up to `capacity` tokens.
pub struct KvCache {
    /// `[layer][kv head][position / 16][dimension][position % 16]`.
    keys: Vec<f32>,
    /// `[layer][kv head][position][dimension]`.
    values: Vec<f32>,
    len: usize,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    /// Room for `capacity` tokens, rounded up to a whole key block.
    pub fn new(config: &Qwen2Config, capacity: usize) -> KvCache {
        let capacity = capacity.next_multiple_of(KEY_BLOCK);
        let elements = config.layers * config.kv_heads * capacity * config.head_dim;
        KvCache {
            keys: vec![0.0; elements],
            values: vec![0.0; elements],
            len: 0,
            capacity,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<f32>()
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Becomes a copy of the first `len` tokens of `other`, which must be of the same model and fit.
    pub fn copy_from(&mut self, other: &KvCache, len: usize) {
        debug_assert!(len <= other.len && len <= self.capacity && self.head_dim == other.head_dim);
        let (own, theirs) = (self.capacity * self.head_dim, other.capacity * other.head_dim);
        let keys = len.next_multiple_of(KEY_BLOCK) * self.head_dim;
        let values = len * self.head_dim;
        for head in 0..self.keys.len() / own {
            let (to, from) = (head * own, head * theirs);
            self.keys[to..to + keys].copy_from_slice(&other.keys[from..from + keys]);
            self.values[to..to + values].copy_from_slice(&other.values[from..from + values]);
        }
        self.len = len;
    }

    /// Writes one head's key and value of `position` (not yet part of `len`).
    pub(super) fn write(&mut self, layer: usize, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let base = self.head_base(layer, head);
        let block = base + position / KEY_BLOCK * KEY_BLOCK * self.head_dim + position % KEY_BLOCK;
        for (d, &k) in key.iter().enumerate() {
            self.keys[block + d * KEY_BLOCK] = k;
        }
        let row = base + position * self.head_dim;
        self.values[row..row + self.head_dim].copy_from_slice(value);
    }

    /// The step is complete: `tokens` more are held.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Key blocks of one head.
    pub(super) fn keys(&self, layer: usize, head: usize) -> &[f32] {
        &self.keys[self.head_base(layer, head)..][..self.capacity * self.head_dim]
    }

    /// Value rows of one head.
    pub(super) fn values(&self, layer: usize, head: usize) -> &[f32] {
        &self.values[self.head_base(layer, head)..][..self.capacity * self.head_dim]
    }

    fn head_base(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * self.capacity * self.head_dim
    }
}

//! Activations rounded for products that take fewer bits: 8 bits for quantised weights, bf16 in the mode `fast`.
//! Flows in: f32 activations of a chunk. Flows out: the product kernel that fits a matrix, on the activations it takes.

use crate::engine::CancelToken;
use crate::engine::cpu::aligned::Aligned;
use crate::engine::cpu::kernels::{Bytes, Kernels, Multiply, MultiplyBytes};
use crate::model::checkpoint::{Element, GROUP};
use crate::model::qwen2::{Matrix, Qwen2Config, Qwen2Weights};
use std::ops::Range;

/// What activations are rounded to before they are multiplied with bf16 weights.
///
/// Quantised weights are always multiplied with activations of 8 bits, f16 and f32 weights with activations in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Not at all: the network in f32, as `transformers` computes it in float32.
    #[default]
    Exact,
    /// To bf16, where the processor multiplies such pairs at once; else as [`Mode::Exact`].
    Fast,
}

impl Mode {
    /// The mode called `name`.
    pub fn named(name: &str) -> Option<Mode> {
        [Mode::Exact, Mode::Fast].into_iter().find(|mode| mode.name() == name)
    }

    /// Name for people and reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exact => "exact",
            Mode::Fast => "fast",
        }
    }
}

/// Rounded activations of one chunk, allocated once.
pub(super) struct Rounded {
    mode: Mode,
    values: Aligned<i8>,
    scales: Aligned<f32>,
    minus_sums: Aligned<i32>,
    bf16: Aligned<u16>,
    /// Where `values`, `scales` and `minus_sums` lie; used by the workers, and nobody touches the buffers meanwhile.
    at: Bytes,
    /// Where `bf16` lies.
    bf16_at: *mut u16,
}

// SAFETY: the pointers are into the buffers beside them; workers write disjoint tokens, as `round_row` demands.
unsafe impl Send for Rounded {}
// SAFETY: as above.
unsafe impl Sync for Rounded {}

impl Rounded {
    /// Room for `chunk` tokens of the widest input, for what the weights and the mode will ask for.
    pub(super) fn new(weights: &Qwen2Weights, kernels: &Kernels, mode: Mode, chunk: usize) -> Rounded {
        let Qwen2Config { hidden_size, intermediate_size, heads, head_dim, .. } = weights.config;
        let most = chunk * hidden_size.max(intermediate_size).max(heads * head_dim);
        let bytes = if weights.matrices().any(|matrix| matrix.element.is_quantised()) { most } else { 0 };
        let pairs = weights.matrices().any(|matrix| takes_bf16(matrix, kernels, mode));
        let (mut values, mut scales) = (Aligned::new(bytes), Aligned::new(bytes / GROUP));
        let (mut minus_sums, mut bf16) = (Aligned::new(bytes / GROUP), Aligned::new(if pairs { most } else { 0 }));
        let at = Bytes {
            values: values.as_mut_ptr(),
            scales: scales.as_mut_ptr(),
            minus_sums: minus_sums.as_mut_ptr(),
            tokens: 0,
        };
        Rounded { mode, at, bf16_at: bf16.as_mut_ptr(), values, scales, minus_sums, bf16 }
    }

    /// Bytes held.
    pub(super) fn bytes_held(&self) -> usize {
        self.values.len() + 4 * (self.scales.len() + self.minus_sums.len()) + 2 * self.bf16.len()
    }

    /// Whether any of the matrices, which share their input, takes 8 bits, and whether any takes bf16.
    pub(super) fn prepare(&self, matrices: &[&Matrix], kernels: &Kernels, tokens: usize) -> (bool, bool) {
        let bytes = matrices.iter().any(|matrix| matrix.element.is_quantised());
        let bf16 = matrices.iter().any(|matrix| takes_bf16(matrix, kernels, self.mode));
        let count = tokens * matrices[0].columns;
        assert!(matrices.iter().all(|matrix| matrix.columns == matrices[0].columns), "matrices share their input");
        assert!((!bytes || self.values.len() >= count) && (!bf16 || self.bf16.len() >= count), "a chunk fits");
        (bytes, bf16)
    }

    /// Rounds the activations of one of `tokens` tokens.
    ///
    /// # Safety
    /// The row fits ([`Rounded::prepare`]), the CPU has the kernels, and nobody else uses this token's row.
    pub(super) unsafe fn round_row(
        &self,
        kernels: &Kernels,
        row: &[f32],
        (token, tokens): (usize, usize),
        (bytes, bf16): (bool, bool),
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            if bytes {
                (kernels.round_to_bytes)(row.as_ptr(), row.len(), &Bytes { tokens, ..self.at }.from(token, 0));
            }
            if bf16 {
                let to = self.bf16_at.add(token * row.len());
                (kernels.round_to_bf16)(row.as_ptr(), to, row.len());
            }
        }
    }

    /// Multiplies `rows` of a matrix with the activations `x` or with what they were rounded to; `out` is the result's
    /// start and the elements between tokens.
    ///
    /// # Safety
    /// The CPU has the kernels, `x` and `out` hold the matrix's columns and rows for all tokens, the tokens are rounded,
    /// and nobody else writes these rows of `out`.
    pub(super) unsafe fn multiply(
        &self,
        kernels: &Kernels,
        (matrix, rows): (&Matrix, Range<usize>),
        (x, tokens): (&[f32], usize),
        (y, y_stride): (*mut f32, usize),
        cancel: &CancelToken,
    ) {
        let (weights, element, columns) = (matrix.bytes().as_ptr(), matrix.element, matrix.columns);
        // SAFETY: as the caller promises; a matrix's bytes were checked against its shape when it was loaded.
        unsafe {
            if element.is_quantised() {
                let x = Bytes { tokens, ..self.at };
                let task = MultiplyBytes { weights, element, rows, columns, x, y, y_stride };
                return (kernels.multiply_bytes)(&task, cancel);
            }
            match kernels.multiply_bf16 {
                Some(multiply) if takes_bf16(matrix, kernels, self.mode) => {
                    let x = self.bf16_at.cast_const();
                    multiply(&Multiply { weights, element, rows, columns, x, tokens, y, y_stride }, cancel)
                }
                _ => {
                    let x = x.as_ptr();
                    (kernels.multiply)(&Multiply { weights, element, rows, columns, x, tokens, y, y_stride }, cancel)
                }
            }
        }
    }
}

fn takes_bf16(matrix: &Matrix, kernels: &Kernels, mode: Mode) -> bool {
    mode == Mode::Fast && matrix.element == Element::Bf16 && kernels.multiply_bf16.is_some()
}

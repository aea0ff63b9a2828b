//! Plain loops: the reference that the vector kernels are tested against, and what runs where nothing else does.
//! Flows in and out: the same tasks as every other instruction set. The results are the same on every machine.

use super::{Attend, Bytes, CancelToken, Element, KEY_BLOCK, Kernels, Multiply, MultiplyBytes, bytes, elementwise};
use crate::model::checkpoint::{BLOCK_ROWS, GROUP};
use half::{bf16, f16};

/// The table of this instruction set.
pub(super) static KERNELS: Kernels = Kernels {
    name: "scalar",
    extension: "",
    multiply,
    multiply_bf16: Some(multiply_bf16),
    multiply_bytes,
    round_to_bf16,
    round_to_bytes,
    attend,
    rms_norm,
    swiglu,
};

/// One activation.
trait Activation: Copy {
    fn widen(self) -> f32;
}

impl Activation for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Activation for u16 {
    fn widen(self) -> f32 {
        bf16::from_bits(self).to_f32()
    }
}

unsafe fn weight(row: *const u8, element: Element, index: usize) -> f32 {
    let at = row.add(element.row_bytes(index));
    match element {
        Element::Bf16 => bf16::from_bits(at.cast::<u16>().read_unaligned()).to_f32(),
        Element::F16 => f16::from_bits(at.cast::<u16>().read_unaligned()).to_f32(),
        Element::F32 => at.cast::<f32>().read_unaligned(),
        Element::Q8 | Element::Q4 => unreachable!("quantised weights are multiplied by `multiply_bytes`"),
        Element::LowBit => unreachable!("rows in few bits are widened first"),
    }
}

unsafe fn products<X: Activation>(task: &Multiply<X>, cancel: &CancelToken) {
    for r in task.rows.clone() {
        if cancel.is_cancelled() {
            return;
        }
        let row = task.weights.add(r * task.element.row_bytes(task.columns));
        for t in 0..task.tokens {
            let x = task.x.add(t * task.columns);
            let mut sum = 0.0f32;
            for k in 0..task.columns {
                sum += weight(row, task.element, k) * (*x.add(k)).widen();
            }
            *task.y.add(t * task.y_stride + r) = sum;
        }
    }
}

unsafe fn multiply(task: &Multiply, cancel: &CancelToken) {
    products(task, cancel)
}

unsafe fn multiply_bf16(task: &Multiply<u16>, cancel: &CancelToken) {
    products(task, cancel)
}

/// The whole number that a quantised weight is.
unsafe fn whole(block: *const u8, task: &MultiplyBytes, row: usize, column: usize) -> i32 {
    let (group, column) = (column / GROUP, column % GROUP);
    let weights = block.add(task.element.group_at(task.columns, group).1);
    let place = |column: usize| column / 4 * 4 * BLOCK_ROWS + row * 4 + column % 4;
    if task.element == Element::Q8 {
        i32::from(*weights.add(place(column))) - 128
    } else {
        let pair = i32::from(*weights.add(place(column % 16)));
        (pair >> (column / 16 * 4) & 15) - 8
    }
}

unsafe fn multiply_bytes(task: &MultiplyBytes, cancel: &CancelToken) {
    let groups = task.columns / GROUP;
    for r in task.rows.clone() {
        if cancel.is_cancelled() {
            return;
        }
        let (block, row) = (r / BLOCK_ROWS, r % BLOCK_ROWS);
        let block = task.weights.add(block * BLOCK_ROWS * task.element.row_bytes(task.columns));
        for t in 0..task.x.tokens {
            let mut sum = 0.0f32;
            for group in 0..groups {
                let (x, mut dot) = (task.x.from(t, group), 0i32);
                for k in 0..GROUP {
                    dot += whole(block, task, row, group * GROUP + k) * i32::from(*x.values.add(k));
                }
                let scale = block.add(task.element.group_at(task.columns, group).0 + row * 2);
                let scale = scale.cast::<u16>().read_unaligned();
                let scale = bf16::from_bits(scale).to_f32() * *x.scales;
                sum = libm::fmaf(dot as f32, scale, sum);
            }
            *task.y.add(t * task.y_stride + r) = sum;
        }
    }
}

unsafe fn round_to_bytes(x: *const f32, columns: usize, out: &Bytes) {
    bytes::round_to_bytes(x, columns, out)
}

unsafe fn round_to_bf16(x: *const f32, out: *mut u16, count: usize) {
    elementwise::round_to_bf16(x, out, count)
}

unsafe fn attend(call: &mut Attend) {
    for q in 0..call.count {
        let (query, length) = (call.queries[q], call.lengths[q]);
        let mut largest = f32::NEG_INFINITY;
        for position in 0..length {
            let block = call.keys.add(position / KEY_BLOCK * KEY_BLOCK * call.head_dim);
            let mut score = 0.0f32;
            for d in 0..call.head_dim {
                score += *query.add(d) * *block.add(d * KEY_BLOCK + position % KEY_BLOCK);
            }
            *call.scores.add(position) = score * call.scale;
            largest = largest.max(score * call.scale);
        }
        let mut sum = 0.0f32;
        for position in 0..length {
            let e = libm::expf(*call.scores.add(position) - largest);
            *call.scores.add(position) = e;
            sum += e;
        }
        for d in 0..call.head_dim {
            let mut value = 0.0f32;
            for position in 0..length {
                value += *call.scores.add(position) * *call.values.add(position * call.head_dim + d);
            }
            *call.results[q].add(d) = value / sum;
        }
    }
}

unsafe fn rms_norm(x: *const f32, weight: *const f32, eps: f32, out: *mut f32, count: usize) {
    let mut squares = 0.0f32;
    for i in 0..count {
        squares += *x.add(i) * *x.add(i);
    }
    let scale = 1.0 / libm::sqrtf(squares / count as f32 + eps);
    for i in 0..count {
        *out.add(i) = *x.add(i) * scale * *weight.add(i);
    }
}

unsafe fn swiglu(gate: *const f32, up: *const f32, out: *mut f32, count: usize) {
    for i in 0..count {
        let g = *gate.add(i);
        *out.add(i) = g / (1.0 + libm::expf(-g)) * *up.add(i);
    }
}

//! Plain loops: the reference that the vector kernels are tested against, and what runs where nothing else does.
//! Flows in and out: the same tasks as every other instruction set. The results are the same on every machine.

use super::{Attend, CancelToken, Element, KEY_BLOCK, Kernels, Multiply};
use crate::model::checkpoint::GROUP;
use half::{bf16, f16};

/// The table of this instruction set.
pub(super) static KERNELS: Kernels = Kernels { name: "scalar", multiply, attend, rms_norm, swiglu };

unsafe fn weight(row: *const u8, element: Element, index: usize) -> f32 {
    let group = row.add(element.row_bytes(index / GROUP * GROUP));
    let scale = || bf16::from_bits(group.cast::<u16>().read_unaligned()).to_f32();
    let in_group = index % GROUP;
    let at = row.add(element.row_bytes(index));
    match element {
        Element::Q8 => f32::from(group.add(2 + in_group).cast::<i8>().read()) * scale(),
        Element::Q4 => {
            let pair = group.add(2 + in_group % 16).read();
            let whole = if in_group < 16 { pair & 15 } else { pair >> 4 };
            (f32::from(whole) - 8.0) * scale()
        }
        Element::Bf16 => bf16::from_bits(at.cast::<u16>().read_unaligned()).to_f32(),
        Element::F16 => f16::from_bits(at.cast::<u16>().read_unaligned()).to_f32(),
        Element::F32 => at.cast::<f32>().read_unaligned(),
    }
}

unsafe fn multiply(task: &Multiply, cancel: &CancelToken) {
    for r in task.rows.clone() {
        if cancel.is_cancelled() {
            return;
        }
        let row = task.weights.add(r * task.element.row_bytes(task.columns));
        for t in 0..task.tokens {
            let x = task.x.add(t * task.columns);
            let mut sum = 0.0f32;
            for k in 0..task.columns {
                sum += weight(row, task.element, k) * *x.add(k);
            }
            *task.y.add(t * task.y_stride + r) = sum;
        }
    }
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

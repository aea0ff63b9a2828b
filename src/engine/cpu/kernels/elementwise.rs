//! The small operations between matrix products: RMS norm, the SwiGLU gate, rounding to bf16.
//! Flows in and out: rows of f32 activations.

use super::vector::Vector;

/// out = x / sqrt(mean(x²) + eps) * weight, over `count` elements.
#[inline(always)]
pub(super) unsafe fn rms_norm<V: Vector>(x: *const f32, weight: *const f32, eps: f32, out: *mut f32, count: usize) {
    let whole = count / V::LANES * V::LANES;
    let mut squares = V::splat(0.0);
    let mut i = 0;
    while i < whole {
        let v = V::load(x.add(i));
        squares = v.mul_add(v, squares);
        i += V::LANES;
    }
    if i < count {
        let v = V::load_first(x.add(i), count - i);
        squares = v.mul_add(v, squares);
    }
    let scale = V::splat(1.0 / (squares.sum() / count as f32 + eps).sqrt());
    i = 0;
    while i < whole {
        V::load(x.add(i)).mul(scale).mul(V::load(weight.add(i))).store(out.add(i));
        i += V::LANES;
    }
    if i < count {
        let rest = count - i;
        let v = V::load_first(x.add(i), rest).mul(scale).mul(V::load_first(weight.add(i), rest));
        v.store_first(out.add(i), rest);
    }
}

/// out = gate / (1 + exp(-gate)) * up, over `count` elements.
#[inline(always)]
pub(super) unsafe fn swiglu<V: Vector>(gate: *const f32, up: *const f32, out: *mut f32, count: usize) {
    let one = V::splat(1.0);
    let minus = V::splat(-1.0);
    let mut i = 0;
    while i + V::LANES <= count {
        let g = V::load(gate.add(i));
        let sigmoid = one.div(one.add(g.mul(minus).exp()));
        g.mul(sigmoid).mul(V::load(up.add(i))).store(out.add(i));
        i += V::LANES;
    }
    if i < count {
        let rest = count - i;
        let g = V::load_first(gate.add(i), rest);
        let sigmoid = one.div(one.add(g.mul(minus).exp()));
        g.mul(sigmoid).mul(V::load_first(up.add(i), rest)).store_first(out.add(i), rest);
    }
}

/// out = x rounded to bf16, halves to even, over `count` elements. (Values that are no numbers become some value.)
#[inline(always)]
pub(super) unsafe fn round_to_bf16(x: *const f32, out: *mut u16, count: usize) {
    for i in 0..count {
        let bits = (*x.add(i)).to_bits();
        *out.add(i) = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    }
}

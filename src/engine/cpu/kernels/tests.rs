//! Every instruction set of this machine against the scalar reference.

use super::*;
use half::{bf16, f16};

/// Pseudo-random values in -1..1.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn stored(values: &[f32], element: Element) -> Vec<u8> {
    match element {
        Element::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Element::F32 => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
        Element::Q8 | Element::Q4 => {
            let mut packed = Vec::new();
            crate::model::quantize::quantize_row(values, element, &mut packed);
            packed
        }
    }
}

fn product(set: &Kernels, weights: &[u8], element: Element, rows: usize, x: &[f32], tokens: usize) -> Vec<f32> {
    let columns = x.len() / tokens;
    let mut y = vec![f32::NAN; tokens * rows];
    let task = Multiply {
        weights: weights.as_ptr(),
        element,
        rows: 0..rows,
        columns,
        x: x.as_ptr(),
        tokens,
        y: y.as_mut_ptr(),
        y_stride: rows,
    };
    // SAFETY: `available` only lists sets this CPU has; the buffers were made for the task.
    unsafe { (set.multiply)(&task, &CancelToken::default()) };
    y
}

fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{name}: element {i} is {g}, scalar gives {w}");
    }
}

#[test]
fn products_agree_with_scalar_for_any_shape() {
    for element in [Element::Bf16, Element::F16, Element::F32] {
        for (rows, columns, tokens) in [(1, 1, 1), (3, 7, 2), (40, 33, 1), (70, 100, 5), (131, 130, 17), (9, 2100, 13)]
        {
            let weights = stored(&values(rows * columns, 1), element);
            let x = values(tokens * columns, 2);
            let want = product(&scalar::KERNELS, &weights, element, rows, &x, tokens);
            for set in Kernels::available() {
                let got = product(set, &weights, element, rows, &x, tokens);
                assert_close(set.name, &got, &want, 2e-5);
            }
        }
    }
}

#[test]
fn products_of_quantised_weights_agree_with_scalar() {
    for element in [Element::Q8, Element::Q4] {
        for (rows, columns, tokens) in [(1, 32, 1), (3, 64, 2), (70, 96, 1), (131, 128, 17), (9, 2080, 13)] {
            let weights = stored(&values(rows * columns, 1), element);
            let x = values(tokens * columns, 2);
            let want = product(&scalar::KERNELS, &weights, element, rows, &x, tokens);
            for set in Kernels::available() {
                let got = product(set, &weights, element, rows, &x, tokens);
                assert_close(set.name, &got, &want, 2e-5);
            }
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_among_others() {
    let (rows, columns, tokens) = (77, 150, 23);
    let weights = stored(&values(rows * columns, 3), Element::Bf16);
    let x = values(tokens * columns, 4);
    for set in Kernels::available() {
        let together = product(set, &weights, Element::Bf16, rows, &x, tokens);
        for token in 0..tokens {
            let alone = product(set, &weights, Element::Bf16, rows, &x[token * columns..][..columns], 1);
            assert_eq!(alone, together[token * rows..][..rows], "{} token {token}", set.name);
        }
    }
}

#[test]
fn a_cancelled_product_returns_at_once() {
    let cancel = CancelToken::default();
    cancel.cancel();
    for set in Kernels::available() {
        for tokens in [1, 4] {
            let (weights, x, mut y) = (vec![0u8; 64 * 64 * 4], vec![1.0; tokens * 64], vec![7.0f32; tokens * 64]);
            let task = Multiply {
                weights: weights.as_ptr(),
                element: Element::F32,
                rows: 0..64,
                columns: 64,
                x: x.as_ptr(),
                tokens,
                y: y.as_mut_ptr(),
                y_stride: 64,
            };
            // SAFETY: as in `product`.
            unsafe { (set.multiply)(&task, &cancel) };
            assert!(y.iter().all(|&y| y == 7.0), "{} computed after the cancel", set.name);
        }
    }
}

/// Attention of `lengths.len()` queries.
fn attention(set: &Kernels, lengths: &[usize], head_dim: usize) -> Vec<f32> {
    let capacity = lengths.iter().max().unwrap().next_multiple_of(KEY_BLOCK);
    let (keys, v) = (values(capacity * head_dim, 5), values(capacity * head_dim, 6));
    let queries = values(lengths.len() * head_dim, 7);
    let mut out = vec![f32::NAN; lengths.len() * head_dim];
    let mut scores = vec![0.0f32; MAX_QUERIES * capacity];
    let mut call = Attend {
        queries: [std::ptr::null(); MAX_QUERIES],
        results: [std::ptr::null_mut(); MAX_QUERIES],
        lengths: [0; MAX_QUERIES],
        count: lengths.len(),
        keys: keys.as_ptr(),
        values: v.as_ptr(),
        head_dim,
        scale: 1.0,
        scores: scores.as_mut_ptr(),
        scores_stride: capacity,
    };
    for (i, &length) in lengths.iter().enumerate() {
        call.queries[i] = queries[i * head_dim..].as_ptr();
        // SAFETY: `out` holds `head_dim` elements for each query.
        call.results[i] = unsafe { out.as_mut_ptr().add(i * head_dim) };
        call.lengths[i] = length;
    }
    // SAFETY: `available` only lists sets this CPU has; the buffers were made for the call.
    unsafe { (set.attend)(&mut call) };
    out
}

#[test]
fn attention_agrees_with_scalar_for_any_length_and_width() {
    for head_dim in [2, 10, 16, 26, 64, 128] {
        for lengths in
            [&[1][..], &[2, 3], &[15, 16, 17], &[100, 100, 100, 100, 100, 100, 100], &[1, 2, 3, 4, 5, 6, 7, 300]]
        {
            let want = attention(&scalar::KERNELS, lengths, head_dim);
            for set in Kernels::available() {
                let got = attention(set, lengths, head_dim);
                assert_close(&format!("{} {lengths:?} x {head_dim}", set.name), &got, &want, 2e-5);
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_alone_and_among_others() {
    for set in Kernels::available() {
        let together = attention(set, &[40, 41, 41, 300], 64);
        assert_eq!(attention(set, &[40], 64), together[..64], "{}", set.name);
    }
}

#[test]
fn norms_and_gates_agree_with_scalar() {
    for count in [1, 8, 15, 16, 90, 896] {
        let (x, w) = (values(count, 8), values(count, 9));
        let gate: Vec<f32> = x.iter().map(|v| v * 30.0).collect();
        let run = |set: &Kernels| {
            let (mut normed, mut gated) = (vec![0.0f32; count], vec![0.0f32; count]);
            // SAFETY: all buffers have `count` elements; `available` only lists sets this CPU has.
            unsafe {
                (set.rms_norm)(x.as_ptr(), w.as_ptr(), 1e-6, normed.as_mut_ptr(), count);
                (set.swiglu)(gate.as_ptr(), w.as_ptr(), gated.as_mut_ptr(), count);
            }
            [normed, gated].concat()
        };
        let want = run(&scalar::KERNELS);
        for set in Kernels::available() {
            assert_close(set.name, &run(set), &want, 2e-6);
        }
    }
}

//! Every instruction set of this machine against the scalar reference.

use super::*;
use crate::model::checkpoint::{BLOCK_ROWS, GROUP};
use crate::model::quantize::quantize_block;
use crate::model::qwen2::widen_block_row;
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
        Element::Q8 | Element::Q4 | Element::LowBit => unreachable!("packed weights are made by their packers"),
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

/// How far two sums of so many products of numbers below 1 may lie apart, added up in other orders: rounding errors of partial
/// sums add like steps of a random walk.
fn sums_differ(columns: usize) -> f32 {
    2e-5_f32.max(1e-6 * (columns as f32).sqrt())
}

#[test]
fn the_fastest_set_is_first_and_the_reference_last() {
    let names: Vec<_> = Kernels::available().iter().map(|set| set.full_name()).collect();
    println!("kernel sets: {}", names.join(", "));
    assert_eq!((names.first(), names.last()), (Some(&Kernels::best().full_name()), Some(&"scalar".to_owned())));
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "{names:?}");
}

#[test]
fn products_agree_with_scalar_for_any_shape() {
    for element in [Element::Bf16, Element::F16, Element::F32] {
        for (rows, columns, tokens) in [(1, 1, 1), (3, 7, 2), (40, 33, 1), (70, 100, 5), (131, 130, 17), (95, 2100, 13)]
        {
            let weights = stored(&values(rows * columns, 1), element);
            let x = values(tokens * columns, 2);
            let want = product(&scalar::KERNELS, &weights, element, rows, &x, tokens);
            for set in Kernels::available() {
                let got = product(set, &weights, element, rows, &x, tokens);
                assert_close(set.name, &got, &want, sums_differ(columns));
            }
        }
    }
}

/// Rounded activations of `tokens` rows.
struct Rounded {
    values: Vec<i8>,
    scales: Vec<f32>,
    minus_sums: Vec<i32>,
    tokens: usize,
}

impl Rounded {
    fn new(set: &Kernels, x: &[f32], tokens: usize) -> Rounded {
        let (groups, columns) = (x.len() / GROUP, x.len() / tokens);
        let mut rounded =
            Rounded { values: vec![0; x.len()], scales: vec![0.0; groups], minus_sums: vec![0; groups], tokens };
        for (token, row) in x.chunks_exact(columns).enumerate() {
            // SAFETY: the buffers hold as many values and groups as `x`; `available` only lists sets this CPU has.
            unsafe { (set.round_to_bytes)(row.as_ptr(), columns, &rounded.pointers().from(token, 0)) };
        }
        rounded
    }

    fn pointers(&mut self) -> Bytes {
        Bytes {
            values: self.values.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            minus_sums: self.minus_sums.as_mut_ptr(),
            tokens: self.tokens,
        }
    }
}

/// Rows of `weights` in blocks, and their product with `x`.
fn quantised_product(
    set: &Kernels,
    weights: &[f32],
    element: Element,
    x: &[f32],
    tokens: usize,
    first_row: usize,
) -> Vec<f32> {
    let columns = x.len() / tokens;
    let rows = weights.len() / columns;
    let mut packed = Vec::new();
    for rows in weights.chunks(BLOCK_ROWS * columns) {
        quantize_block(rows, columns, element, &mut packed);
    }
    let mut y = vec![f32::NAN; tokens * rows];
    let mut rounded = Rounded::new(set, x, tokens);
    let task = MultiplyBytes {
        weights: packed.as_ptr(),
        element,
        rows: first_row..rows,
        columns,
        x: rounded.pointers(),
        y: y.as_mut_ptr(),
        y_stride: rows,
    };
    // SAFETY: as in `product`.
    unsafe { (set.multiply_bytes)(&task, &CancelToken::default()) };
    y
}

#[test]
fn products_of_quantised_weights_have_the_scalar_bits_on_every_set() {
    for element in [Element::Q8, Element::Q4] {
        for (rows, columns, tokens) in
            [(1, 32, 1), (3, 64, 2), (70, 96, 1), (131, 128, 17), (48, 2080, 13), (33, 4864, 9), (20, 288, 131)]
        {
            let (weights, x) = (values(rows * columns, 1), values(tokens * columns, 2));
            let want = quantised_product(&scalar::KERNELS, &weights, element, &x, tokens, 0);
            for set in Kernels::available() {
                let got = quantised_product(set, &weights, element, &x, tokens, 0);
                assert_eq!(got, want, "{} {element:?} {rows} x {columns}, {tokens} tokens", set.full_name());
                let part = quantised_product(set, &weights, element, &x, tokens, rows / 2 / BLOCK_ROWS * BLOCK_ROWS);
                let same = |(got, want): (&f32, &f32)| got.is_nan() || got == want;
                assert!(part.iter().zip(&want).all(same), "{}: a range of rows differs", set.full_name());
                assert!(!part[rows - 1].is_nan(), "{}: the last row was left out", set.full_name());
            }
        }
    }
}

#[test]
fn products_of_quantised_weights_are_what_the_weights_stand_for() {
    let (rows, columns, tokens) = (20, 256, 3);
    let (weights, x) = (values(rows * columns, 3), values(tokens * columns, 4));
    for element in [Element::Q8, Element::Q4] {
        let mut packed = Vec::new();
        weights.chunks(BLOCK_ROWS * columns).for_each(|rows| quantize_block(rows, columns, element, &mut packed));
        let got = quantised_product(Kernels::best(), &weights, element, &x, tokens, 0);
        let mut row = vec![0.0; columns];
        for r in 0..rows {
            let block = r / BLOCK_ROWS * BLOCK_ROWS * element.row_bytes(columns);
            widen_block_row(&packed[block..], element, r % BLOCK_ROWS, &mut row);
            for t in 0..tokens {
                let x = &x[t * columns..][..columns];
                let want: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                // An activation is rounded by at most half of a 127th of the largest, which is below 1.
                let most: f64 = row.iter().map(|w| f64::from(w.abs()) * 0.5 / 127.0).sum::<f64>() + 1e-4;
                let error = (f64::from(got[t * rows + r]) - want).abs();
                assert!(error <= most, "{element:?} row {r} token {t}: off by {error}, {most} is possible");
            }
        }
    }
}

#[test]
fn activations_that_are_extreme_or_no_numbers_are_rounded_without_harm() {
    let mut x = values(4 * GROUP, 5);
    x[..GROUP].fill(0.0);
    x[GROUP..2 * GROUP].fill(1e-38);
    x[2 * GROUP] = f32::MAX;
    x[3 * GROUP] = f32::NAN;
    for set in Kernels::available() {
        let rounded = Rounded::new(set, &x, 1);
        assert_eq!(rounded.values[..2 * GROUP], [0; 2 * GROUP], "{}", set.full_name());
        assert_eq!((rounded.scales[0], rounded.scales[1], rounded.values[2 * GROUP]), (0.0, 0.0, 127));
        assert_eq!(rounded.minus_sums[2], -127);
    }
}

#[test]
fn products_of_bf16_pairs_agree_with_scalar_for_any_shape() {
    for (rows, columns, tokens) in [(1, 1, 1), (3, 7, 2), (40, 33, 1), (70, 100, 5), (131, 130, 17), (95, 2100, 13)] {
        let weights = stored(&values(rows * columns, 1), Element::Bf16);
        let x = values(tokens * columns, 2);
        let run = |set: &Kernels| {
            let multiply = set.multiply_bf16?;
            let (mut rounded, mut y) = (vec![0u16; x.len()], vec![f32::NAN; tokens * rows]);
            // SAFETY: `rounded` is as long as `x`; `available` only lists sets this CPU has.
            unsafe { (set.round_to_bf16)(x.as_ptr(), rounded.as_mut_ptr(), x.len()) };
            let nearest = |(x, bits): (&f32, &u16)| bf16::from_f32(*x).to_bits() == *bits;
            assert!(x.iter().zip(&rounded).all(nearest), "{}", set.full_name());
            let task = Multiply {
                weights: weights.as_ptr(),
                element: Element::Bf16,
                rows: 0..rows,
                columns,
                x: rounded.as_ptr(),
                tokens,
                y: y.as_mut_ptr(),
                y_stride: rows,
            };
            // SAFETY: as in `product`.
            unsafe { multiply(&task, &CancelToken::default()) };
            Some(y)
        };
        let want = run(&scalar::KERNELS).unwrap();
        for set in Kernels::available() {
            if let Some(got) = run(set) {
                assert_close(&set.full_name(), &got, &want, sums_differ(columns));
            }
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_among_others() {
    for (rows, columns, tokens) in [(77, 150, 23), (50, 2500, 11)] {
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

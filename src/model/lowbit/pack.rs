//! Weights into few bits: rows in f32 flow in, codes and scales flow out as [`super::LowBit`] reads them.
//!
//! Scales other than E4M3 are rounded to bf16 before weights are divided by them, so that they mean the same in a graph that
//! computes in bf16 and in f16, where the very smallest stay in f32.

use super::{Format, NVFP4_BLOCK, e2m1, e4m3};
use half::bf16;
use safetensors::Dtype;

/// What the scale of a group of weights is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The largest weight is just reached.
    Largest,
    /// The squared error of the group is least, among [`TRIED`] shares of the largest weight.
    LeastError,
}

/// Shares of the largest weight that [`Choice::LeastError`] tries: 1, 0.96, ... 0.52.
pub const TRIED: usize = 13;

/// Packs the rows of one linear layer, in order and two at a time.
#[derive(Debug, Clone)]
pub struct Packer {
    /// Format of the codes.
    pub format: Format,
    /// Inputs.
    pub columns: usize,
    /// Weights of a row that share a scale (INT4).
    pub block: usize,
    /// How scales are chosen (not FP8's).
    pub choice: Choice,
    /// FP8: the scale. NVFP4: the scale over all blocks. Else 1.
    pub over_all: f32,
}

impl Packer {
    /// For a matrix whose largest weight is `largest`; `block` is how many weights share a scale in INT4.
    pub fn new(format: Format, columns: usize, block: usize, choice: Choice, largest: f32) -> Packer {
        let block = match format {
            Format::Int4 => block,
            Format::Int8 | Format::Fp8 => columns,
            Format::Nvfp4 => NVFP4_BLOCK,
        };
        let over_all = match format {
            Format::Int4 | Format::Int8 => 1.0,
            Format::Fp8 | Format::Nvfp4 => stored_scale(largest, format.input_limit()),
        };
        Packer { format, columns, block, choice, over_all }
    }

    /// Type and shape of the codes of `rows` rows.
    pub fn codes(&self, rows: usize) -> (Dtype, Vec<usize>) {
        match self.format {
            Format::Int4 => (Dtype::U8, vec![rows / 2, self.columns]),
            Format::Int8 => (Dtype::I8, vec![rows, self.columns]),
            Format::Fp8 => (Dtype::F8_E4M3, vec![rows, self.columns]),
            Format::Nvfp4 => (Dtype::U8, vec![rows, self.columns / 2]),
        }
    }

    /// Type and shape of the scales of `rows` rows.
    pub fn scales(&self, rows: usize) -> (Dtype, Vec<usize>) {
        match self.format {
            Format::Int4 => (Dtype::BF16, vec![rows, self.columns / self.block]),
            Format::Int8 => (Dtype::F32, vec![rows]),
            Format::Fp8 => (Dtype::F32, vec![]),
            Format::Nvfp4 => (Dtype::F8_E4M3, vec![rows, self.columns / NVFP4_BLOCK]),
        }
    }

    /// Whether a matrix can be stored so: INT4 pairs rows, and groups must be whole.
    pub fn fits(&self, rows: usize) -> bool {
        self.block > 0
            && self.columns.is_multiple_of(self.block)
            && (self.format != Format::Int4 || rows.is_multiple_of(2))
    }

    /// Appends codes and scales of whole rows: an even number of them, if INT4. FP8's one scale is `over_all`.
    pub fn pack(&self, rows: &[f32], codes: &mut Vec<u8>, scales: &mut Vec<u8>) {
        let pair = self.columns * if self.format == Format::Int4 { 2 } else { 1 };
        for rows in rows.chunks_exact(pair) {
            let start = codes.len();
            for (number, row) in rows.chunks_exact(self.columns).enumerate() {
                self.pack_row(row, number, start, codes, scales);
            }
        }
    }

    /// `number` is 1 for the odd row of an INT4 pair, whose codes go to the high halves of the bytes from `start` on.
    fn pack_row(&self, row: &[f32], number: usize, start: usize, codes: &mut Vec<u8>, scales: &mut Vec<u8>) {
        for (index, group) in row.chunks_exact(self.block).enumerate() {
            match self.format {
                Format::Int4 => {
                    let scale = self.scale(group, 7.0, &|x| x.round_ties_even().clamp(-8.0, 7.0));
                    scales.extend(bf16::from_f32(scale).to_le_bytes());
                    for (column, x) in group.iter().enumerate() {
                        let code = (x / scale).round_ties_even().clamp(-8.0, 7.0) as i8 as u8 & 15;
                        match number {
                            0 => codes.push(code),
                            _ => codes[start + index * self.block + column] |= code << 4,
                        }
                    }
                }
                Format::Int8 => {
                    let scale = self.scale(group, 127.0, &|x| x.round_ties_even().clamp(-127.0, 127.0));
                    scales.extend(scale.to_le_bytes());
                    codes.extend(group.iter().map(|x| (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8 as u8));
                }
                Format::Fp8 => {
                    codes.extend(group.iter().map(|x| e4m3::encode(x / self.over_all)));
                }
                Format::Nvfp4 => {
                    let scale = self.scale(group, e2m1::MAX, &e2m1::round);
                    let code = e4m3::encode((scale / self.over_all).max(e4m3::LEAST));
                    scales.push(code);
                    let scale = e4m3::decode(code) * self.over_all;
                    let pair = |two: &[f32]| e2m1::encode(two[0] / scale) | e2m1::encode(two[1] / scale) << 4;
                    codes.extend(group.chunks_exact(2).map(pair));
                }
            }
        }
    }

    /// The scale of a group whose codes reach to `limit` and are rounded by `round`.
    fn scale(&self, group: &[f32], limit: f32, round: &dyn Fn(f32) -> f32) -> f32 {
        let largest = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        if largest == 0.0 {
            return self.storable(1.0);
        }
        let first = self.storable(largest / limit);
        if self.choice == Choice::Largest {
            return first;
        }
        let error = |scale: f32| -> f64 { group.iter().map(|x| f64::from(round(x / scale) * scale - x).powi(2)).sum() };
        let (mut best, mut least) = (first, error(first));
        for step in 1..TRIED {
            let scale = self.storable(largest * (1.0 - 0.04 * step as f32) / limit);
            let tried = error(scale);
            if tried < least {
                (best, least) = (scale, tried);
            }
        }
        best
    }

    /// The nearest scale that can be stored, never 0.
    fn storable(&self, scale: f32) -> f32 {
        match self.format {
            Format::Nvfp4 => e4m3::round((scale / self.over_all).max(e4m3::LEAST)) * self.over_all,
            _ => stored_scale(scale, 1.0),
        }
    }
}

/// `largest / limit` rounded to bf16; 1 for nothing but zeros.
pub fn stored_scale(largest: f32, limit: f32) -> f32 {
    let scale = bf16::from_f32(largest / limit).to_f32();
    if scale > 0.0 { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 % 61) as f32 - 30.0) * if i.is_multiple_of(5) { 0.2 } else { 0.01 }).collect()
    }

    #[test]
    fn least_error_is_never_worse_than_the_largest_weight() {
        let row = weights(256);
        let error = |format: Format, choice: Choice| {
            let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let packer = Packer::new(format, 256, 64, choice, largest);
            row.chunks(packer.block)
                .map(|group| {
                    let (limit, round): (f32, &dyn Fn(f32) -> f32) = match format {
                        Format::Int4 => (7.0, &|x| x.round_ties_even().clamp(-8.0, 7.0)),
                        Format::Int8 => (127.0, &|x| x.round_ties_even().clamp(-127.0, 127.0)),
                        _ => (e2m1::MAX, &e2m1::round),
                    };
                    let scale = packer.scale(group, limit, round);
                    group.iter().map(|x| f64::from(round(x / scale) * scale - x).powi(2)).sum::<f64>()
                })
                .sum::<f64>()
        };
        for format in [Format::Int4, Format::Int8, Format::Nvfp4] {
            let (plain, searched) = (error(format, Choice::Largest), error(format, Choice::LeastError));
            assert!(searched <= plain && plain > 0.0, "{format:?}: {searched} against {plain}");
        }
    }

    #[test]
    fn a_matrix_of_zeros_stays_one() {
        for format in [Format::Int4, Format::Int8, Format::Fp8, Format::Nvfp4] {
            let packer = Packer::new(format, 32, 32, Choice::LeastError, 0.0);
            let (mut codes, mut scales) = (Vec::new(), Vec::new());
            packer.pack(&[0.0; 64], &mut codes, &mut scales);
            assert!(codes.iter().all(|&code| code == 0) && packer.over_all > 0.0, "{format:?}");
            assert!(format == Format::Fp8 || scales.iter().any(|&byte| byte != 0), "{format:?}");
        }
    }
}

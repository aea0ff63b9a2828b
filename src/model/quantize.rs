//! Weights as small whole numbers with a scale for each group of 32 or 128: for machines whose memory is the limit.
//! Flows in: a checkpoint in bf16, f16 or f32. Flows out: the same checkpoint with its matrices in 8 or 4 bits.

use super::checkpoint::{BLOCK_ROWS, Checkpoint, Element, GROUP, Tensor};
use super::qwen2::{element_of, widen};
use super::tensors::{Entry, TensorWriter};
use super::{COMPANIONS, ModelError, copy_companions, read_json};
use crate::whole_file;
use half::bf16;
use safetensors::Dtype;
use serde_json::json;
use std::io;
use std::path::Path;

/// Appends up to [`BLOCK_ROWS`] rows of `columns` weights, whole groups, as one block of `element` (8 or 4 bits).
///
/// The scale is rounded to bf16 before the weights are divided by it. 8 bits: the largest weight becomes 127. 4 bits: the
/// largest becomes -8 with its sign in the scale, so all 16 values are used (as llama.cpp's Q4_0).
pub fn quantize_block(rows: &[f32], columns: usize, element: Element, out: &mut Vec<u8>) {
    let start = out.len();
    let zero = if element == Element::Q8 { 128 } else { 0x88 };
    let [_, runs, bytes] = element.block_shape(BLOCK_ROWS, columns);
    for _ in 0..runs {
        out.resize(out.len() + BLOCK_ROWS * 2, 0);
        out.resize(out.len() + bytes - BLOCK_ROWS * 2, zero);
    }
    let scaled = element.scaled(columns);
    let block = &mut out[start..];
    for (row, values) in rows.chunks_exact(columns).enumerate() {
        for (run, sharing) in values.chunks_exact(scaled).enumerate() {
            let scale = scale_of(sharing, element);
            for (within, group) in sharing.chunks_exact(GROUP).enumerate() {
                let (scales, weights) = element.group_at(columns, run * (scaled / GROUP) + within);
                block[scales + row * 2..][..2].copy_from_slice(&scale.to_le_bytes());
                let weights = &mut block[weights..];
                let whole = whole_numbers(group, scale, element);
                for (column, &byte) in whole.iter().enumerate() {
                    let place = |column: usize| column / 4 * 4 * BLOCK_ROWS + row * 4 + column % 4;
                    if element == Element::Q8 {
                        weights[place(column)] = byte;
                    } else if column < GROUP / 2 {
                        weights[place(column)] = byte | whole[column + GROUP / 2] << 4;
                    }
                }
            }
        }
    }
}

/// The scale of weights that share one.
fn scale_of(weights: &[f32], element: Element) -> bf16 {
    let largest = weights.iter().fold(0.0f32, |best, &w| if w.abs() > best.abs() { w } else { best });
    bf16::from_f32(largest / if element == Element::Q8 { 127.0 } else { -8.0 })
}

/// Whole numbers of one group, shifted to be positive.
fn whole_numbers(group: &[f32], scale: bf16, element: Element) -> [u8; GROUP] {
    let (low, high, shift) = if element == Element::Q8 { (-127.0, 127.0, 128.0) } else { (-8.0, 7.0, 8.0) };
    let inverse = if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() };
    std::array::from_fn(|i| ((group[i] * inverse).round_ties_even().clamp(low, high) + shift) as u8)
}

/// Whether a tensor becomes whole numbers: matrices whose rows are whole groups. Norms and biases stay as they are.
fn shrinks(tensor: &Tensor) -> bool {
    tensor.shape.len() == 2 && tensor.shape[1].is_multiple_of(GROUP)
}

/// Writes the checkpoint of `from` to the folder `to` with its matrices as `element` (8 or 4 bits).
///
/// # Errors
/// `from` cannot be read or is quantised already, `to` holds other files, or cannot be written.
pub fn quantize(from: &Path, to: &Path, element: Element) -> Result<(), ModelError> {
    let checkpoint = Checkpoint::open(from)?;
    for (name, tensor) in checkpoint.tensors() {
        if !matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
            let reason = format!("`{name}` is stored as {:?}; only bf16, f16 and f32 can be quantised", tensor.dtype);
            return Err(ModelError::invalid(from, reason));
        }
    }
    let mut config = read_json(&from.join("config.json"))?;
    let bits = if element == Element::Q8 { 8 } else { 4 };
    config["quantization_config"] = json!({"quant_method": "sage", "bits": bits, "block_rows": BLOCK_ROWS});
    let failed = |error: io::Error| ModelError::invalid(to, format!("cannot be written ({error})"));
    if let Some(foreign) = foreign(to) {
        let reason = format!("holds `{foreign}`, which is not of an earlier run; give a new folder");
        return Err(ModelError::invalid(to, reason));
    }
    std::fs::create_dir_all(to).map_err(failed)?;
    // The configuration first: by it a later run knows what an interrupted one left.
    whole_file::write(&to.join(CONFIG), format!("{config:#}\n").as_bytes()).map_err(failed)?;
    copy_companions(from, to).map_err(failed)?;
    let part = to.join(PART);
    let written = write(&checkpoint, &part, element).and_then(|()| std::fs::rename(&part, to.join(WEIGHTS)));
    if let Err(error) = written {
        // Room that is given back: the disk may be full.
        let _ = std::fs::remove_file(&part);
        return Err(failed(error));
    }
    Ok(())
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
/// Weights on their way.
const PART: &str = "model.safetensors.part";

/// A file in the folder that no earlier run of [`quantize`] left there: it would be lost, or change what the folder means.
fn foreign(folder: &Path) -> Option<String> {
    let ours = |name: &str| match name {
        CONFIG => {
            let made_by = |config: serde_json::Value| config["quantization_config"]["quant_method"] == "sage";
            read_json(&folder.join(CONFIG)).is_ok_and(made_by)
        }
        // Without a configuration beside them they are not known to be ours.
        WEIGHTS => folder.join(CONFIG).is_file(),
        name => name == PART || name == "config.json.part" || COMPANIONS.contains(&name),
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).find(|name| !ours(name))
}

fn write(checkpoint: &Checkpoint, path: &Path, element: Element) -> io::Result<()> {
    let entries = checkpoint.tensors().map(|(name, tensor)| {
        let (dtype, shape) = if shrinks(tensor) {
            let dtype = if element == Element::Q8 { Dtype::I8 } else { Dtype::U8 };
            (dtype, element.block_shape(tensor.shape[0], tensor.shape[1]).to_vec())
        } else {
            (tensor.dtype, tensor.shape.clone())
        };
        Entry { name: name.to_owned(), dtype, shape }
    });
    let mut file = TensorWriter::create(path, &entries.collect::<Vec<_>>())?;
    let mut packed = Vec::new();
    for (_, tensor) in checkpoint.tensors() {
        match element_of(tensor.dtype) {
            Some(stored) if shrinks(tensor) => {
                let columns = tensor.shape[1];
                let mut rows = vec![0.0; BLOCK_ROWS * columns];
                for bytes in tensor.bytes().chunks(BLOCK_ROWS * stored.row_bytes(columns)) {
                    let rows = &mut rows[..bytes.len() / stored.row_bytes(columns) * columns];
                    widen(bytes, stored, rows);
                    packed.clear();
                    quantize_block(rows, columns, element, &mut packed);
                    file.write(&packed)?;
                }
            }
            _ => file.write(tensor.bytes())?,
        }
    }
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::super::qwen2::widen_block_row;
    use super::*;

    #[test]
    fn every_row_comes_back_within_half_a_step_of_its_group() {
        let rows = 5;
        let value = |i: usize| ((i * 37 % 61) as f32 - 30.0) * if i.is_multiple_of(3) { 1.0 } else { 1e-3 };
        let cases = [
            (Element::Q8, 96, 32, 127.0, 3 * 34),
            (Element::Q8, 256, 128, 127.0, 2 * 130),
            (Element::Q4, 96, 32, 8.0, 3 * 18),
            (Element::Q4, 256, 32, 8.0, 8 * 18),
        ];
        for (element, columns, scaled, steps, bytes) in cases {
            let weights: Vec<f32> = (0..rows * columns).map(value).collect();
            let (mut packed, mut back) = (Vec::new(), vec![0.0; columns]);
            quantize_block(&weights, columns, element, &mut packed);
            assert_eq!(packed.len(), BLOCK_ROWS * bytes);
            for (row, values) in weights.chunks(columns).enumerate() {
                widen_block_row(&packed, element, row, &mut back);
                for (group, (want, got)) in values.chunks(scaled).zip(back.chunks(scaled)).enumerate() {
                    let largest = want.iter().fold(0.0f32, |best, w| best.max(w.abs()));
                    for (w, g) in want.iter().zip(got) {
                        // Half a step, one more at the clipped end of 4 bits, and the scale's own rounding.
                        let allowed = largest / steps * if element == Element::Q4 { 1.02 } else { 0.76 };
                        assert!((w - g).abs() <= allowed, "{element:?} row {row} group {group}: {w} came back as {g}");
                    }
                }
            }
            // Rows that are not there.
            widen_block_row(&packed, element, rows, &mut back);
            assert_eq!(back, vec![0.0; columns]);
        }
    }

    #[test]
    fn a_group_of_zeros_stays_zero() {
        for element in [Element::Q8, Element::Q4] {
            let (mut packed, mut back) = (Vec::new(), vec![1.0; 32]);
            quantize_block(&[0.0; 32], 32, element, &mut packed);
            widen_block_row(&packed, element, 0, &mut back);
            assert_eq!(back, [0.0; 32]);
        }
    }
}

//! Weights as small whole numbers with a scale for each group of 32: for machines whose memory is the limit.
//! Flows in: a checkpoint in bf16, f16 or f32. Flows out: the same checkpoint with its matrices in 8 or 4 bits.

use super::checkpoint::{Checkpoint, Element, GROUP, Tensor};
use super::qwen2::{element_of, widen};
use super::{ModelError, read_json};
use half::bf16;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Appends one row, a whole number of groups, as `element` (8 or 4 bits) stores it.
///
/// The scale is rounded to bf16 before the weights are divided by it. 8 bits: the largest weight becomes 127. 4 bits: the
/// largest becomes -8 with its sign in the scale, so all 16 values are used (as llama.cpp's Q4_0).
pub fn quantize_row(row: &[f32], element: Element, out: &mut Vec<u8>) {
    for group in row.chunks_exact(GROUP) {
        let largest = group.iter().fold(0.0f32, |best, &w| if w.abs() > best.abs() { w } else { best });
        let steps = if element == Element::Q8 { 127.0 } else { -8.0 };
        let scale = bf16::from_f32(largest / steps);
        out.extend(scale.to_le_bytes());
        let inverse = if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() };
        let whole = |weight: f32, low: f32, high: f32| (weight * inverse).round_ties_even().clamp(low, high);
        if element == Element::Q8 {
            out.extend(group.iter().map(|&weight| whole(weight, -127.0, 127.0) as i8 as u8));
        } else {
            let four = |weight: f32| (whole(weight, -8.0, 7.0) + 8.0) as u8;
            out.extend((0..16).map(|i| four(group[i]) | four(group[i + 16]) << 4));
        }
    }
}

/// Whether a tensor becomes whole numbers: matrices whose rows are whole groups. Norms and biases stay as they are.
fn shrinks(tensor: &Tensor) -> bool {
    tensor.shape.len() == 2 && tensor.shape[1].is_multiple_of(GROUP)
}

/// Files that go along unchanged.
const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
];

/// Writes the checkpoint of `from` to the folder `to` with its matrices as `element` (8 or 4 bits).
///
/// # Errors
/// `from` cannot be read or is quantised already, or `to` cannot be written.
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
    config["quantization_config"] = json!({"quant_method": "sage", "bits": bits, "group_size": GROUP});
    let failed = |error: io::Error| ModelError::invalid(to, format!("cannot be written ({error})"));
    std::fs::create_dir_all(to).map_err(failed)?;
    for file in COMPANIONS.iter().filter(|file| from.join(file).is_file()) {
        std::fs::copy(from.join(file), to.join(file)).map_err(failed)?;
    }
    let part = to.join("model.safetensors.part");
    write(&checkpoint, &part, element).map_err(failed)?;
    std::fs::rename(&part, to.join("model.safetensors")).map_err(failed)?;
    std::fs::write(to.join("config.json"), format!("{config:#}\n")).map_err(failed)
}

fn write(checkpoint: &Checkpoint, path: &Path, element: Element) -> io::Result<()> {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, tensor) in checkpoint.tensors() {
        let (dtype, shape, bytes) = match (shrinks(tensor), element) {
            (false, _) => (tensor.dtype, tensor.shape.clone(), tensor.bytes().len()),
            (true, element) => {
                let row = element.row_bytes(tensor.shape[1]);
                let dtype = if element == Element::Q8 { Dtype::I8 } else { Dtype::U8 };
                (dtype, vec![tensor.shape[0], row], tensor.shape[0] * row)
            }
        };
        header.insert(name.to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]}));
        at += bytes;
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(64) + 56 - header.len()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut packed = Vec::new();
    for (_, tensor) in checkpoint.tensors() {
        match element_of(tensor.dtype) {
            Some(stored) if shrinks(tensor) => {
                let columns = tensor.shape[1];
                let mut row = vec![0.0; columns];
                for bytes in tensor.bytes().chunks_exact(stored.row_bytes(columns)) {
                    widen(bytes, stored, &mut row);
                    packed.clear();
                    quantize_row(&row, element, &mut packed);
                    file.write_all(&packed)?;
                }
            }
            _ => file.write_all(tensor.bytes())?,
        }
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_within_half_a_step_of_its_group() {
        let row: Vec<f32> = (0..96).map(|i| ((i * 37 % 61) as f32 - 30.0) * if i < 32 { 1.0 } else { 1e-3 }).collect();
        for (element, steps, bytes) in [(Element::Q8, 127.0, 3 * 34), (Element::Q4, 8.0, 3 * 18)] {
            let (mut packed, mut back) = (Vec::new(), vec![0.0; 96]);
            quantize_row(&row, element, &mut packed);
            assert_eq!(packed.len(), bytes);
            widen(&packed, element, &mut back);
            for (group, (want, got)) in row.chunks(32).zip(back.chunks(32)).enumerate() {
                let largest = want.iter().fold(0.0f32, |best, w| best.max(w.abs()));
                for (w, g) in want.iter().zip(got) {
                    // Half a step, one more at the clipped end of 4 bits, and the scale's own rounding.
                    let allowed = largest / steps * if element == Element::Q4 { 1.02 } else { 0.76 };
                    assert!((w - g).abs() <= allowed, "{element:?} group {group}: {w} came back as {g}");
                }
            }
        }
    }

    #[test]
    fn a_group_of_zeros_stays_zero() {
        for element in [Element::Q8, Element::Q4] {
            let (mut packed, mut back) = (Vec::new(), vec![1.0; 32]);
            quantize_row(&[0.0; 32], element, &mut packed);
            widen(&packed, element, &mut back);
            assert_eq!(back, [0.0; 32]);
        }
    }
}

//! One linear layer in few bits, as it lies in a checkpoint. A module's name flows in; its tensors, their places in the files,
//! its weights widened to f32 and its inputs rounded as an engine rounds them flow out.

use super::{Declared, Format, NVFP4_BLOCK, Scheme, e2m1, e4m3};
use crate::model::checkpoint::{Checkpoint, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

/// The tensors of one linear layer, checked against each other.
#[derive(Clone)]
pub struct LowBit {
    /// Formats of weights and inputs.
    pub scheme: Scheme,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Neighbouring weights of a row that share a scale; all of them in INT8 and FP8.
    pub block: usize,
    /// Codes of the weights, `MODULE.weight`.
    pub weight: Tensor,
    /// `MODULE.weight_scale`.
    pub weight_scale: Tensor,
    /// `MODULE.weight_scale_2`, NVFP4's scale over all blocks.
    pub weight_scale_2: Option<f32>,
    /// `MODULE.input_scale`, where inputs are rounded.
    pub input_scale: Option<f32>,
    /// `MODULE.pre_quant_scale`: what inputs are multiplied by first.
    pub pre_quant_scale: Option<Vec<f32>>,
}

impl LowBit {
    /// The module (`model.layers.0.mlp.up_proj`) of `rows` outputs and `columns` inputs; `None` if it has no
    /// `weight_scale`, so is stored as it was trained.
    ///
    /// # Errors
    /// What is missing or does not fit, without the folder's name.
    pub fn find(
        checkpoint: &Checkpoint,
        declared: &Declared,
        module: &str,
        (rows, columns): (usize, usize),
    ) -> Result<Option<LowBit>, String> {
        let tensor = |part: &str| checkpoint.get(&format!("{module}.{part}"));
        let Some(weight_scale) = tensor("weight_scale") else { return Ok(None) };
        let scheme = declared
            .scheme(module)
            .ok_or_else(|| format!("`{module}` is quantised, but no `quant_algo` is declared for it"))?;
        let weight = tensor("weight").ok_or_else(|| format!("`{module}.weight` is missing"))?;
        let one = |part: &str| -> Result<Option<f32>, String> {
            let Some(tensor) = tensor(part) else { return Ok(None) };
            match (tensor.shape.iter().product::<usize>(), number(tensor, 0)) {
                (1, Some(value)) if value.is_finite() && value > 0.0 => Ok(Some(value)),
                _ => Err(format!("`{module}.{part}` is not one positive number")),
            }
        };
        let (weight_scale_2, input_scale) = (one("weight_scale_2")?, one("input_scale")?);
        let needed = |have: Option<f32>, part: &str| match have {
            Some(value) => Ok(Some(value)),
            None => Err(format!("`{module}.{part}` is missing")),
        };
        let pre_quant_scale = match tensor("pre_quant_scale") {
            None => None,
            Some(tensor) if tensor.shape.iter().product::<usize>() == columns => {
                let values: Option<Vec<f32>> = (0..columns).map(|at| number(tensor, at)).collect();
                Some(values.ok_or_else(|| format!("`{module}.pre_quant_scale` is stored as {:?}", tensor.dtype))?)
            }
            Some(tensor) => {
                return Err(format!("`{module}.pre_quant_scale` has shape {:?} for {columns} inputs", tensor.shape));
            }
        };
        let low = LowBit {
            scheme,
            rows,
            columns,
            block: block(scheme.format, weight_scale, columns),
            weight: weight.clone(),
            weight_scale: weight_scale.clone(),
            weight_scale_2: if scheme.format == Format::Nvfp4 {
                needed(weight_scale_2, "weight_scale_2")?
            } else {
                None
            },
            input_scale: if scheme.inputs { needed(input_scale, "input_scale")? } else { None },
            pre_quant_scale,
        };
        low.check(module)?;
        Ok(Some(low))
    }

    /// Types and shapes.
    fn check(&self, module: &str) -> Result<(), String> {
        let (rows, columns) = (self.rows, self.columns);
        let (dtype, shape) = match self.scheme.format {
            Format::Int4 => (Dtype::U8, vec![rows / 2, columns]),
            Format::Int8 => (Dtype::I8, vec![rows, columns]),
            Format::Fp8 => (Dtype::F8_E4M3, vec![rows, columns]),
            Format::Nvfp4 => (Dtype::U8, vec![rows, columns / 2]),
        };
        let even = match self.scheme.format {
            Format::Int4 => rows.is_multiple_of(2),
            Format::Nvfp4 => columns.is_multiple_of(NVFP4_BLOCK),
            _ => true,
        };
        if !even || self.weight.dtype != dtype || self.weight.shape != shape {
            return Err(format!(
                "`{module}.weight` is {:?} of shape {:?}; {:?} of {rows} × {columns} weights is {dtype:?} of shape {shape:?}",
                self.weight.dtype, self.weight.shape, self.scheme.format
            ));
        }
        let scale = &self.weight_scale;
        let (floats, count) = match self.scheme.format {
            Format::Int4 => (true, rows * (columns / self.block.max(1))),
            Format::Int8 => (true, rows),
            Format::Fp8 => (true, 1),
            Format::Nvfp4 => (false, rows * (columns / NVFP4_BLOCK)),
        };
        let typed = if floats {
            number(scale, 0).is_some() && scale.dtype != Dtype::F8_E4M3
        } else {
            scale.dtype == Dtype::F8_E4M3
        };
        let divides = self.block > 0 && columns.is_multiple_of(self.block);
        if !typed || !divides || scale.shape.iter().product::<usize>() != count {
            return Err(format!(
                "`{module}.weight_scale` is {:?} of shape {:?}, which does not fit {:?} of {rows} × {columns} weights",
                scale.dtype, scale.shape, self.scheme.format
            ));
        }
        Ok(())
    }

    /// Widens one row into `out`, which has `columns` elements: code times scale, each product rounded to f32 once, as
    /// `DequantizeLinear` computes it.
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        let (columns, bytes) = (self.columns, self.weight.bytes());
        let scale = |at: usize| number(&self.weight_scale, at).unwrap_or(0.0);
        match self.scheme.format {
            Format::Int4 => {
                let (codes, shift) = (&bytes[row / 2 * columns..][..columns], row % 2 * 4);
                let groups = columns / self.block;
                for (group, (out, codes)) in out.chunks_mut(self.block).zip(codes.chunks(self.block)).enumerate() {
                    let scale = scale(row * groups + group);
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = f32::from(((code >> shift) << 4) as i8 >> 4) * scale;
                    }
                }
            }
            Format::Int8 => {
                let scale = scale(row);
                for (out, &code) in out.iter_mut().zip(&bytes[row * columns..]) {
                    *out = f32::from(code as i8) * scale;
                }
            }
            Format::Fp8 => {
                let scale = scale(0);
                for (out, &code) in out.iter_mut().zip(&bytes[row * columns..]) {
                    *out = e4m3::decode(code) * scale;
                }
            }
            Format::Nvfp4 => {
                let (blocks, over_all) = (columns / NVFP4_BLOCK, self.weight_scale_2.unwrap_or(1.0));
                let codes = &bytes[row * columns / 2..][..columns / 2];
                let pairs = codes.chunks_exact(NVFP4_BLOCK / 2);
                for (block, (out, codes)) in out.chunks_exact_mut(NVFP4_BLOCK).zip(pairs).enumerate() {
                    let scale = scale(row * blocks + block) * over_all;
                    for (two, code) in out.chunks_exact_mut(2).zip(codes) {
                        two[0] = e2m1::decode(*code) * scale;
                        two[1] = e2m1::decode(code >> 4) * scale;
                    }
                }
            }
        }
    }

    /// Whether inputs are anything but passed on.
    pub fn changes_inputs(&self) -> bool {
        self.input_scale.is_some() || self.pre_quant_scale.is_some()
    }

    /// One row of inputs as the product takes them: multiplied by `pre_quant_scale`, then rounded.
    pub fn round_inputs(&self, x: &[f32], out: &mut [f32]) {
        match &self.pre_quant_scale {
            Some(scale) => {
                for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
                    *out = x * scale;
                }
            }
            None => out[..x.len()].copy_from_slice(x),
        }
        if let Some(scale) = self.input_scale {
            round(self.scheme.format, scale, &mut out[..x.len()]);
        }
    }
}

/// Rounds one row in place and widens it again, as `QuantizeLinear` and `DequantizeLinear` do with this scale.
///
/// NVFP4 first finds the scale of each block of 16: its largest value over 6 · `scale`, in E4M3, as TensorRT's dynamic
/// quantisation and ModelOpt do; a block whose scale is below the smallest E4M3 number becomes 0.
pub fn round(format: Format, scale: f32, row: &mut [f32]) {
    match format {
        Format::Int4 | Format::Int8 => {
            for x in row {
                *x = (*x / scale).round_ties_even().clamp(-128.0, 127.0) * scale;
            }
        }
        Format::Fp8 => {
            for x in row {
                *x = e4m3::round(*x / scale) * scale;
            }
        }
        Format::Nvfp4 => {
            for block in row.chunks_mut(NVFP4_BLOCK) {
                let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let step = e4m3::round(largest / (e2m1::MAX * scale)) * scale;
                for x in block {
                    *x = if step > 0.0 { e2m1::round(*x / step) * step } else { 0.0 };
                }
            }
        }
    }
}

/// Weights of a row that share a scale; 0 if the scales' shape does not tell.
fn block(format: Format, scale: &Tensor, columns: usize) -> usize {
    match format {
        Format::Int4 => match *scale.shape {
            [_, groups] if groups > 0 => columns / groups,
            _ => 0,
        },
        Format::Int8 | Format::Fp8 => columns,
        Format::Nvfp4 => NVFP4_BLOCK,
    }
}

/// The element at `at` of a tensor of floats; `None` beyond its end and for other types.
pub fn number(tensor: &Tensor, at: usize) -> Option<f32> {
    let bytes = tensor.bytes();
    let two = || Some([*bytes.get(2 * at)?, *bytes.get(2 * at + 1)?]);
    match tensor.dtype {
        Dtype::F32 => Some(f32::from_le_bytes(bytes.get(4 * at..4 * at + 4)?.try_into().ok()?)),
        Dtype::BF16 => two().map(|two| bf16::from_le_bytes(two).to_f32()),
        Dtype::F16 => two().map(|two| f16::from_le_bytes(two).to_f32()),
        Dtype::F8_E4M3 => bytes.get(at).map(|&code| e4m3::decode(code)),
        _ => None,
    }
}

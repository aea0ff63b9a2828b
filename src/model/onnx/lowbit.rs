//! Linear layers with weights in few bits, as explicit quantise and dequantise operators: a layer's stored form and a value
//! flow in; the values that its matrix product takes flow out. TensorRT fuses these patterns; ONNX Runtime computes them as written.
//!
//! | weights | scales | inputs |
//! |---|---|---|
//! | INT4 | one for a block of inputs | as they are |
//! | INT8 | one for an output | INT8, one scale |
//! | FP8 E4M3 | one | FP8, one scale |
//! | NVFP4: E2M1 | E4M3 for 16 inputs, times one factor | the same, blocks scaled while running |
//!
//! A layer that was stored without a scale for its inputs takes them as they are.
//!
//! f16 has few digits below 6e-5 and none below 3e-8, and scales of large layers get there: NVFP4's factor is the largest
//! weight over 2688. A scale that would lose digits stays in f32, and what it gives is cast, as in ModelOpt's own exports.

use super::graph::{Builder, Value};
use super::proto::{Attribute, DataType};
use super::qwen2::Stored;
use crate::model::lowbit::NVFP4_BLOCK;
use half::f16;

/// A linear layer's weight in few bits.
#[derive(Debug, Clone)]
pub struct Coded {
    /// `[outputs, inputs]`, of type INT4, INT8, FP8 or FP4.
    pub weight: Stored,
    /// What the codes are multiplied with.
    pub scale: Scale,
    /// The inputs' scale; NVFP4: the factor of their blocks' scales. `None`: inputs stay as they are.
    pub input_scale: Option<f32>,
    /// What every input is multiplied with first.
    pub channels: Option<Vec<f32>>,
}

/// Scales of a weight.
#[derive(Debug, Clone)]
pub enum Scale {
    /// One for all.
    Whole(f32),
    /// One for each output.
    Outputs(Vec<f32>),
    /// One for each block of inputs, `[outputs, inputs / block]`; `factor`: what these are multiplied with in turn.
    Blocks {
        /// The scales.
        scales: Stored,
        /// Inputs of a block.
        block: usize,
        /// Their common factor.
        factor: Option<f32>,
    },
}

/// Emits these patterns for numbers of type `kind`.
pub struct Patterns<'a> {
    /// The graph.
    pub b: &'a mut Builder,
    /// What is computed in.
    pub kind: DataType,
}

impl Patterns<'_> {
    /// The weight of `module`, `[outputs, inputs]`.
    pub fn weight(&mut self, module: &str, coded: &Coded) -> Value {
        let Stored { kind, shape, at } = &coded.weight;
        let codes = self.b.weight(&format!("{module}.weight"), *kind, shape, at);
        let (wide, kind) = match &coded.scale {
            Scale::Whole(scale) => {
                let (scale, kind) = self.number(&format!("{module}.scale"), *scale);
                (self.b.op("DequantizeLinear", &[&codes, &scale], vec![]), kind)
            }
            Scale::Outputs(scales) => {
                let kind = kind_of_scales(scales, self.kind);
                let scales = self.b.numbers(&format!("{module}.scale"), kind, &[scales.len()], scales);
                (self.b.op("DequantizeLinear", &[&codes, &scales], vec![Attribute::int("axis", 0)]), kind)
            }
            Scale::Blocks { scales: Stored { kind, shape, at }, block, factor } => {
                let (mut scales, mut kind) =
                    (self.b.weight(&format!("{module}.weight_scale"), *kind, shape, at), *kind);
                if let Some(factor) = factor {
                    let factor = self.number(&format!("{module}.factor"), *factor);
                    kind = factor.1;
                    scales = self.b.op("DequantizeLinear", &[&scales, &factor.0], vec![]);
                }
                (self.b.op("DequantizeLinear", &[&codes, &scales], blocks(*block)), kind)
            }
        };
        self.cast(&wide, kind, self.kind)
    }

    /// The inputs `x` of `module`, each multiplied with its factor.
    pub fn channels(&mut self, module: &str, coded: &Coded, x: &str) -> Value {
        let Some(channels) = &coded.channels else { return x.to_owned() };
        let name = format!("{module}.pre_quant_scale");
        let channels = self.b.numbers(&name, self.kind, &[channels.len()], channels);
        self.b.op("Mul", &[x, &channels], vec![])
    }

    /// The inputs `x` of `module`, rounded as its weight wants them.
    pub fn inputs(&mut self, module: &str, coded: &Coded, x: &str) -> Value {
        let Some(scale) = coded.input_scale else { return x.to_owned() };
        let (scale, kind) = self.number(&format!("{module}.input_scale"), scale);
        if coded.weight.kind == DataType::Float4E2m1 {
            let mut attributes = blocks(NVFP4_BLOCK);
            attributes.push(Attribute::int("scale_type", DataType::Float8E4m3 as i64));
            let [codes, scales] = self.b.op_of_tensorrt("TRT_FP4DynamicQuantize", &[x, &scale], attributes);
            let scales = self.b.op("DequantizeLinear", &[&scales, &scale], vec![]);
            let rounded = self.b.op("DequantizeLinear", &[&codes, &scales], blocks(NVFP4_BLOCK));
            return self.cast(&rounded, kind, self.kind);
        }
        let name = if coded.weight.kind == DataType::Int8 { "zero.int8" } else { "zero.fp8" };
        let zero = self.b.zero(name, coded.weight.kind);
        let x = self.cast(x, self.kind, kind);
        let codes = self.b.op("QuantizeLinear", &[&x, &scale, &zero], vec![]);
        let rounded = self.b.op("DequantizeLinear", &[&codes, &scale, &zero], vec![]);
        self.cast(&rounded, kind, self.kind)
    }

    /// A scale, and the type that it is in.
    fn number(&mut self, name: &str, value: f32) -> (Value, DataType) {
        let kind = kind_of_scales(&[value], self.kind);
        (self.b.numbers(name, kind, &[], &[value]), kind)
    }

    fn cast(&mut self, value: &str, from: DataType, to: DataType) -> Value {
        if from == to {
            return value.to_owned();
        }
        self.b.op("Cast", &[value], vec![Attribute::int("to", to as i64)])
    }
}

/// The type that scales are emitted in, in a graph that computes in `kind`.
pub fn kind_of_scales(scales: &[f32], kind: DataType) -> DataType {
    let lost = |&scale: &f32| {
        let stored = f16::from_f32(scale);
        stored.to_f32() != scale && !stored.is_normal()
    };
    if kind == DataType::Float16 && scales.iter().any(lost) { DataType::Float } else { kind }
}

/// Blocks along the inputs, the last axis.
fn blocks(block: usize) -> Vec<Attribute> {
    vec![Attribute::int("axis", -1), Attribute::int("block_size", block as i64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scales_that_f16_cannot_tell_apart_stay_in_f32() {
        let kind = |scale| kind_of_scales(&[0.5, scale, 0.0], DataType::Float16);
        // Below 2^-14 steps are of 2^-24: 1.5 · 2^-20 is 24 of them, 1e-5 is 167.8.
        for exact in [1e-3, 6.2e-5, 1.5 / 1_048_576.0] {
            assert_eq!(kind(exact), DataType::Float16, "{exact}");
        }
        for lost in [1e-5, 1e-9, 1e9] {
            assert_eq!(kind(lost), DataType::Float, "{lost}");
        }
        assert_eq!(kind_of_scales(&[1e-9], DataType::Bfloat16), DataType::Bfloat16);
    }
}

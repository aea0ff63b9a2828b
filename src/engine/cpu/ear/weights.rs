//! The ear's weight file. Bytes of `engines/ear/ear.safetensors` flow in, checked shapes and the list of symbols flow
//! out. Tensors are 16-bit floats named as in `engines/ear/model.py`; the metadata lists the symbols and the decoder's rule.

use super::decode::Rule;
use super::frontend::BANDS;
use super::kernel::Matrix;
use crate::engine::cpu::simd::Simd;
use half::f16;
use safetensors::{Dtype, SafeTensors};

/// Frames a strided convolution looks at.
pub const SPAN: usize = 5;
/// Frames a block's depthwise convolution looks at.
pub const TAPS: usize = 7;

/// Why a weight file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EarError {
    /// The file cannot be read.
    #[error("cannot read the ear's weights {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no safetensors file.
    #[error("the ear's weights are no safetensors file: {0}")]
    Format(String),
    /// A tensor is missing or has another shape.
    #[error("the ear's weights: tensor {name}: {why}")]
    Tensor {
        /// Which tensor.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The metadata does not list the symbols.
    #[error("the ear's weights: {0}")]
    Symbols(String),
}

/// Scale and offset of a layer normalisation.
#[derive(Debug, Clone)]
pub struct Norm {
    pub scale: Vec<f32>,
    pub offset: Vec<f32>,
}

/// One residual block: x + B relu(A depthwise(norm(x))).
#[derive(Debug, Clone)]
pub struct Block {
    pub norm: Norm,
    /// Tap, then channel.
    pub depthwise: Vec<f32>,
    pub depthwise_bias: Vec<f32>,
    pub a: Matrix,
    pub b: Matrix,
    /// Frames of right context.
    pub look: usize,
}

/// All weights.
#[derive(Debug, Clone)]
pub struct Weights {
    pub symbols: Vec<String>,
    pub rule: Rule,
    pub first: Matrix,
    pub second: Matrix,
    pub blocks: Vec<Block>,
    pub norm: Norm,
    pub head: Matrix,
    pub channels: usize,
}

struct File<'a> {
    tensors: SafeTensors<'a>,
    simd: Simd,
}

impl File<'_> {
    fn halves(&self, name: &str, shape: &[usize]) -> Result<Vec<f16>, EarError> {
        let fault = |why: String| EarError::Tensor { name: name.to_owned(), why };
        let view = self.tensors.tensor(name).map_err(|e| fault(e.to_string()))?;
        if view.dtype() != Dtype::F16 || view.shape() != shape {
            return Err(fault(format!("is {:?} {:?}, needs to be F16 {shape:?}", view.dtype(), view.shape())));
        }
        let values: Vec<f16> = view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(fault("holds a value that is not finite".into()))
        }
    }

    fn singles(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EarError> {
        Ok(self.halves(name, shape)?.iter().map(|v| v.to_f32()).collect())
    }

    fn norm(&self, name: &str, channels: usize) -> Result<Norm, EarError> {
        let part = |which: &str| self.singles(&format!("{name}.{which}"), &[channels]);
        Ok(Norm { scale: part("weight")?, offset: part("bias")? })
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, EarError> {
        let rows = self.halves(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.singles(&format!("{name}.bias"), &[outputs])?;
        Ok(Matrix::new(&rows, &bias, inputs, self.simd))
    }

    /// A convolution over `SPAN` frames as one matrix whose input is those frames one after another, oldest first.
    fn strided(&self, name: &str, outputs: usize, inputs: usize) -> Result<Matrix, EarError> {
        let trained = self.halves(&format!("{name}.weight"), &[outputs, inputs, SPAN])?;
        let bias = self.singles(&format!("{name}.bias"), &[outputs])?;
        let mut rows = vec![f16::ZERO; trained.len()];
        for (row, trained) in rows.chunks_exact_mut(inputs * SPAN).zip(trained.chunks_exact(inputs * SPAN)) {
            for (channel, taps) in trained.chunks_exact(SPAN).enumerate() {
                for (tap, weight) in taps.iter().enumerate() {
                    row[tap * inputs + channel] = *weight;
                }
            }
        }
        Ok(Matrix::new(&rows, &bias, inputs * SPAN, self.simd))
    }

    fn dimension(&self, name: &str) -> Result<usize, EarError> {
        let view = self.tensors.tensor(name).map_err(|e| EarError::Tensor { name: name.into(), why: e.to_string() })?;
        view.shape()
            .first()
            .copied()
            .ok_or_else(|| EarError::Tensor { name: name.into(), why: "has no dimension".into() })
    }
}

impl Weights {
    /// Reads a weight file for the given instructions.
    ///
    /// # Errors
    /// If the bytes are no safetensors file, or a tensor or the symbol list is missing or malformed.
    pub fn parse(bytes: &[u8], simd: Simd) -> Result<Weights, EarError> {
        let format = |e: safetensors::SafeTensorError| EarError::Format(e.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let entry = |key: &str| metadata.metadata().as_ref().and_then(|m| m.get(key)).cloned();
        let symbols: Vec<String> = entry("symbols")
            .ok_or_else(|| EarError::Symbols("the metadata entry `symbols` is missing".into()))?
            .split(' ')
            .map(str::to_owned)
            .collect();
        let looks: Vec<usize> = entry("looks")
            .unwrap_or_default()
            .split(' ')
            .map(|l| l.parse().ok().filter(|&look| look < TAPS))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                EarError::Symbols("the metadata entry `looks` must list the right context of each block".into())
            })?;
        let number = |key: &str| {
            let value = entry(key).and_then(|v| v.parse::<f32>().ok()).filter(|v| v.is_finite() && *v > 0.0);
            value.ok_or_else(|| EarError::Symbols(format!("the metadata entry `{key}` must be a positive number")))
        };
        let rule = Rule {
            word_enough: number("word_enough")?,
            stop_enough: number("stop_enough")?,
            stop_amid_enough: number("stop_amid_enough")?,
            end_lag_ms: number("end_lag_ms")?.min(1_000.0) as u16,
        };
        if symbols.len() < 3 || symbols.first().map(String::as_str) != Some("<blank>") {
            return Err(EarError::Symbols("the symbols must begin with <blank>".into()));
        }
        if symbols.len() > usize::from(u16::MAX) {
            return Err(EarError::Symbols("too many symbols".into()));
        }
        let file = File { tensors: SafeTensors::deserialize(bytes).map_err(format)?, simd };
        let (front, channels) = (file.dimension("c1.weight")?, file.dimension("c2.weight")?);
        let first = file.strided("c1", front, BANDS)?;
        let second = file.strided("c2", channels, front)?;
        if first.padded() != front || second.padded() != channels {
            let why = "the number of channels must be a multiple of 16".into();
            return Err(EarError::Tensor { name: "c1.weight, c2.weight".into(), why });
        }
        let block = |(i, &look): (usize, &usize)| {
            let trained = file.singles(&format!("blocks.{i}.dw"), &[channels, 1, TAPS])?;
            let mut depthwise = vec![0.0; trained.len()];
            for (channel, taps) in trained.chunks_exact(TAPS).enumerate() {
                for (tap, weight) in taps.iter().enumerate() {
                    depthwise[tap * channels + channel] = *weight;
                }
            }
            Ok(Block {
                norm: file.norm(&format!("blocks.{i}.ln"), channels)?,
                depthwise,
                depthwise_bias: file.singles(&format!("blocks.{i}.db"), &[channels])?,
                a: file.linear(&format!("blocks.{i}.a"), 2 * channels, channels)?,
                b: file.linear(&format!("blocks.{i}.b"), channels, 2 * channels)?,
                look,
            })
        };
        let blocks = looks.iter().enumerate().map(block).collect::<Result<_, EarError>>()?;
        let norm = file.norm("ln", channels)?;
        let head = file.linear("head", symbols.len(), channels)?;
        Ok(Weights { symbols, rule, first, second, blocks, norm, head, channels })
    }

    /// Bytes the weights occupy in memory.
    pub fn bytes(&self) -> usize {
        let blocks: usize =
            self.blocks.iter().map(|b| b.a.bytes() + b.b.bytes() + (b.depthwise.len() + 3 * self.channels) * 4).sum();
        self.first.bytes() + self.second.bytes() + blocks + self.head.bytes()
    }
}

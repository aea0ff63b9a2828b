//! The weights of a Qwen2 checkpoint, by their role in the network.
//! Flows in: a [`Checkpoint`] and the [`Qwen2Config`] it must fit. Flows out: matrices inside the mapping and the few
//! vectors (norms, biases) as f32; or one error that lists what is missing or misshapen, before anything is allocated.

use super::Qwen2Config;
use crate::model::ModelError;
use crate::model::checkpoint::{BLOCK_ROWS, Checkpoint, Element, GROUP, Tensor};
use crate::model::lowbit::{Declared, LowBit, number};
use half::{bf16, f16};
use safetensors::Dtype;
use std::path::Path;
use std::sync::Arc;

/// A row-major matrix as the checkpoint stores it.
#[derive(Clone)]
pub struct Matrix {
    tensor: Tensor,
    /// Storage of one element.
    pub element: Element,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Formats and scales, if and only if `element` is [`Element::LowBit`].
    low: Option<Arc<LowBit>>,
}

impl Matrix {
    /// All rows, `element.row_bytes(columns)` bytes each, as [`Element`] describes.
    pub fn bytes(&self) -> &[u8] {
        self.tensor.bytes()
    }

    /// Formats and scales of a matrix in few bits.
    pub fn low_bit(&self) -> Option<&LowBit> {
        self.low.as_deref()
    }

    /// Widens one row into `out`, which has `columns` elements.
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        if let Some(low) = &self.low {
            return low.widen_row(row, out);
        }
        let length = self.element.row_bytes(self.columns);
        if self.element.is_quantised() {
            let block = BLOCK_ROWS * length;
            let at = row / BLOCK_ROWS * block;
            widen_block_row(&self.bytes()[at..at + block], self.element, row % BLOCK_ROWS, out);
        } else {
            widen(&self.bytes()[row * length..(row + 1) * length], self.element, out);
        }
    }
}

/// One decoder layer.
pub struct Layer {
    /// RMS norm before attention.
    pub attention_norm: Vec<f32>,
    /// Query projection.
    pub query: Matrix,
    /// Key projection.
    pub key: Matrix,
    /// Value projection.
    pub value: Matrix,
    /// Query bias.
    pub query_bias: Vec<f32>,
    /// Key bias.
    pub key_bias: Vec<f32>,
    /// Value bias.
    pub value_bias: Vec<f32>,
    /// Attention output projection.
    pub output: Matrix,
    /// RMS norm before the feed-forward layer.
    pub feed_norm: Vec<f32>,
    /// Gate projection.
    pub gate: Matrix,
    /// Up projection.
    pub up: Matrix,
    /// Down projection.
    pub down: Matrix,
    /// Scales of keys and values that are cached in FP8, E4M3: what is cached is rounded to whole codes of them.
    pub cache_scales: Option<[f32; 2]>,
}

/// Configuration and weights of one model.
pub struct Qwen2Weights {
    /// Shape and constants.
    pub config: Qwen2Config,
    /// Token embedding, `[vocab_size][hidden_size]`.
    pub embedding: Matrix,
    /// Decoder layers in order.
    pub layers: Vec<Layer>,
    /// RMS norm before the head.
    pub final_norm: Vec<f32>,
    /// Output head; the embedding when tied.
    pub head: Matrix,
    /// Bytes of the weight files.
    pub file_bytes: u64,
}

impl Qwen2Weights {
    /// Opens a model directory: `config.json` and the safetensors files. Weights are mapped, not read.
    ///
    /// # Errors
    /// What [`Qwen2Config::load`] and [`Checkpoint::open`] refuse, and one list of missing or misshapen tensors.
    pub fn open(directory: &Path) -> Result<Qwen2Weights, ModelError> {
        let config = Qwen2Config::load(directory)?;
        let declared = Declared::read(directory)?.unwrap_or_default();
        let checkpoint = Checkpoint::open(directory)?;
        check(&checkpoint, &declared, &config)?;
        Self::collect(&checkpoint, &declared, config)
    }

    /// Every matrix that a token is multiplied with, the head last.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|layer| {
            [&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down]
        });
        layers.chain([&self.head])
    }

    fn collect(checkpoint: &Checkpoint, declared: &Declared, config: Qwen2Config) -> Result<Qwen2Weights, ModelError> {
        let matrix = |name: &str, rows, columns| {
            let found = matrix_of(checkpoint, declared, name, (rows, columns));
            found.map_err(|reason| ModelError::invalid(checkpoint.directory(), reason))
        };
        let vector = |name: &str| find(checkpoint, name).map(vector_of);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let matrix =
                |part: &str, rows, columns| matrix(&format!("model.layers.{index}.{part}.weight"), rows, columns);
            let vector = |part: &str| vector(&format!("model.layers.{index}.{part}"));
            layers.push(Layer {
                attention_norm: vector("input_layernorm.weight")?,
                query: matrix("self_attn.q_proj", queries, hidden)?,
                key: matrix("self_attn.k_proj", keys, hidden)?,
                value: matrix("self_attn.v_proj", keys, hidden)?,
                query_bias: vector("self_attn.q_proj.bias")?,
                key_bias: vector("self_attn.k_proj.bias")?,
                value_bias: vector("self_attn.v_proj.bias")?,
                output: matrix("self_attn.o_proj", hidden, queries)?,
                feed_norm: vector("post_attention_layernorm.weight")?,
                gate: matrix("mlp.gate_proj", inner, hidden)?,
                up: matrix("mlp.up_proj", inner, hidden)?,
                down: matrix("mlp.down_proj", hidden, inner)?,
                cache_scales: if declared.kv_fp8 { cache_scales(checkpoint, index)? } else { None },
            });
        }
        let embedding = matrix("model.embed_tokens.weight", config.vocab_size, hidden)?;
        let head = if ties(checkpoint, &config) {
            embedding.clone()
        } else {
            matrix("lm_head.weight", config.vocab_size, hidden)?
        };
        let final_norm = vector("model.norm.weight")?;
        Ok(Qwen2Weights { config, embedding, layers, final_norm, head, file_bytes: checkpoint.file_bytes() })
    }
}

/// Names and shapes of every tensor the network needs.
fn expected(config: &Qwen2Config, tied: bool) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut list = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !tied {
        list.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.layers {
        for (part, shape) in [
            ("input_layernorm.weight", vec![hidden]),
            ("self_attn.q_proj.weight", vec![queries, hidden]),
            ("self_attn.q_proj.bias", vec![queries]),
            ("self_attn.k_proj.weight", vec![keys, hidden]),
            ("self_attn.k_proj.bias", vec![keys]),
            ("self_attn.v_proj.weight", vec![keys, hidden]),
            ("self_attn.v_proj.bias", vec![keys]),
            ("self_attn.o_proj.weight", vec![hidden, queries]),
            ("post_attention_layernorm.weight", vec![hidden]),
            ("mlp.gate_proj.weight", vec![inner, hidden]),
            ("mlp.up_proj.weight", vec![inner, hidden]),
            ("mlp.down_proj.weight", vec![hidden, inner]),
        ] {
            list.push((format!("model.layers.{layer}.{part}"), shape));
        }
    }
    list
}

/// Checks all tensors and reports every kind of trouble in one sentence.
fn check(checkpoint: &Checkpoint, declared: &Declared, config: &Qwen2Config) -> Result<(), ModelError> {
    let mut trouble: Vec<String> = Vec::new();
    for (name, shape) in expected(config, ties(checkpoint, config)) {
        if let (Some(module), [rows, columns]) = (name.strip_suffix(".weight"), &shape[..]) {
            match LowBit::find(checkpoint, declared, module, (*rows, *columns)) {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(reason) => {
                    trouble.push(reason);
                    continue;
                }
            }
        }
        match checkpoint.get(&name) {
            None => trouble.push(format!("`{name}` is missing")),
            Some(tensor) if is_bytes(tensor) && !fits(tensor, &shape) => trouble.push(format!(
                "`{name}` is stored as {:?} of shape {:?}, which is not how `sage engine quantize` stores {shape:?} weights",
                tensor.dtype, tensor.shape
            )),
            Some(tensor) if !fits(tensor, &shape) => {
                trouble.push(format!("`{name}` has shape {:?}, config.json makes it {shape:?}", tensor.shape));
            }
            Some(tensor) if element_of(tensor.dtype).is_none() => {
                trouble.push(format!(
                    "`{name}` is stored as {:?}; bf16, f16, f32 and what `sage engine quantize`, `sage calibrate` and ModelOpt make are supported",
                    tensor.dtype
                ));
            }
            Some(_) => {}
        }
    }
    if trouble.is_empty() {
        return Ok(());
    }
    let shown = trouble.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    let more = if trouble.len() > 5 { format!("; and {} more", trouble.len() - 5) } else { String::new() };
    let reason = format!("the weights do not fit config.json: {shown}{more}");
    Err(ModelError::invalid(checkpoint.directory(), reason))
}

fn find<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a Tensor, ModelError> {
    checkpoint
        .get(name)
        .ok_or_else(|| ModelError::invalid(checkpoint.directory(), format!("tensor `{name}` is missing")))
}

pub(crate) fn element_of(dtype: Dtype) -> Option<Element> {
    match dtype {
        Dtype::BF16 => Some(Element::Bf16),
        Dtype::F16 => Some(Element::F16),
        Dtype::F32 => Some(Element::F32),
        Dtype::I8 => Some(Element::Q8),
        Dtype::U8 => Some(Element::Q4),
        _ => None,
    }
}

fn is_bytes(tensor: &Tensor) -> bool {
    element_of(tensor.dtype).is_some_and(Element::is_quantised)
}

/// Whether a tensor holds `shape` weights; quantised ones are matrices of whole groups, stored as blocks of bytes.
fn fits(tensor: &Tensor, shape: &[usize]) -> bool {
    match element_of(tensor.dtype) {
        Some(element @ (Element::Q8 | Element::Q4)) => match *shape {
            [rows, columns] => columns % GROUP == 0 && tensor.shape == element.block_shape(rows, columns),
            _ => false,
        },
        _ => tensor.shape == shape,
    }
}

/// Whether the head is the embedding. Where config.json says so and the checkpoint has a head all the same, `transformers` 5
/// takes that head unless it is equal to the embedding; a head in few bits is always one of its own.
pub(crate) fn ties(checkpoint: &Checkpoint, config: &Qwen2Config) -> bool {
    let own = |head: &Tensor| {
        let embedding = checkpoint.get("model.embed_tokens.weight");
        embedding.is_none_or(|embedding| embedding.dtype != head.dtype || embedding.bytes() != head.bytes())
    };
    config.tied
        && checkpoint.get("lm_head.weight_scale").is_none()
        && !checkpoint.get("lm_head.weight").is_some_and(own)
}

fn matrix_of(
    checkpoint: &Checkpoint,
    declared: &Declared,
    name: &str,
    (rows, columns): (usize, usize),
) -> Result<Matrix, String> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    if let Some(low) = LowBit::find(checkpoint, declared, module, (rows, columns))? {
        let (tensor, element) = (low.weight.clone(), Element::LowBit);
        return Ok(Matrix { element, rows, columns, tensor, low: Some(Arc::new(low)) });
    }
    let tensor = checkpoint.get(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
    let element = element_of(tensor.dtype).unwrap_or(Element::F32);
    Ok(Matrix { element, rows, columns, tensor: tensor.clone(), low: None })
}

/// Scales of the layer's cached keys and values.
fn cache_scales(checkpoint: &Checkpoint, layer: usize) -> Result<Option<[f32; 2]>, ModelError> {
    let mut scales = [1.0; 2];
    for (scale, part) in scales.iter_mut().zip(["k_proj.k_scale", "v_proj.v_scale"]) {
        let name = format!("model.layers.{layer}.self_attn.{part}");
        let tensor = find(checkpoint, &name)?;
        match number(tensor, 0).filter(|_| tensor.shape.iter().product::<usize>() == 1) {
            Some(value) if value.is_finite() && value > 0.0 => *scale = value,
            _ => {
                let reason = format!("`{name}` is not one positive number");
                return Err(ModelError::invalid(checkpoint.directory(), reason));
            }
        }
    }
    Ok(Some(scales))
}

fn vector_of(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape.iter().product()];
    widen(tensor.bytes(), element_of(tensor.dtype).unwrap_or(Element::F32), &mut values);
    values
}

/// Widens little-endian floats; `bytes` holds `out.len()` of them.
pub(crate) fn widen(bytes: &[u8], element: Element, out: &mut [f32]) {
    match element {
        Element::Bf16 => {
            for (pair, out) in bytes.chunks_exact(2).zip(out) {
                *out = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
            }
        }
        Element::F16 => {
            for (pair, out) in bytes.chunks_exact(2).zip(out) {
                *out = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
            }
        }
        Element::F32 => {
            for (four, out) in bytes.chunks_exact(4).zip(out) {
                *out = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
        Element::Q8 | Element::Q4 => unreachable!("quantised rows lie in blocks: widen_block_row"),
        Element::LowBit => unreachable!("LowBit::widen_row"),
    }
}

/// Widens one row of a block of quantised rows; `out` has the row's length.
pub(crate) fn widen_block_row(block: &[u8], element: Element, row: usize, out: &mut [f32]) {
    let columns = out.len();
    for (column, out) in out.iter_mut().enumerate() {
        let (group, column) = (column / GROUP, column % GROUP);
        let (scales, weights) = element.group_at(columns, group);
        let (scales, weights) = (&block[scales..], &block[weights..]);
        let scale = bf16::from_le_bytes([scales[row * 2], scales[row * 2 + 1]]).to_f32();
        let place = |column: usize| column / 4 * 4 * BLOCK_ROWS + row * 4 + column % 4;
        let whole = match element {
            Element::Q8 => f32::from(weights[place(column)]) - 128.0,
            _ => {
                let pair = weights[place(column % 16)];
                f32::from(pair >> (column / 16 * 4) & 15) - 8.0
            }
        };
        *out = whole * scale;
    }
}

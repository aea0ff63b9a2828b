//! What a checkpoint holds for a graph: plain tensors where they lie, quantised layers as their codes and scales. A checkpoint
//! and what is wanted of it flow in; places of bytes flow out, in the checkpoint's files or in the one file that is written
//! beside the graph because nothing there has the form that a graph needs.

use super::Options;
use super::graph::Location;
use super::lowbit::{Coded, Scale, kind_of_scales};
use super::proto::DataType;
use super::qwen2::Stored;
use super::rewritten::{How, INT4_BLOCK, Rewritten};
use crate::model::ModelError;
use crate::model::checkpoint::{Checkpoint, Element, Tensor};
use crate::model::lowbit::{Declared, Format, LowBit};
use crate::model::qwen2::{Qwen2Config, element_of, ties, widen};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// The tensors of a checkpoint as a graph refers to them.
pub struct Source<'a> {
    checkpoint: &'a Checkpoint,
    coded: BTreeMap<String, Coded>,
    /// What is not in the checkpoint's files as it is needed.
    pub rewritten: Rewritten,
    /// Formats of the layers that are quantised.
    pub formats: BTreeSet<Format>,
}

impl<'a> Source<'a> {
    /// Looks at every linear layer and plans what must be rewritten.
    ///
    /// # Errors
    /// What is wanted is not what the checkpoint holds, nor what can be made of it without samples.
    pub fn new(checkpoint: &'a Checkpoint, config: &Qwen2Config, options: &Options) -> Result<Source<'a>, ModelError> {
        let invalid = |reason: String| ModelError::invalid(checkpoint.directory(), reason);
        let declared = Declared::read(checkpoint.directory())?;
        let mut source =
            Source { checkpoint, coded: BTreeMap::new(), rewritten: Rewritten::default(), formats: BTreeSet::new() };
        for (module, shape) in linears(config) {
            let low = match &declared {
                Some(declared) => LowBit::find(checkpoint, declared, &module, shape).map_err(invalid)?,
                None => None,
            };
            let coded = match low {
                Some(low) => {
                    source.formats.insert(low.scheme.format);
                    source.stored_low(&module, &low, options.precision.kind()).map_err(invalid)?
                }
                None if declared.is_none() && options.weights == Some(Format::Int4) && module != HEAD => {
                    source.formats.insert(Format::Int4);
                    source.made_int4(&module, shape, options.precision.kind()).map_err(invalid)?
                }
                None => continue,
            };
            source.coded.insert(module, coded);
        }
        source.check(options).map_err(invalid)?;
        Ok(source)
    }

    /// The tensor called `name`, if it holds plain numbers.
    pub fn get(&self, name: &str) -> Option<Stored> {
        let tensor = self.checkpoint.get(name)?;
        Some(Stored { kind: kind_of(tensor.dtype)?, shape: tensor.shape.clone(), at: place(tensor).ok()? })
    }

    /// Whether the head is the embedding.
    pub fn ties(&self, config: &Qwen2Config) -> bool {
        ties(self.checkpoint, config)
    }

    /// The linear layer called `module`, if it is quantised.
    pub fn coded(&self, module: &str) -> Option<&Coded> {
        self.coded.get(module)
    }

    /// Whether what was asked for is what there is.
    fn check(&self, options: &Options) -> Result<(), String> {
        let held: Vec<&str> = self.formats.iter().map(|format| format.name()).collect();
        let held = held.join(" and ");
        match options.weights {
            None if !self.formats.is_empty() => {
                return Err(format!(
                    "its weights are {held}; say --precision {}, or give the unquantised checkpoint",
                    self.formats.iter().next().map_or("", |format| format.name())
                ));
            }
            Some(wanted) if !self.formats.is_empty() && !self.formats.contains(&wanted) => {
                return Err(format!("its weights are {held}, not {}; give the unquantised checkpoint", wanted.name()));
            }
            Some(wanted) if self.formats.is_empty() => {
                let name = wanted.name();
                return Err(format!(
                    "{name} needs to know how large the layers' inputs get; `sage calibrate MODEL --recipe {name} --out DIR` \
                     measures that and writes the folder to build from"
                ));
            }
            _ => {}
        }
        let plain = |name: &str| name.rsplit_once('.').is_none_or(|(module, _)| self.coded(module).is_none());
        let unknown = |tensor: &Tensor| kind_of(tensor.dtype).is_none();
        match self.checkpoint.tensors().find(|(name, tensor)| plain(name) && unknown(tensor)) {
            None => Ok(()),
            Some((name, tensor)) => Err(format!(
                "`{name}` is stored as {:?}; engines are emitted from bf16, f16 or f32 weights, or from what `sage calibrate` \
                 and ModelOpt write",
                tensor.dtype
            )),
        }
    }

    /// A layer that is quantised already.
    fn stored_low(&mut self, module: &str, low: &LowBit, kind: DataType) -> Result<Coded, String> {
        let (weight, scale) = (&low.weight, &low.weight_scale);
        let blocks = vec![low.rows, low.columns / low.block];
        let (weight_kind, at) = match low.scheme.format {
            Format::Int4 => {
                let bytes = low.rows * low.columns / 2;
                (DataType::Int4, self.rewritten.add(&format!("{module}.weight"), weight, How::PairInputs, bytes))
            }
            Format::Int8 => (DataType::Int8, place(weight)?),
            Format::Fp8 => (DataType::Float8E4m3, place(weight)?),
            Format::Nvfp4 => (DataType::Float4E2m1, place(weight)?),
        };
        let in_blocks = |kind, at, factor| Scale::Blocks {
            scales: Stored { kind, shape: blocks.clone(), at },
            block: low.block,
            factor,
        };
        let scale = match low.scheme.format {
            Format::Int4 if kind_of(scale.dtype) == Some(kind) => in_blocks(kind, place(scale)?, None),
            Format::Int4 => {
                let kind = if kind == DataType::Float16 { kind_of_scales(&numbers(scale), kind) } else { kind };
                let bytes = blocks.iter().product::<usize>() * kind.bytes();
                let name = format!("{module}.weight_scale");
                in_blocks(kind, self.rewritten.add(&name, scale, How::Numbers(kind), bytes), None)
            }
            Format::Int8 => Scale::Outputs(numbers(scale)),
            Format::Fp8 => Scale::Whole(numbers(scale).first().copied().unwrap_or(1.0)),
            Format::Nvfp4 => in_blocks(DataType::Float8E4m3, place(scale)?, low.weight_scale_2),
        };
        Ok(Coded {
            weight: Stored { kind: weight_kind, shape: vec![low.rows, low.columns], at },
            scale,
            input_scale: low.input_scale,
            channels: low.pre_quant_scale.clone(),
        })
    }

    /// A layer that becomes INT4 while it is written.
    fn made_int4(&mut self, module: &str, (rows, columns): (usize, usize), kind: DataType) -> Result<Coded, String> {
        let name = format!("{module}.weight");
        let tensor = self.checkpoint.get(&name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        if tensor.shape != [rows, columns] || kind_of(tensor.dtype).is_none() {
            return Err(format!(
                "`{name}` is {:?} of shape {:?}; floats of shape {:?} become INT4",
                tensor.dtype,
                tensor.shape,
                [rows, columns]
            ));
        }
        if !columns.is_multiple_of(INT4_BLOCK) || !rows.is_multiple_of(2) {
            return Err(format!(
                "`{module}` has {rows} outputs and {columns} inputs; int4 needs pairs of outputs and blocks of {INT4_BLOCK} inputs"
            ));
        }
        let blocks = columns / INT4_BLOCK;
        let at = self.rewritten.add(&name, tensor, How::Int4Codes, rows * columns / 2);
        let scales = self.rewritten.add(
            &format!("{module}.weight_scale"),
            tensor,
            How::Int4Scales(kind),
            rows * blocks * kind.bytes(),
        );
        Ok(Coded {
            weight: Stored { kind: DataType::Int4, shape: vec![rows, columns], at },
            scale: Scale::Blocks {
                scales: Stored { kind, shape: vec![rows, blocks], at: scales },
                block: INT4_BLOCK,
                factor: None,
            },
            input_scale: None,
            channels: None,
        })
    }
}

/// The format of the first layer that is quantised, in the order of the network.
///
/// # Errors
/// A quantisation that is not known.
pub fn stored_format(checkpoint: &Checkpoint, config: &Qwen2Config) -> Result<Option<Format>, ModelError> {
    let Some(declared) = Declared::read(checkpoint.directory())? else { return Ok(None) };
    let quantised = |module: &str| checkpoint.get(&format!("{module}.weight_scale")).is_some();
    let first = linears(config).into_iter().find(|(module, _)| quantised(module));
    Ok(first.and_then(|(module, _)| declared.scheme(&module)).map(|scheme| scheme.format))
}

/// The output head, which stays as it is where nothing says otherwise.
pub const HEAD: &str = "lm_head";

/// Linear layers and their outputs and inputs, in the order of the network. Where the head is the embedding, it is a layer of
/// its own only if it is quantised.
fn linears(config: &Qwen2Config) -> Vec<(String, (usize, usize))> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut list = Vec::new();
    for layer in 0..config.layers {
        for (part, shape) in [
            ("self_attn.q_proj", (queries, hidden)),
            ("self_attn.k_proj", (keys, hidden)),
            ("self_attn.v_proj", (keys, hidden)),
            ("self_attn.o_proj", (hidden, queries)),
            ("mlp.gate_proj", (inner, hidden)),
            ("mlp.up_proj", (inner, hidden)),
            ("mlp.down_proj", (hidden, inner)),
        ] {
            list.push((format!("model.layers.{layer}.{part}"), shape));
        }
    }
    list.push((HEAD.to_owned(), (config.vocab_size, hidden)));
    list
}

fn kind_of(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::BF16 => Some(DataType::Bfloat16),
        Dtype::F16 => Some(DataType::Float16),
        Dtype::F32 => Some(DataType::Float),
        _ => None,
    }
}

/// Where a tensor's bytes lie.
fn place(tensor: &Tensor) -> Result<Location, String> {
    let name = tensor.file().file_name().and_then(|name| name.to_str());
    Ok(Location {
        file: name.ok_or_else(|| format!("the name of {} is not UTF-8", tensor.file().display()))?.to_owned(),
        offset_bytes: tensor.offset_bytes(),
        length_bytes: tensor.bytes().len() as u64,
    })
}

/// All numbers of a small tensor of floats.
fn numbers(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape.iter().product()];
    widen(tensor.bytes(), element_of(tensor.dtype).unwrap_or(Element::F32), &mut values);
    values
}

//! The network as ONNX, for builders of engines. A model folder and options flow in; `model.onnx`, hard links to the
//! safetensors it refers to, and a manifest flow out. Nothing is copied: a weight is a file name, an offset and a length.

pub mod graph;
pub mod proto;
pub mod qwen2;

use self::graph::Location;
use self::proto::{DataType, Model};
use self::qwen2::{Part, Stored, decoder};
use super::ModelError;
use super::checkpoint::{Checkpoint, Tensor};
use super::qwen2::Qwen2Config;
use crate::whole_file;
use prost::Message;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Which operators a graph is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Opset 24: `Attention`, `RotaryEmbedding`, `RMSNormalization`, `TensorScatter`. TensorRT 10.15 and newer, RTX.
    Fused,
    /// Opset 18, small operators only; the caller appends new keys and values. Any TensorRT 10.
    Primitive,
}

/// In which numbers a graph computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// IEEE single precision: to compare with the CPU path; TensorRT's fused attention refuses it.
    Fp32,
}

impl Precision {
    /// As an ONNX element type.
    pub fn kind(self) -> DataType {
        match self {
            Precision::Bf16 => DataType::Bfloat16,
            Precision::Fp16 => DataType::Float16,
            Precision::Fp32 => DataType::Float,
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        if self == Precision::Fp32 { 4 } else { 2 }
    }

    /// As in commands and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
            Precision::Fp32 => "fp32",
        }
    }
}

/// What to emit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Operators.
    pub form: Form,
    /// Numbers.
    pub precision: Precision,
    /// Positions that the KV cache has room for.
    pub capacity: usize,
    /// Graphs that the layers are divided among, in a row.
    pub groups: usize,
}

/// What was emitted.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// One per layer group, in order.
    pub graphs: Vec<EmittedGraph>,
    /// The safetensors beside them.
    pub weights: Vec<PathBuf>,
    /// Shape of the network.
    pub config: Qwen2Config,
}

/// One graph's file.
#[derive(Debug, Clone)]
pub struct EmittedGraph {
    /// The `.onnx` file.
    pub path: PathBuf,
    /// Its layers.
    pub layers: Range<usize>,
    /// Its size.
    pub bytes: u64,
}

/// A graph that is not yet a file.
#[derive(Debug, Clone)]
pub struct Composed {
    /// Name of its file.
    pub name: String,
    /// Its layers.
    pub layers: Range<usize>,
    /// The graph.
    pub model: Model,
}

impl Composed {
    /// Names of the weights that it refers to.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        let all = self.model.graph.iter().flat_map(|graph| &graph.initializer);
        all.filter(|tensor| tensor.data_location == 1).map(|tensor| tensor.name.as_str())
    }
}

/// The graphs of a checkpoint, one per layer group.
///
/// # Errors
/// Its weights are quantised, one is missing, or the groups do not fit.
pub fn compose(checkpoint: &Checkpoint, config: &Qwen2Config, options: &Options) -> Result<Vec<Composed>, ModelError> {
    let folder = checkpoint.directory();
    if options.groups == 0 || options.groups > config.layers {
        let reason = format!("{} groups do not fit {} layers", options.groups, config.layers);
        return Err(ModelError::invalid(folder, reason));
    }
    for (name, tensor) in checkpoint.tensors() {
        if kind_of(tensor.dtype).is_none() {
            let reason = format!(
                "`{name}` is stored as {:?}; engines are emitted from bf16, f16 or f32 weights, give the unquantised checkpoint",
                tensor.dtype
            );
            return Err(ModelError::invalid(folder, reason));
        }
    }
    let find = |name: &str| checkpoint.get(name).and_then(stored);
    let parts = groups(config.layers, options.groups).into_iter().enumerate();
    parts
        .map(|(index, layers)| {
            let part = Part { layers: layers.clone(), of: config.layers };
            let model = decoder(config, &find, options, &part)
                .map_err(|missing| ModelError::invalid(folder, missing.to_string()))?;
            let name = match options.groups {
                1 => "model.onnx".to_owned(),
                count => format!("model-{index}-of-{count}.onnx"),
            };
            Ok(Composed { name, layers, model })
        })
        .collect()
}

/// Writes the graphs of the checkpoint `model` to the folder `out`, with hard links to its weights.
///
/// # Errors
/// The checkpoint cannot be used, its weights are quantised, the groups do not fit, or `out` cannot be written.
pub fn emit(model: &Path, out: &Path, options: &Options) -> Result<Emitted, ModelError> {
    let config = Qwen2Config::load(model)?;
    let checkpoint = Checkpoint::open(model)?;
    let composed = compose(&checkpoint, &config, options)?;
    let failed = |error: io::Error| ModelError::invalid(out, format!("cannot be written ({error})"));
    std::fs::create_dir_all(out).map_err(failed)?;
    let mut graphs = Vec::new();
    for graph in composed {
        let bytes = graph.model.encode_to_vec();
        let path = out.join(graph.name);
        whole_file::write(&path, &bytes).map_err(failed)?;
        graphs.push(EmittedGraph { path, layers: graph.layers, bytes: bytes.len() as u64 });
    }
    let files: BTreeSet<&Path> = checkpoint.tensors().map(|(_, tensor)| tensor.file()).collect();
    let mut weights = Vec::new();
    for file in files {
        let beside = out.join(file.file_name().unwrap_or_default());
        link(file, &beside).map_err(|error| {
            let reason = format!(
                "{} cannot be linked here ({error}); give an --out on the file system of the checkpoint",
                file.display()
            );
            ModelError::invalid(out, reason)
        })?;
        weights.push(beside);
    }
    Ok(Emitted { graphs, weights, config })
}

/// Layers in `count` runs of equal length, the longer ones first.
pub fn groups(layers: usize, count: usize) -> Vec<Range<usize>> {
    let (each, more) = (layers / count, layers % count);
    let mut start = 0;
    (0..count)
        .map(|index| {
            let end = start + each + usize::from(index < more);
            let range = start..end;
            start = end;
            range
        })
        .collect()
}

fn kind_of(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::BF16 => Some(DataType::Bfloat16),
        Dtype::F16 => Some(DataType::Float16),
        Dtype::F32 => Some(DataType::Float),
        _ => None,
    }
}

fn stored(tensor: &Tensor) -> Option<Stored> {
    let at = Location {
        file: tensor.file().file_name()?.to_str()?.to_owned(),
        offset_bytes: tensor.offset_bytes(),
        length_bytes: tensor.bytes().len() as u64,
    };
    Some(Stored { kind: kind_of(tensor.dtype)?, shape: tensor.shape.clone(), at })
}

/// A second name for the file; what lies there under that name is replaced. A checkpoint in a cache of links is followed.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let from = from.canonicalize()?;
    if to.canonicalize().is_ok_and(|to| to == from) {
        return Ok(());
    }
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let _ = std::fs::remove_file(&part);
    std::fs::hard_link(&from, &part)?;
    std::fs::rename(&part, to)?;
    // Renaming one name of a file over another of its names does nothing and leaves both.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

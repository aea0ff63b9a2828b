//! The network as ONNX, for builders of engines. A model folder and options flow in; `model.onnx`, hard links to the
//! safetensors it refers to, and a manifest flow out. Nothing is copied: a weight is a file name, an offset and a length.

pub mod graph;
pub mod lowbit;
pub mod proto;
pub mod qwen2;
pub mod rewritten;
pub mod source;

use self::proto::{DataType, Model};
use self::qwen2::{Part, decoder};
use self::rewritten::Rewritten;
use self::source::Source;
use super::ModelError;
use super::checkpoint::Checkpoint;
use super::lowbit::Format;
use super::qwen2::Qwen2Config;
use crate::whole_file;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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

impl Form {
    /// As in commands and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Form::Fused => "fused",
            Form::Primitive => "primitive",
        }
    }
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
        self.kind().bytes()
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
    /// Numbers that it computes in, and those of plain weights.
    pub precision: Precision,
    /// What the weights of linear layers are stored in; `None`: plain numbers. A checkpoint that mixes formats has this one
    /// among them.
    pub weights: Option<Format>,
    /// Positions that the KV cache has room for.
    pub capacity: usize,
    /// Graphs that the layers are divided among, in a row.
    pub groups: usize,
}

impl Options {
    /// Numbers for people: `bf16`, `int4 weights, bf16`.
    pub fn name(&self) -> String {
        match self.weights {
            None => self.precision.name().to_owned(),
            Some(format) => format!("{} weights, {}", format.name(), self.precision.name()),
        }
    }
}

/// What was emitted.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// One per layer group, in order.
    pub graphs: Vec<EmittedGraph>,
    /// The safetensors beside them, and the file of rewritten tensors if there is one.
    pub weights: Vec<PathBuf>,
    /// Shape of the network.
    pub config: Qwen2Config,
    /// The graphs themselves, in the order of their files.
    pub parts: Vec<Composed>,
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
    /// Names of the weights that it refers to, and their bytes.
    pub fn weights(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.model.graph.iter().flat_map(|graph| &graph.initializer);
        all.filter(|tensor| tensor.data_location == 1).map(|tensor| {
            let length = tensor.external_data.iter().find(|entry| entry.key == "length");
            (tensor.name.as_str(), length.and_then(|entry| entry.value.parse().ok()).unwrap_or(0))
        })
    }
}

/// The graphs of a checkpoint and what they need beside it.
pub struct Composition {
    /// One per layer group, in order.
    pub parts: Vec<Composed>,
    /// Tensors that are not in the checkpoint's files as the graphs need them.
    pub rewritten: Rewritten,
    /// Formats of quantised layers.
    pub formats: BTreeSet<Format>,
}

/// Bytes of all weights that the graphs refer to, each once.
pub fn weights_bytes(parts: &[Composed]) -> u64 {
    let all: BTreeMap<&str, u64> = parts.iter().flat_map(Composed::weights).collect();
    all.values().sum()
}

/// The graphs of a checkpoint, one per layer group.
///
/// # Errors
/// A weight is missing or not stored as `options` want it, or the groups do not fit.
pub fn compose(checkpoint: &Checkpoint, config: &Qwen2Config, options: &Options) -> Result<Composition, ModelError> {
    let folder = checkpoint.directory();
    if options.groups == 0 || options.groups > config.layers {
        let reason = format!("{} groups do not fit {} layers", options.groups, config.layers);
        return Err(ModelError::invalid(folder, reason));
    }
    let source = Source::new(checkpoint, config, options)?;
    let mut parts = Vec::new();
    for (index, layers) in groups(config.layers, options.groups).into_iter().enumerate() {
        let part = Part { layers: layers.clone(), of: config.layers };
        let model = decoder(config, &source, options, &part)
            .map_err(|missing| ModelError::invalid(folder, missing.to_string()))?;
        let name = match options.groups {
            1 => "model.onnx".to_owned(),
            count => format!("model-{index}-of-{count}.onnx"),
        };
        parts.push(Composed { name, layers, model });
    }
    Ok(Composition { parts, rewritten: source.rewritten, formats: source.formats })
}

/// Writes the graphs of the checkpoint `model` to the folder `out`, with hard links to its weights and, where these have not
/// the form that a graph needs, one file of rewritten ones.
///
/// # Errors
/// The checkpoint cannot be used as `options` want it, the groups do not fit, or `out` cannot be written.
pub fn emit(model: &Path, out: &Path, options: &Options) -> Result<Emitted, ModelError> {
    let config = Qwen2Config::load(model)?;
    let checkpoint = Checkpoint::open(model)?;
    let composed = compose(&checkpoint, &config, options)?;
    let failed = |error: io::Error| ModelError::invalid(out, format!("cannot be written ({error})"));
    std::fs::create_dir_all(out).map_err(failed)?;
    let mut weights = Vec::new();
    if composed.rewritten.bytes() > 0 {
        // A graph of an earlier emission would refer to the file that is replaced.
        for graph in &composed.parts {
            let _ = std::fs::remove_file(out.join(&graph.name));
        }
        composed.rewritten.write(out, &|| false).map_err(failed)?;
        weights.push(out.join(rewritten::FILE));
    }
    let mut graphs = Vec::new();
    for graph in &composed.parts {
        let bytes = graph.model.encode_to_vec();
        let path = out.join(&graph.name);
        whole_file::write(&path, &bytes).map_err(failed)?;
        graphs.push(EmittedGraph { path, layers: graph.layers.clone(), bytes: bytes.len() as u64 });
    }
    let files: BTreeSet<&Path> = checkpoint.tensors().map(|(_, tensor)| tensor.file()).collect();
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
    Ok(Emitted { graphs, weights, config, parts: composed.parts })
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

//! What an engine folder says about itself: from which weights, by which recipe, with which TensorRT, for which GPU. A folder
//! flows in; a manifest, or the one sentence why its engine must not be used, flows out.

use super::{TrtError, at, edge_llm};
use crate::model::checkpoint::Checkpoint;
use crate::model::lowbit::QUANT_CONFIG;
use crate::model::onnx::Options;
use crate::model::qwen2::Qwen2Config;
use crate::whole_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::Path;

/// Name of the file in an engine's folder.
pub const FILE: &str = "manifest.json";
/// Layout that this program writes and reads.
const FORMAT: u32 = 2;

/// The GPU that an engine is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As asked for.
    pub name: String,
    /// Compute capability, 89 for 8.9; `None`: the machine's own.
    pub capability: Option<i32>,
}

impl Target {
    /// `thor`, `h200`, `this` or `sm89` and the like.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(name: &str) -> Result<Target, String> {
        let capability = match name {
            "this" => None,
            "thor" => Some(110),
            "h200" => Some(90),
            _ => {
                let number = name.strip_prefix("sm").and_then(|digits| digits.parse().ok());
                let known = number.filter(|number| (50..200).contains(number));
                Some(
                    known
                        .ok_or_else(|| format!("no target \"{name}\"; say thor, this, or sm89, sm120 and the like"))?,
                )
            }
        };
        Ok(Target { name: name.to_owned(), capability })
    }
}

/// What decides what an engine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The graph.
    pub graph: Options,
    /// Most tokens of one prefill step.
    pub chunk: usize,
    /// The GPU, as asked for.
    pub target: String,
}

/// Sizes of one optimisation profile: least, usual, largest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// `decode` or `prefill`.
    pub role: String,
    /// New tokens, S.
    pub tokens: [usize; 3],
    /// Positions that are looked at, T.
    pub keys: [usize; 3],
}

/// Shape of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Decoder layers.
    pub layers: usize,
    /// Width.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
}

/// Which TensorRT built it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// Name and version.
    pub tensorrt: String,
    /// Compute capability; 0: the builder's own GPU.
    pub capability: i32,
}

/// One engine of the row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Its file: a plan, or after `--emit-only` an ONNX graph.
    pub file: String,
    /// First layer and the one after the last.
    pub layers: [usize; 2],
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// Inputs as `name type [sizes]`.
    pub inputs: Vec<String>,
    /// Outputs as `name type [sizes]`.
    pub outputs: Vec<String>,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of this file.
    pub format: u32,
    /// Shape of the network.
    pub network: Network,
    /// How it was made.
    pub recipe: Recipe,
    /// BLAKE3 over the headers and samples of every tensor of the checkpoint that holds weights.
    pub weights: String,
    /// BLAKE3 over how a quantised checkpoint says that it is quantised and over all its scales; `None`: it is not.
    #[serde(default)]
    pub calibration: Option<String>,
    /// Bytes of the checkpoint.
    pub weights_bytes: u64,
    /// Bytes of weights that the engines hold, as far as their graphs tell.
    #[serde(default)]
    pub held_bytes: u64,
    /// Bytes of keys and values at full capacity.
    pub kv_bytes: u64,
    /// Optimisation profiles, by index.
    pub profiles: Vec<Profile>,
    /// Who built it; `None`: only emitted.
    pub builder: Option<Builder>,
    /// Its engines, in the order they run.
    pub engines: Vec<Engine>,
    /// BLAKE3 of everything above, so that a changed figure is seen; set when it is saved.
    #[serde(default)]
    pub blake3: String,
}

impl Manifest {
    /// A manifest without engines.
    pub fn new(checkpoint: &Checkpoint, config: &Qwen2Config, recipe: Recipe) -> Manifest {
        let capacity = recipe.graph.capacity;
        let keys = [1, capacity.div_ceil(2), capacity];
        let profile = |role: &str, tokens| Profile { role: role.to_owned(), tokens, keys };
        let numbers = 2 * config.layers * config.kv_heads * config.head_dim * capacity;
        Manifest {
            format: FORMAT,
            network: Network {
                layers: config.layers,
                hidden: config.hidden_size,
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                intermediate: config.intermediate_size,
                vocabulary: config.vocab_size,
            },
            weights: fingerprint(checkpoint),
            calibration: calibration(checkpoint),
            weights_bytes: checkpoint.file_bytes(),
            held_bytes: 0,
            kv_bytes: (numbers * recipe.graph.precision.bytes()) as u64,
            profiles: vec![profile("decode", [1, 1, 1]), profile("prefill", [1, recipe.chunk, recipe.chunk])],
            builder: None,
            engines: Vec::new(),
            blake3: String::new(),
            recipe,
        }
    }

    /// A manifest that says nothing but its recipe.
    #[cfg(test)]
    pub fn empty(recipe: Recipe) -> Manifest {
        Manifest {
            format: FORMAT,
            network: Network {
                layers: 1,
                hidden: 8,
                heads: 1,
                kv_heads: 1,
                head_dim: 8,
                intermediate: 8,
                vocabulary: 9,
            },
            recipe,
            weights: String::new(),
            calibration: None,
            weights_bytes: 0,
            held_bytes: 0,
            kv_bytes: 0,
            profiles: Vec::new(),
            builder: None,
            engines: Vec::new(),
            blake3: String::new(),
        }
    }

    /// Reads the manifest of an engine's folder.
    ///
    /// # Errors
    /// There is none, it is of another layout, or it was changed after it was written.
    pub fn load(folder: &Path) -> Result<Manifest, TrtError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(TrtError::Stale(no_engine(folder)));
            }
            read => read.map_err(at(&path))?,
        };
        let stale = |why: String| TrtError::Stale(format!("{}: {why}", path.display()));
        let json: Value =
            serde_json::from_str(&text).map_err(|error| stale(format!("is no manifest of an engine ({error})")))?;
        let format = json.get("format").and_then(Value::as_u64);
        if let Some(format) = format.filter(|format| *format != u64::from(FORMAT)) {
            return Err(stale(format!("layout {format}, this program reads {FORMAT}; build the engine again")));
        }
        let manifest: Manifest =
            serde_json::from_value(json).map_err(|error| stale(format!("is no manifest of an engine ({error})")))?;
        if manifest.blake3 != manifest.checksum() {
            return Err(stale("was changed after it was written; build the engine again".to_owned()));
        }
        Ok(manifest)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TrtError> {
        let path = folder.join(FILE);
        let whole = Manifest { blake3: self.checksum(), ..self.clone() };
        let text = serde_json::to_string_pretty(&whole).unwrap_or_default();
        whole_file::write(&path, format!("{text}\n").as_bytes()).map_err(at(&path))
    }

    fn checksum(&self) -> String {
        let bare = Manifest { blake3: String::new(), ..self.clone() };
        blake3::hash(serde_json::to_string(&bare).unwrap_or_default().as_bytes()).to_hex().to_string()
    }

    /// Why an engine with this manifest is not the one that `wanted` describes; `None` if it is.
    pub fn differs_from(&self, wanted: &Manifest) -> Option<String> {
        if self.weights != wanted.weights || self.weights_bytes != wanted.weights_bytes {
            return Some("the checkpoint's weights are not those it was built from".to_owned());
        }
        if self.calibration != wanted.calibration {
            return Some("the checkpoint's calibration, its scales, is not that it was built from".to_owned());
        }
        if self.recipe != wanted.recipe || self.profiles != wanted.profiles || self.network != wanted.network {
            let show = |recipe: &Recipe| serde_json::to_string(recipe).unwrap_or_default();
            return Some(format!("it was built as {}, wanted is {}", show(&self.recipe), show(&wanted.recipe)));
        }
        match (&self.builder, &wanted.builder) {
            (Some(own), Some(here)) if own == here => None,
            (Some(own), Some(here)) => Some(format!(
                "it was built by {} for capability {}, here it would be {} for {}",
                own.tensorrt, own.capability, here.tensorrt, here.capability
            )),
            (None, Some(_)) => Some("it was only emitted, not built".to_owned()),
            (_, None) => None,
        }
    }

    /// First 16 bytes of BLAKE3 over the hashes of its engines: what ran, for the record.
    pub fn hash(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        self.engines.iter().for_each(|engine| {
            hasher.update(engine.blake3.as_bytes());
        });
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        hash
    }

    /// Checks that the files of the folder are those of the manifest, byte for byte.
    ///
    /// # Errors
    /// The sentence that says which is not.
    pub fn check_files(&self, folder: &Path) -> Result<(), TrtError> {
        if self.engines.is_empty() {
            return Err(TrtError::Stale(format!("{}: the manifest names no engine", folder.display())));
        }
        for engine in &self.engines {
            let path = folder.join(&engine.file);
            let length = std::fs::metadata(&path).map_err(at(&path))?.len();
            if length != engine.bytes || hash_file(&path)? != engine.blake3 {
                let text = format!("{}: is not the file that its manifest describes; build it again", path.display());
                return Err(TrtError::Stale(text));
            }
        }
        Ok(())
    }
}

/// One sentence about a folder without a manifest.
fn no_engine(folder: &Path) -> String {
    let name = folder.display();
    if !folder.is_dir() {
        return format!("{name}: there is no such folder");
    }
    edge_llm::refusal(folder).unwrap_or_else(|| format!("{name}: no engine lies there ({FILE} is missing)"))
}

/// BLAKE3 of a file, as hex.
///
/// # Errors
/// It cannot be read.
pub fn hash_file(path: &Path) -> Result<String, TrtError> {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).map_err(at(path))?;
    hasher.update_reader(file).map_err(at(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Bytes of a sample, and samples of each tensor, evenly spread from its first byte to its last.
const SAMPLE: usize = 4_096;
const SAMPLES: usize = 16;

/// BLAKE3 over name, type, shape and samples of every tensor that holds weights: tells checkpoints apart without reading 28 GB. Two
/// that differ only between the samples, as by a few rows of a large embedding, are taken for the same.
pub fn fingerprint(checkpoint: &Checkpoint) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in checkpoint.tensors().filter(|(name, _)| !is_scale(name)) {
        hasher.update(format!("{name} {:?} {:?}\n", tensor.dtype, tensor.shape).as_bytes());
        samples(tensor.bytes()).for_each(|sample| {
            hasher.update(sample);
        });
    }
    hasher.finalize().to_hex().to_string()
}

/// All of a small tensor.
fn samples(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let spare = bytes.len().saturating_sub(SAMPLE);
    let (count, all) = if bytes.len() <= SAMPLE * SAMPLES { (1, bytes.len()) } else { (SAMPLES, SAMPLE) };
    (0..count).map(move |index| {
        let at =
            if count == 1 { 0 } else { spare / (SAMPLES - 1) * index + spare % (SAMPLES - 1) * index / (SAMPLES - 1) };
        &bytes[at..at + all]
    })
}

/// `weight_scale`, `weight_scale_2`, `input_scale`, `pre_quant_scale`.
fn is_scale(name: &str) -> bool {
    name.ends_with("_scale") || name.ends_with("_scale_2")
}

/// BLAKE3 over every scale of a quantised checkpoint and the file that names its formats.
fn calibration(checkpoint: &Checkpoint) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    let mut scales = checkpoint.tensors().filter(|(name, _)| is_scale(name)).peekable();
    scales.peek()?;
    hasher.update(&std::fs::read(checkpoint.directory().join(QUANT_CONFIG)).unwrap_or_default());
    for (name, tensor) in scales {
        hasher.update(format!("{name} {:?} {:?}\n", tensor.dtype, tensor.shape).as_bytes());
        hasher.update(tensor.bytes());
    }
    Some(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_reach_from_the_first_byte_to_the_last() {
        let large: Vec<u8> = (0..1_000_003).map(|i| (i % 251) as u8).collect();
        let taken: Vec<&[u8]> = samples(&large).collect();
        assert_eq!(taken.len(), 16);
        assert!(taken.iter().all(|sample| sample.len() == 4_096));
        assert_eq!((taken[0], taken[15]), (&large[..4_096], &large[1_000_003 - 4_096..]));
        let start = |sample: &[u8]| sample.as_ptr() as usize - large.as_ptr() as usize;
        let steps = taken.windows(2).map(|pair| start(pair[1]) - start(pair[0]));
        assert!(steps.into_iter().all(|step| (66_000..67_000).contains(&step)));
        for small in [0, 1, 4_096, 4_097, 65_536] {
            assert_eq!(samples(&large[..small]).map(<[u8]>::len).sum::<usize>(), small);
        }
    }
}

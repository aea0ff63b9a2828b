//! What each network will hold, from file sizes and headers. A configuration flows in; bytes per network flow out. A test
//! keeps these figures at or above what the loaded engines report.

use crate::assets::engine_dir;
use crate::block::reason::{CONTEXT, PARKED, PREFILL_CHUNK};
use crate::config::{Beside, Config, Loading};
use crate::engine::cpu::kernels::{KEY_BLOCK, MAX_QUERIES};
use crate::engine::tensorrt::{Manifest, edge_llm, manifest, working};
use crate::model::checkpoint::Checkpoint;
use crate::model::qwen2::Qwen2Config;
use crate::types::SourceKind;
use serde::Serialize;
use std::path::Path;

/// Memory of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineMemory {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub weights_bytes: u64,
    /// Keys and values of all contexts it keeps.
    pub kv_bytes: u64,
    /// Working memory.
    pub activation_bytes: u64,
    /// It is read into memory of its own, so its weights lie in memory twice while it is loaded.
    pub copied: bool,
    /// What a reader should know about these figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl EngineMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights_bytes.saturating_add(self.kv_bytes).saturating_add(self.activation_bytes)
    }
}

/// Room for the ear's rings and the sound of one job, per microphone.
const EAR_STATE_BYTES: u64 = 1_000_000;
/// Activations of the eye, all frames it may have open.
const EYE_STATE_BYTES: u64 = 8_000_000;

/// Memory of everything the configuration loads, and of what it says lies beside it.
///
/// # Errors
/// One sentence about the file that cannot be read.
pub fn engines(config: &Config) -> Result<Vec<EngineMemory>, String> {
    let microphones = config.core().sources_of(SourceKind::Microphone).count() as u64;
    let ear = engine_dir(&config.engines.ear, "ear").join("ear.safetensors");
    let eye = engine_dir(&config.engines.eye, "eye").join("eye.safetensors");
    let small = |name: &str, file: &Path, state: u64| {
        // Stored in 16 bits, held in 32.
        size_of_file(file).map(|bytes| EngineMemory {
            name: name.to_owned(),
            weights_bytes: 2 * bytes,
            kv_bytes: 0,
            activation_bytes: state,
            copied: false,
            note: None,
        })
    };
    let mut list = vec![
        small("ear", &ear, EAR_STATE_BYTES * microphones.max(1))?,
        small("eye", &eye, EYE_STATE_BYTES)?,
        mind(&engine_dir(&config.engines.mind, "mind"), usize::from(config.engines.threads))?,
    ];
    for other in &config.plan.beside {
        list.push(beside(other)?);
    }
    Ok(list)
}

/// What the configuration says lies beside the networks that it loads.
fn beside(other: &Beside) -> Result<EngineMemory, String> {
    let mut memory = EngineMemory {
        name: other.name.clone(),
        weights_bytes: other.weights_bytes,
        kv_bytes: other.kv_bytes,
        activation_bytes: other.activation_bytes,
        copied: other.loading == Loading::Copied,
        note: None,
    };
    if !other.engine.as_os_str().is_empty() {
        let engine = built(&other.name, &other.engine, 1)?;
        // What somebody measured counts, if it is more.
        let activation_bytes = engine.activation_bytes.max(other.activation_bytes);
        memory = EngineMemory { activation_bytes, copied: memory.copied, ..engine };
    }
    Ok(memory)
}

/// An engine for a GPU, with so many conversations.
fn built(name: &str, folder: &Path, conversations: u64) -> Result<EngineMemory, String> {
    let manifest = Manifest::load(folder).map_err(|error| error.to_string())?;
    let weights_bytes = match manifest.builder {
        Some(_) => manifest.engines.iter().map(|engine| engine.bytes).sum(),
        None if manifest.held_bytes > 0 => manifest.held_bytes,
        None => manifest.weights_bytes,
    };
    let note = format!(
        "activations of {name} are computed from shapes: all values of one layer at once, at chunks of {} tokens over {} positions, and \
         {conversations} times a conversation's inputs and outputs; what TensorRT's kernels want beside that is part of the reserve",
        manifest.recipe.chunk, manifest.recipe.graph.capacity
    );
    Ok(EngineMemory {
        name: name.to_owned(),
        weights_bytes,
        kv_bytes: conversations * manifest.kv_bytes,
        activation_bytes: working::shared_bytes(&manifest) + conversations * working::conversation_bytes(&manifest),
        copied: false,
        note: Some(note),
    })
}

fn size_of_file(file: &Path) -> Result<u64, String> {
    let about = std::fs::metadata(file).map_err(|error| format!("{} cannot be read ({error})", file.display()))?;
    Ok(about.len())
}

/// The reasoner: weights, one cache in use and those of interrupted answers, and one chunk of activations, on the processor in
/// f32.
fn mind(folder: &Path, threads: usize) -> Result<EngineMemory, String> {
    if folder.join(manifest::FILE).is_file() {
        return built("mind", folder, 1 + PARKED as u64);
    }
    if let Some(why) = edge_llm::refusal(folder) {
        return Err(why);
    }
    let shape = Qwen2Config::load(folder).map_err(|error| error.to_string())?;
    let weights_bytes = Checkpoint::open(folder).map_err(|error| error.to_string())?.file_bytes();
    let context = CONTEXT.min(shape.max_positions).next_multiple_of(KEY_BLOCK);
    let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let row = 3 * shape.hidden_size + 2 * queries + 2 * keys + 3 * shape.intermediate_size;
    let floats =
        PREFILL_CHUNK * row + threads.max(1) * MAX_QUERIES * context + shape.vocab_size + context * shape.head_dim;
    Ok(EngineMemory {
        name: "mind".to_owned(),
        weights_bytes,
        kv_bytes: ((1 + PARKED) * context * shape.kv_bytes_per_token()) as u64,
        activation_bytes: (floats * size_of::<f32>()) as u64,
        copied: false,
        note: None,
    })
}

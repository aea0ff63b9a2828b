//! What a network is: files in Hugging Face layout, their checks, the tokenizer, the chat format, sampling.
//! Flows in: a model directory. Flows out: typed configuration, mapped weights, token ids and text.

pub mod chat;
pub mod checkpoint;
pub mod constraint;
pub mod finite;
pub mod lowbit;
pub mod onnx;
pub mod quantize;
pub mod qwen2;
pub mod sampling;
pub(crate) mod tensors;
pub mod tokenizer;
pub mod transcript;

use std::path::{Path, PathBuf};

/// Why a model directory cannot be used; every message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file was read but its content is not what the model needs.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// One sentence.
        reason: String,
    },
}

impl ModelError {
    pub(crate) fn invalid(path: &Path, reason: impl Into<String>) -> ModelError {
        ModelError::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}

/// What goes along with a checkpoint's weights unchanged; each may be absent.
const COMPANIONS: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
];

/// Copies what goes along with the weights of the checkpoint `from` into the folder `to`.
pub(crate) fn copy_companions(from: &Path, to: &Path) -> std::io::Result<()> {
    for file in COMPANIONS.iter().filter(|file| from.join(file).is_file()) {
        std::fs::copy(from.join(file), to.join(file))?;
    }
    Ok(())
}

/// Reads a whole small file.
pub(crate) fn read_text(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })
}

/// Reads and parses a small JSON file.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, ModelError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| ModelError::invalid(path, format!("is not valid JSON ({error})")))
}

//! What an engine needs besides its plans to be spoken with: the checkpoint's tokenizer and settings, copied into its folder. Two
//! folders flow in; small files flow out.

use super::{TrtError, at};
use crate::model::lowbit::QUANT_CONFIG;
use crate::whole_file;
use std::path::Path;

/// Those of a checkpoint in Hugging Face layout; each may be absent.
pub(super) const FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"];

/// What makes a folder with all weights of a checkpoint a checkpoint too.
pub(super) const WITH_WEIGHTS: [&str; 2] = ["model.safetensors.index.json", QUANT_CONFIG];

/// Copies what is there and differs.
///
/// # Errors
/// A file cannot be read or written.
pub fn bring(model: &Path, out: &Path) -> Result<(), TrtError> {
    FILES.iter().try_for_each(|name| copy(model, out, name))
}

/// As [`bring`], for a folder that the weights are linked into.
///
/// # Errors
/// As there.
pub fn bring_with_weights(model: &Path, out: &Path) -> Result<(), TrtError> {
    FILES.iter().chain(&WITH_WEIGHTS).try_for_each(|name| copy(model, out, name))
}

fn copy(model: &Path, out: &Path, name: &str) -> Result<(), TrtError> {
    let (from, to) = (model.join(name), out.join(name));
    if !from.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(&from).map_err(at(&from))?;
    if std::fs::read(&to).ok().as_deref() != Some(bytes.as_slice()) {
        whole_file::write(&to, &bytes).map_err(at(&to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_copied_and_what_changed_is_replaced() {
        let (model, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        std::fs::write(model.path().join("tokenizer.json"), "{}").expect("written");
        std::fs::write(model.path().join("model.safetensors"), "large").expect("written");
        std::fs::write(out.path().join("tokenizer.json"), "of another model").expect("written");
        bring(model.path(), out.path()).expect("copied");
        let names: Vec<_> = std::fs::read_dir(out.path()).expect("read").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["tokenizer.json"]);
        assert_eq!(std::fs::read(out.path().join("tokenizer.json")).expect("read"), b"{}");
    }
}

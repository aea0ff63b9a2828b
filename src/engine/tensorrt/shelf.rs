//! Engine folders on disk: finding them, removing what no manifest names. A folder flows in; what lies there flows out.

use super::manifest::{self, Manifest};
use super::{TrtError, at, edge_llm};
use std::path::{Path, PathBuf};

/// What a folder holds.
#[derive(Debug)]
pub enum Shelved {
    /// An engine of ours, or one sentence why its manifest cannot be used.
    Own(PathBuf, Result<Box<Manifest>, TrtError>),
    /// The layout of TensorRT Edge-LLM: configuration, plan, tokenizer.
    EdgeLlm(PathBuf, Vec<String>),
}

/// The engines in `root` and the folders directly below, by name.
///
/// # Errors
/// The folder cannot be read.
pub fn list(root: &Path) -> Result<Vec<Shelved>, TrtError> {
    let mut folders = vec![root.to_owned()];
    for entry in std::fs::read_dir(root).map_err(at(root))? {
        let path = entry.map_err(at(root))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders.into_iter().filter_map(|folder| look(&folder)).collect())
}

/// What kind of engine lies in the folder, if any.
pub fn look(folder: &Path) -> Option<Shelved> {
    if folder.join(manifest::FILE).is_file() {
        return Some(Shelved::Own(folder.to_owned(), Manifest::load(folder).map(Box::new)));
    }
    let mut plans: Vec<String> = files(folder).filter(|name| name.ends_with(".engine")).collect();
    plans.sort();
    let edge = edge_llm::CONFIGS.iter().any(|name| folder.join(name).is_file()) && !plans.is_empty();
    edge.then(|| Shelved::EdgeLlm(folder.to_owned(), plans))
}

fn files(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Removes plans and temporary files that the manifest does not name; returns their names and bytes.
///
/// # Errors
/// A file cannot be removed.
pub fn prune(folder: &Path, manifest: &Manifest) -> Result<Vec<(String, u64)>, TrtError> {
    let mut removed = Vec::new();
    for name in files(folder) {
        let named = manifest.engines.iter().any(|engine| engine.file == name);
        if named || !(name.ends_with(".plan") || name.ends_with(".plan.part") || name.ends_with(".json.part")) {
            continue;
        }
        let path = folder.join(&name);
        let bytes = std::fs::metadata(&path).map_err(at(&path))?.len();
        std::fs::remove_file(&path).map_err(at(&path))?;
        removed.push((name, bytes));
    }
    Ok(removed)
}

//! Engine folders on disk: finding them, removing what no manifest names. A folder flows in; what lies there flows out.

use super::manifest::{self, Manifest};
use super::{TrtError, at, build, edge_llm, words};
use crate::model::onnx::rewritten;
use std::io;
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
    for entry in std::fs::read_dir(root).map_err(|error| not_read(root, error))? {
        let path = entry.map_err(at(root))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders.into_iter().filter_map(|folder| look(&folder)).collect())
}

/// A folder that is not there is a slip of the pen, one that cannot be read is a fault.
fn not_read(folder: &Path, error: io::Error) -> TrtError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            TrtError::Stale(format!("{}: there is no such folder", folder.display()))
        }
        _ => at(folder)(error),
    }
}

/// What kind of engine lies in the folder, if any.
pub fn look(folder: &Path) -> Option<Shelved> {
    if folder.join(manifest::FILE).is_file() {
        return Some(Shelved::Own(folder.to_owned(), Manifest::load(folder).map(Box::new)));
    }
    edge_llm::plans(folder).map(|plans| Shelved::EdgeLlm(folder.to_owned(), plans))
}

/// Names of the files in a folder; none if it cannot be read.
pub fn files(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Whether a file of this name is one that builds and emissions write.
pub fn is_ours(name: &str) -> bool {
    let whole = name.strip_suffix(".part").unwrap_or(name);
    let known = [manifest::FILE, build::TIMING_CACHE, rewritten::FILE, "model.onnx"];
    is_plan(whole)
        || is_graph_of_a_group(whole)
        || whole.ends_with(".safetensors")
        || known.contains(&whole)
        || words::FILES.contains(&whole)
        || words::WITH_WEIGHTS.contains(&whole)
}

/// One of our files under its temporary name.
fn is_unfinished(name: &str) -> bool {
    name.ends_with(".part") && is_ours(name)
}

/// A plan is named after its content: `model-0123456789ab.plan`. One that `trtexec` was told to write is not.
fn is_plan(name: &str) -> bool {
    let hash = name.strip_suffix(".plan").and_then(|stem| stem.rsplit_once('-')).map(|(_, hash)| hash);
    hash.is_some_and(|hash| hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `model-0-of-4.onnx`.
fn is_graph_of_a_group(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".onnx")?.split_once("-of-"));
    numbers.is_some_and(|(a, b)| [a, b].iter().all(|number| number.parse::<usize>().is_ok()))
}

/// Removes what interrupted and earlier builds left: temporary files, and plans and graphs of groups that the manifest does not
/// name. Returns their names and bytes. Beside a manifest that cannot be read only temporary files are removed.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub fn prune(folder: &Path) -> Result<Vec<(String, u64)>, TrtError> {
    std::fs::read_dir(folder).map_err(|error| not_read(folder, error))?;
    let manifest = Manifest::load(folder).ok();
    let unread = manifest.is_none() && folder.join(manifest::FILE).exists();
    let mut removed = Vec::new();
    for name in files(folder) {
        let named = manifest.iter().flat_map(|manifest| &manifest.engines).any(|engine| engine.file == name);
        let spare = !unread && !named && (is_plan(&name) || (manifest.is_some() && is_graph_of_a_group(&name)));
        if !(is_unfinished(&name) || spare) {
            continue;
        }
        let path = folder.join(&name);
        let bytes = std::fs::metadata(&path).map_err(at(&path))?.len();
        std::fs::remove_file(&path).map_err(at(&path))?;
        removed.push((name, bytes));
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_builds_give_are_ours() {
        for ours in
            ["model-0123456789ab.plan", "model-1-of-4-0123456789ab.plan.part", "model.onnx", "model-1-of-4.onnx"]
        {
            assert!(is_ours(ours), "{ours}");
        }
        for other in
            ["model.plan", "model-0-of-4.plan", "model-0123456789ag.plan", "eye.onnx", "model-x-of-4.onnx", "film.part"]
        {
            assert!(!is_ours(other), "{other}");
        }
    }
}

//! Where the networks and scenes lie: `--assets`, then `../share/sage` beside the program, then the repository it was
//! built from. A relative name flows in, a path flows out.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Sets the folder for the whole process; the first call counts.
pub fn set_root(root: &Path) {
    let _ = ROOT.set(root.to_owned());
}

/// The folder that holds `engines/` and `scenes/`.
pub fn root() -> PathBuf {
    if let Some(root) = ROOT.get() {
        return root.clone();
    }
    let installed = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.parent()?.join("share/sage")))
        .filter(|folder| folder.join("engines").is_dir());
    installed.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
}

/// `name` if a folder was configured, else the one that ships: `engines/<shipped>`.
pub fn engine_dir(configured: &Path, shipped: &str) -> PathBuf {
    if configured.as_os_str().is_empty() { root().join("engines").join(shipped) } else { configured.to_owned() }
}

/// The recording of a scene that ships.
pub fn scene_file(name: &str) -> PathBuf {
    let installed = root().join("scenes").join(format!("{name}.mcap"));
    if installed.is_file() { installed } else { root().join("tests/scenes").join(format!("{name}.mcap")) }
}

//! A tiny checkpoint and a place for its engine.

#![allow(dead_code)] // each test uses its part

use super::checkpoint::cases;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with a model in it, removed at the end.
pub struct Bench {
    pub root: TempDir,
}

impl Bench {
    /// With a model in plain numbers.
    pub fn new() -> Bench {
        Bench::with(|folder| cases()[8].write(folder, 2))
    }

    /// With the model that is written.
    pub fn with(write: impl FnOnce(&Path)) -> Bench {
        let bench = Bench { root: tempfile::tempdir().unwrap() };
        std::fs::create_dir(bench.model()).unwrap();
        write(&bench.model());
        bench
    }

    pub fn model(&self) -> PathBuf {
        self.root.path().join("model")
    }

    pub fn out(&self) -> PathBuf {
        self.root.path().join("engine")
    }
}

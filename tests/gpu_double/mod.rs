//! Test doubles of NVIDIA's driver and of TensorRT's runtime, compiled where the tools for it are, and child processes that load
//! them instead of the real ones.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with the doubles; none where they cannot be compiled.
pub struct Double {
    folder: TempDir,
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Whether the compiler is there; fails the test if it refuses the source.
fn compile(command: &mut Command) -> bool {
    let Ok(made) = command.output() else {
        eprintln!("skipped: no compiler");
        return false;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}

impl Double {
    /// The driver's double alone.
    pub fn of_the_driver() -> Option<Double> {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libcuda.so.1");
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]);
        if !compile(cc.args([&library, &source("gpu/fake_libcuda.c")])) {
            return None;
        }
        std::os::unix::fs::symlink("libcuda.so.1", folder.path().join("libcuda.so")).unwrap();
        Some(Double { folder })
    }

    /// Also that of TensorRT, which needs Python, g++ and the headers that tests/trt/slots.py fetches.
    pub fn with_tensorrt() -> Option<Double> {
        let double = Double::of_the_driver()?;
        let folder = double.path();
        let script = Command::new("python3").arg(source("trt/stubs.py")).arg(folder.join("stubs.h")).output();
        let Ok(script) = script else {
            eprintln!("skipped: no Python");
            return None;
        };
        if !script.status.success() {
            let why = String::from_utf8_lossy(&script.stderr).into_owned();
            assert!(why.starts_with("skipped"), "{why}");
            eprint!("{why}");
            return None;
        }
        let headers = PathBuf::from(String::from_utf8_lossy(&script.stdout).trim());
        let include = |folder: &Path| format!("-I{}", folder.display());
        let mut gpp = Command::new("g++");
        gpp.args(["-std=c++17", "-w", "-O1", "-shared", "-fPIC"]);
        gpp.args([include(folder), include(&headers), include(headers.parent().unwrap())]).arg("-o");
        if !compile(gpp.args([&folder.join("libnvinfer.so.10"), &source("trt/fake_nvinfer.cpp")]).arg("-ldl")) {
            return None;
        }
        // A parser is looked for beside it and never used.
        std::fs::copy(folder.join("libnvinfer.so.10"), folder.join("libnvonnxparser.so.10")).unwrap();
        Some(double)
    }

    /// Where they lie.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A program that finds the doubles.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_LIBRARY_PATH", self.path())
            .env("SAGE_TENSORRT", self.path())
            .env("FAKE_CUDA_LEDGER", self.path().join("ledger"))
            .env("FAKE_TENSORRT_LEDGER", self.path().join("tensorrt"));
        command
    }

    /// Runs `sage` with them.
    pub fn sage(&self, args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_sage")).args(args).output().unwrap()
    }

    /// What the driver's double counted at the end: kind, made, destroyed.
    pub fn counted(&self) -> Vec<(String, u64, u64)> {
        let text = std::fs::read_to_string(self.path().join("ledger")).unwrap();
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[0].to_owned(), words[1].parse().unwrap(), words[2].parse().unwrap())
            })
            .collect()
    }

    /// What TensorRT's double counted: objects that are still alive, runs queued.
    pub fn tensorrt_counted(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(self.path().join("tensorrt")).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        (words[1].parse().unwrap(), words[3].parse().unwrap())
    }
}

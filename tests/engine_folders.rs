//! Folders of engines as commands treat them: what is refused, what is removed, what a folder is taken for. No TensorRT is needed.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/checkpoint.rs"]
mod checkpoint;

use bench::Bench;
use sage::engine::tensorrt::{Manifest, claim, shelf};
use std::process::{Command, Output};

fn sage(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sage")).args(args).output().unwrap()
}

#[test]
fn leftovers_are_pruned_and_foreign_engines_recognised() {
    let bench = Bench::new();
    let (model, out) = (bench.model().display().to_string(), bench.out().display().to_string());
    sage(&["engine", "build", &model, "--out", &out, "--emit-only", "--capacity", "320"]);
    std::fs::write(bench.out().join("model-0123456789ab.plan"), "old").unwrap();
    std::fs::write(bench.out().join("model-0123456789ac.plan.part"), "interrupted").unwrap();
    std::fs::write(bench.out().join("model.plan"), "of trtexec").unwrap();
    let output = sage(&["engine", "prune", &out]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 files removed"), "{output:?}");
    Manifest::load(&bench.out()).unwrap().check_files(&bench.out()).unwrap();
    assert!(bench.out().join("model.plan").exists());

    let edge = bench.root.path().join("edge");
    std::fs::create_dir(&edge).unwrap();
    for name in ["config.json", "llm.engine", "tokenizer.json"] {
        std::fs::write(edge.join(name), "{}").unwrap();
    }
    let output = sage(&["engine", "inspect", &edge.display().to_string()]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("Edge-LLM"), "{output:?}");
    assert_eq!(shelf::list(bench.root.path()).unwrap().len(), 2);
    // Everything else that is asked of it is refused with what it is.
    let edge = edge.display().to_string();
    let config = bench.root.path().join("sage.toml");
    std::fs::write(&config, format!("[engines]\nmind = {edge:?}\n")).unwrap();
    let config = config.display().to_string();
    for args in [
        &["engine", "verify", &edge][..],
        &["engine", "prune", &edge],
        &["engine", "build", &edge, "--out", &out, "--emit-only"],
        &["ask", "--model", &edge, "hello"],
        &["plan", "--config", &config],
        &["run", "--config", &config],
        #[cfg(feature = "tensorrt")]
        &["engine", "bench", &edge],
    ] {
        refused(args, "is an engine of TensorRT Edge-LLM, which sage does not run");
    }
}

/// Bad input: one sentence, exit code 2.
fn refused(args: &[&str], says: &str) {
    let output = sage(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && text.contains(says) && text.lines().count() == 1,
        "{args:?}: {output:?}"
    );
}

#[test]
fn folders_without_an_engine_and_changed_manifests_are_one_sentence() {
    let bench = Bench::new();
    let (model, out) = (bench.model().display().to_string(), bench.out().display().to_string());
    for what in [
        "inspect",
        "verify",
        "prune",
        "list",
        #[cfg(feature = "tensorrt")]
        "bench",
    ] {
        refused(&["engine", what, &out], "there is no such folder");
    }
    for what in [
        "inspect",
        "verify",
        #[cfg(feature = "tensorrt")]
        "bench",
    ] {
        refused(&["engine", what, &model], "no engine lies there (manifest.json is missing)");
    }
    let base = ["engine", "build", &model, "--emit-only", "--capacity", "320", "--out"];
    let file = bench.root.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    refused(&[&base[..], &[&file.display().to_string()]].concat(), "is a file; --out names a folder");
    assert!(sage(&[&base[..], &[&out]].concat()).status.success());

    // While another build is at work there, nothing is touched.
    let held = claim::lock(&bench.out()).unwrap();
    refused(&[&base[..], &[&out]].concat(), "another build is writing there");
    refused(&["engine", "prune", &out], "another build is writing there");
    drop(held);

    // A figure that changed by one digit, and a layout of another time.
    let path = bench.out().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"capacity\": 320", "\"capacity\": 321")).unwrap();
    refused(&["engine", "verify", &out], "was changed after it was written; build the engine again");
    std::fs::write(&path, text.replace("\"format\": 2", "\"format\": 1")).unwrap();
    refused(&["engine", "verify", &out], "layout 1, this program reads 2; build the engine again");
    std::fs::write(&path, &text).unwrap();
    assert!(sage(&["engine", "verify", &out]).status.success());

    // A moved folder is the same engine; an engine is no checkpoint.
    let moved = bench.root.path().join("another place");
    std::fs::rename(bench.out(), &moved).unwrap();
    let moved_to = moved.display().to_string();
    assert!(sage(&["engine", "verify", &moved_to, "--model", &model]).status.success());
    for entry in std::fs::read_dir(&moved).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.to_string_lossy().contains("safetensors") {
            std::fs::remove_file(entry).unwrap();
        }
    }
    refused(&["ask", "--model", &moved_to, "hello"], "is an engine for a GPU; give the checkpoint");
}

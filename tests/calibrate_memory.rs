//! Memory that `sage calibrate` and emitting take beside the mapped weights, at the shape of Qwen2.5-0.5B and with two layers of
//! Qwen2.5-14B's. Gigabytes are written to the system's temporary folder, so run it by name, where /proc tells memory:
//! `cargo test --release --test calibrate_memory -- --ignored --nocapture`.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use checkpoint::Case;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The bar: what is written once is streamed within this.
const MOST_BYTES: u64 = 200_000_000;
/// Tokens of Qwen2.5's vocabulary without the added ones.
const VOCABULARY: usize = 151_643;

/// Runs `sage` and returns the most memory that it held and no file does.
fn peak_anonymous_bytes(args: &[&str]) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sage")).args(args).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let exit = loop {
        if let Some(exit) = child.try_wait().unwrap() {
            break exit;
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
        most = most.max(line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024);
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(exit.success(), "{args:?}");
    most
}

/// A byte-level tokenizer with as many tokens as Qwen2.5's: all pairs of bytes, and triples.
fn write_tokenizer(folder: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut bytes: Vec<(String, u64)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(token, _)| token.chars().count() == 1)
        .map(|(token, id)| (token.clone(), id.as_u64().unwrap()))
        .collect();
    bytes.sort_by_key(|(_, id)| *id);
    let mut vocabulary: Map<String, Value> =
        bytes.iter().enumerate().map(|(id, (token, _))| (token.clone(), json!(id))).collect();
    let (mut merges, mut lefts) = (Vec::new(), bytes.iter().map(|(token, _)| token.clone()).collect::<Vec<_>>());
    while vocabulary.len() < VOCABULARY {
        let mut longer = Vec::new();
        'pairs: for left in &lefts {
            for (right, _) in &bytes {
                if vocabulary.len() == VOCABULARY {
                    break 'pairs;
                }
                let token = format!("{left}{right}");
                vocabulary.insert(token.clone(), json!(vocabulary.len()));
                merges.push(json!([left, right]));
                longer.push(token);
            }
        }
        lefts = longer;
    }
    tokenizer["model"]["vocab"] = Value::Object(vocabulary);
    tokenizer["model"]["merges"] = json!(merges);
    for (number, added) in tokenizer["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        added["id"] = json!(VOCABULARY + number);
    }
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Two layers of Qwen2.5-14B with embedding and head; zeros, none of which is on the disk.
fn write_slice(folder: &Path) {
    let shape = json!({"hidden": 5120, "inner": 13_824, "layers": 2, "heads": 40, "kv_heads": 8, "head_dim": 128,
        "vocabulary": 152_064, "tied": false, "dtype": "bf16", "theta": 1e6, "prompt": 1});
    let case = Case { index: 0, json: shape, seed: 0 };
    std::fs::write(folder.join("config.json"), case.config().to_string()).unwrap();
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in case.tensors() {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
}

/// Calibrates and says what it took.
fn measure(model: &Path, what: &str, recipe: &str, tokens: &str) {
    let out = model.with_file_name("out");
    let (model, folder) = (model.to_str().unwrap(), out.to_str().unwrap());
    let bytes = peak_anonymous_bytes(&["calibrate", model, "--recipe", recipe, "--tokens", tokens, "--out", folder]);
    println!("{what}: {:.0} MB beside mapped weights", bytes as f64 / 1e6);
    assert!(bytes < MOST_BYTES, "{what}: {bytes} bytes");
    std::fs::remove_dir_all(&out).unwrap();
}

#[test]
#[ignore = "writes gigabytes"]
fn half_a_billion_weights_are_calibrated_within_the_bar() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let written = Command::new(env!("CARGO_BIN_EXE_sage"))
        .args(["bench", "llm", "--shape", "0.5b", "--write", model.to_str().unwrap()])
        .status();
    assert!(written.unwrap().success());
    write_tokenizer(&model);
    measure(&model, "0.5B shape, int8, 256 tokens", "int8", "256");
    measure(&model, "0.5B shape, nvfp4, 64 tokens", "nvfp4", "64");
}

#[test]
#[ignore = "writes gigabytes"]
fn two_layers_of_fourteen_billion_weights_are_written_within_the_bar() {
    let folder = tempfile::tempdir().unwrap();
    let (model, graph) = (folder.path().join("model"), folder.path().join("graph"));
    std::fs::create_dir(&model).unwrap();
    write_slice(&model);
    write_tokenizer(&model);
    let args = ["engine", "build", model.to_str().unwrap(), "--out", graph.to_str().unwrap()];
    let more = ["--emit-only", "--precision", "int4", "--target", "thor"];
    let bytes = peak_anonymous_bytes(&[&args[..], &more[..]].concat());
    println!("2 layers of 14B, int4 made while emitting: {:.0} MB beside mapped weights", bytes as f64 / 1e6);
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
    std::fs::remove_dir_all(&graph).unwrap();
    // The most scales at once are those of a head in NVFP4.
    let recipe = folder.path().join("recipe.toml");
    let text = "name = \"all\"\nabout = \"the head too\"\n[formats]\nattention = \"nvfp4\"\nfeed_forward = \"nvfp4\"\n\
                head = \"nvfp4\"\n[weights]\nscales = \"least-error\"\n";
    std::fs::write(&recipe, text).unwrap();
    measure(&model, "2 layers of 14B, nvfp4 with the head, 16 tokens", recipe.to_str().unwrap(), "16");
    measure(&model, "2 layers of 14B, int4, 16 tokens", "int4", "16");
}

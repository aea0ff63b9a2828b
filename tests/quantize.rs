//! `sage engine quantize` and `eval` as a user meets them, and that quantised weights run as what they stand for.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions};
use sage::model::qwen2::Qwen2Weights;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// Weights of the reference case whose vocabulary has room for the reference tokenizer.
fn model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let cases = checkpoint::cases();
    cases.iter().find(|case| case.size("vocabulary") == 600).unwrap().write(folder, 1);
    let tokenizer = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizer.json");
    std::fs::copy(tokenizer, folder.join("tokenizer.json")).unwrap();
}

fn engine(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sage"));
    command.arg("engine").args(arguments);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command.output().unwrap()
}

fn logits(folder: &Path, tokens: &[u32]) -> Vec<f32> {
    let weights = Arc::new(Qwen2Weights::open(folder).unwrap());
    let mut decoder = Decoder::new(weights, DecoderOptions { context: 64, ..DecoderOptions::default() }).unwrap();
    let (mut kv, go) = (decoder.new_cache(), CancelToken::default());
    decoder.forward(tokens, &mut kv, &go).unwrap();
    decoder.logits(tokens.len() - 1, &go).unwrap().to_vec()
}

#[test]
fn quantised_models_are_smaller_run_and_stay_near_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "The robot looks for the charger and tells what it sees. ".repeat(20)).unwrap();
    let mut divergences = Vec::new();
    for (bits, smaller_than) in [("8", 0.56), ("4", 0.31)] {
        let small = folder.path().join(bits);
        let made = engine(&["quantize", "--bits", bits], &[("--model", &original), ("--out", &small)]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let size = |folder: &Path| std::fs::metadata(folder.join("model.safetensors")).unwrap().len() as f64;
        assert!(size(&small) < smaller_than * size(&original), "{} of {}", size(&small), size(&original));
        let paths = [("--model", small.as_path()), ("--reference", &original), ("--text", &text)];
        let judged = engine(&["eval", "--json", "--tokens", "200"], &paths);
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
        let report: Value = serde_json::from_slice(&judged.stdout).unwrap();
        assert_eq!(report["tokens"], 199);
        divergences.push(report["kl"].as_f64().unwrap());
        println!("{bits} bits: {report}");
    }
    // More bits, less divergence; a random model is the harder case.
    assert!(divergences[0] > 0.0 && divergences[0] < 0.01 && divergences[1] > 10.0 * divergences[0], "{divergences:?}");
}

#[test]
fn a_quantised_model_computes_what_its_weights_widened_to_f32_compute() {
    let folder = tempfile::tempdir().unwrap();
    let (original, tokens) = (folder.path().join("original"), [5u32, 80, 300, 7, 511, 42]);
    model(&original);
    for bits in ["8", "4"] {
        let (small, wide) = (folder.path().join(bits), folder.path().join(format!("{bits}-wide")));
        engine(&["quantize", "--bits", bits], &[("--model", &original), ("--out", &small)]);
        widen(&small, &wide);
        let (got, want) = (logits(&small, &tokens), logits(&wide, &tokens));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-4 * (1.0 + want.abs()), "{bits} bits: {got} instead of {want}");
        }
    }
}

/// Writes a quantised model's weights as f32.
fn widen(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let file = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors.iter() {
        let (group, bits) = match tensor.dtype() {
            safetensors::Dtype::I8 => (34, 8),
            safetensors::Dtype::U8 => (18, 4),
            _ => (0, 0),
        };
        let start = data.len();
        let mut shape = tensor.shape().to_vec();
        if bits == 0 {
            let values = tensor.data().chunks_exact(2).map(|two| half::bf16::from_le_bytes([two[0], two[1]]).to_f32());
            data.extend(values.flat_map(f32::to_le_bytes));
        } else {
            shape[1] = shape[1] / group * 32;
            for group in tensor.data().chunks_exact(group) {
                let scale = half::bf16::from_le_bytes([group[0], group[1]]).to_f32();
                let whole = |i: usize| match bits {
                    8 => f32::from(group[2 + i] as i8),
                    _ if i < 16 => f32::from(group[2 + i] & 15) - 8.0,
                    _ => f32::from(group[2 + i - 16] >> 4) - 8.0,
                };
                data.extend((0..32).flat_map(|i| (whole(i) * scale).to_le_bytes()));
            }
        }
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_owned(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(to.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn what_cannot_be_quantised_is_said_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let refuse = |bits: &str, from: &Path, to: &Path, says: &str| {
        let output = engine(&["quantize", "--bits", bits], &[("--model", from), ("--out", to)]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(says), "{error}");
    };
    refuse("6", &original, &folder.path().join("six"), "say 8 or 4");
    refuse("8", &original, &original, "own folder");
    let small = folder.path().join("small");
    engine(&["quantize"], &[("--model", &original), ("--out", &small)]);
    refuse("4", &small, &folder.path().join("smaller"), "only bf16, f16 and f32");
}

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
        // Activations are rounded to a 127th of their group's largest; the errors of a layer's inputs are independent.
        let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let error =
            length(&mut got.iter().zip(&want).map(|(got, want)| got - want)) / length(&mut want.iter().copied());
        println!("{bits} bits: relative error of the logits {error:.4}");
        assert!(error < 0.03, "{bits} bits: {error}");
    }
}

#[test]
fn the_fast_mode_is_near_the_exact_one_and_eval_says_how_near() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "The robot looks for the charger and tells what it sees. ".repeat(20)).unwrap();
    let paths = [("--model", original.as_path()), ("--reference", &original), ("--text", &text)];
    let judge = |mode: &str| -> Value {
        let judged = engine(&["eval", "--json", "--tokens", "200", "--mode", mode], &paths);
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
        serde_json::from_slice(&judged.stdout).unwrap()
    };
    let (exact, fast) = (judge("exact"), judge("fast"));
    println!("{fast}");
    assert_eq!((&exact["top1_agreement"], &exact["kl"]), (&1.0.into(), &0.0.into()));
    assert!(fast["kl"].as_f64().unwrap().abs() < 1e-3 && fast["top1_agreement"].as_f64().unwrap() > 0.9, "{fast}");
    let refused = engine(&["eval", "--mode", "quick"], &paths);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("say exact or fast"));
}

/// Writes a quantised model's weights as f32.
fn widen(from: &Path, to: &Path) {
    // Blocks are padded to 16 rows; how many there are is in the shapes of the original.
    let original = std::fs::read(from.with_file_name("original").join("model.safetensors")).unwrap();
    let original = safetensors::SafeTensors::deserialize(&original).unwrap();
    let rows_of = |name: &str, most: usize| {
        let rows = original.tensor(name).unwrap().shape()[0];
        assert!(rows <= most && most < rows + 16, "{name}: {rows} rows in {most}");
        rows
    };
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let file = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors.iter() {
        let bits = match tensor.dtype() {
            safetensors::Dtype::I8 => 8,
            safetensors::Dtype::U8 => 4,
            _ => 0,
        };
        let start = data.len();
        let mut shape = tensor.shape().to_vec();
        if bits == 0 {
            let values = tensor.data().chunks_exact(2).map(|two| half::bf16::from_le_bytes([two[0], two[1]]).to_f32());
            data.extend(values.flat_map(f32::to_le_bytes));
        } else {
            // Each group of a block of 16 rows: bf16 scales [row], then weights [column / 4][row][column % 4].
            let (groups, group_bytes) = (shape[1], shape[2]);
            assert_eq!(group_bytes, 16 * (2 + 32 * bits / 8));
            let rows = rows_of(name, shape[0] * 16);
            shape = vec![rows, groups * 32];
            for row in 0..rows {
                let block = &tensor.data()[row / 16 * groups * group_bytes..];
                for column in 0..groups * 32 {
                    let (group, in_group) = (column / 32, column % 32);
                    let (scales, weights) = block[group * group_bytes..].split_at(32);
                    let scale = half::bf16::from_le_bytes([scales[row % 16 * 2], scales[row % 16 * 2 + 1]]).to_f32();
                    let place = |column: usize| column / 4 * 64 + row % 16 * 4 + column % 4;
                    let whole = match bits {
                        8 => f32::from(weights[place(in_group)]) - 128.0,
                        _ if in_group < 16 => f32::from(weights[place(in_group)] & 15) - 8.0,
                        _ => f32::from(weights[place(in_group - 16)] >> 4) - 8.0,
                    };
                    data.extend((whole * scale).to_le_bytes());
                }
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

#[test]
fn a_folder_with_other_files_is_left_alone_and_what_an_interrupted_run_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let small = folder.path().join("small");
    let quantize =
        |bits: &str, to: &Path| engine(&["quantize", "--bits", bits], &[("--model", &original), ("--out", to)]);
    assert!(quantize("8", &small).status.success());
    std::fs::write(small.join("model.safetensors.part"), "half of it").unwrap();
    assert!(quantize("4", &small).status.success(), "made again, in other bits");
    assert!(!small.join("model.safetensors.part").exists());
    Qwen2Weights::open(&small).unwrap();

    for (file, content) in
        [("hf_quant_config.json", "{}"), ("config.json", r#"{"model_type": "qwen2"}"#), ("notes", "")]
    {
        let other = folder.path().join(format!("with {file}"));
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join(file), content).unwrap();
        let output = quantize("8", &other);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(&format!("holds `{file}`")), "{error}");
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1, "nothing was written");
        assert_eq!(std::fs::read_to_string(other.join(file)).unwrap(), content);
    }
}

#[test]
fn texts_that_cannot_be_judged_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let text = folder.path().join("text.txt");
    let judge = |content: &str, more: &[&str]| {
        std::fs::write(&text, content).unwrap();
        let paths = [("--model", original.as_path()), ("--reference", &original), ("--text", &text)];
        let output = engine(&[&["eval"], more].concat(), &paths);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (content, more, says) in
        [("", &[][..], "two tokens"), ("a", &[], "two tokens"), ("hello", &["--tokens", "0"], "two tokens")]
    {
        let (code, error) = judge(content, more);
        assert!(code == Some(2) && error.contains(says) && error.lines().count() == 1, "{error}");
    }
    assert_eq!(judge("hello there", &["--context", "18446744073709551615"]).0, Some(0));
    // A tokenizer with more words than the model.
    let path = original.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let end =
        tokenizer["added_tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).max().unwrap();
    for id in end + 1..700 {
        let word = serde_json::json!({"id": id, "content": format!("<word {id}>"), "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": false});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(word);
    }
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let (code, error) = judge("hello <word 690>", &[]);
    assert!(code == Some(2) && error.contains("690") && error.contains("do not belong together"), "{error}");
}

//! Emitted ONNX graphs: their numbers on ONNX Runtime, recorded by tests/reference/emitted_onnx.py for exactly these files, equal
//! the CPU path's; and what is emitted refers to the checkpoint instead of copying it.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use checkpoint::{Case, cases};
use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions};
use sage::model::onnx::{Emitted, Form, Options, Precision, emit, groups};
use sage::model::qwen2::Qwen2Weights;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const FORMS: [(Form, &str); 2] = [(Form::Fused, "fused"), (Form::Primitive, "primitive")];
const CAPACITY: usize = 320;

/// Cases with prompts that a small cache holds.
fn small() -> Vec<Case> {
    cases().into_iter().filter(|case| case.size("prompt") <= 260).collect()
}

fn options(form: Form, groups: usize) -> Options {
    Options { form, precision: Precision::Fp32, weights: None, capacity: CAPACITY, groups }
}

fn emitted(case: &Case, folder: &Path, options: &Options) -> Emitted {
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    case.write(&model, 1 + case.index % 3);
    emit(&model, &folder.join("out"), options).unwrap()
}

/// Step one of making the references; step two is tests/reference/emitted_onnx.py.
#[test]
#[ignore = "writes target/onnx-reference for tests/reference/emitted_onnx.py"]
fn write_the_graphs_for_onnx_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/onnx-reference");
    let _ = std::fs::remove_dir_all(&root);
    for case in small() {
        for (form, name) in FORMS {
            for count in [1, 2] {
                let folder = root.join(format!("{}-{name}-{count}", case.index));
                emitted(&case, &folder, &options(form, count));
            }
        }
    }
}

fn reference() -> Value {
    serde_json::from_str(include_str!("reference/emitted_onnx.json")).unwrap()
}

fn crc_of(emitted: &Emitted) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    emitted.graphs.iter().for_each(|graph| hasher.update(&std::fs::read(&graph.path).unwrap()));
    hasher.finalize()
}

#[test]
fn onnx_runtime_gives_the_logits_and_tokens_of_the_cpu_path() {
    let reference = reference();
    let mut worst = 0.0f32;
    let mut steps = 0;
    for case in small() {
        let folder = tempfile::tempdir().unwrap();
        emitted(&case, folder.path(), &options(Form::Fused, 1));
        let weights = Arc::new(Qwen2Weights::open(&folder.path().join("model")).unwrap());
        let cpu = DecoderOptions { context: CAPACITY, ..DecoderOptions::default() };
        let mut decoder = Decoder::new(weights, cpu).unwrap();
        let (mut kv, go) = (decoder.new_cache(), CancelToken::default());
        let prompt = case.prompt();
        for part in prompt.chunks(64) {
            decoder.forward(part, &mut kv, &go).unwrap();
        }
        let mut index = (prompt.len() - 1) % 64;
        let runs: Vec<&Value> =
            FORMS.iter().map(|(_, name)| &reference["runs"][format!("{}-{name}-1", case.index)]).collect();
        let count = runs[0]["tokens"].as_array().unwrap().len();
        for step in 0..count {
            let logits = decoder.logits(index, &go).unwrap();
            for run in &runs {
                let sampled = run["logits"][step].as_array().unwrap();
                for (i, want) in sampled.iter().enumerate() {
                    let got = logits[i * logits.len() / sampled.len()];
                    worst = worst.max((got - want.as_f64().unwrap() as f32).abs());
                }
                let token = run["tokens"][step].as_u64().unwrap() as usize;
                let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
                assert_eq!(best, token, "case {} step {step}", case.index);
            }
            let token = runs[0]["tokens"][step].as_u64().unwrap() as u32;
            decoder.forward(&[token], &mut kv, &go).unwrap();
            (index, steps) = (0, steps + 1);
        }
    }
    println!("{steps} steps in both forms: largest logit difference {worst:.1e}");
    assert!(worst <= 1e-4, "logit difference {worst}");
}

#[test]
fn what_is_emitted_today_is_what_onnx_runtime_ran() {
    let reference = reference();
    for case in small() {
        for (form, name) in FORMS {
            for count in [1, 2] {
                let folder = tempfile::tempdir().unwrap();
                let emitted = emitted(&case, folder.path(), &options(form, count));
                let run = &reference["runs"][format!("{}-{name}-{count}", case.index)];
                let told =
                    "the graphs changed: cargo test --test onnx -- --ignored, then tests/reference/emitted_onnx.py";
                assert_eq!(run["crc32"].as_u64(), Some(u64::from(crc_of(&emitted))), "{told}");
                // Prefill in chunks gave the bits of prefill in one go.
                assert_eq!(run["chunked_difference"].as_f64(), Some(0.0));
            }
        }
    }
}

#[test]
fn weights_are_linked_and_never_copied_and_emitting_again_changes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let case = &cases()[2];
    let folder = tempfile::tempdir().unwrap();
    let first = emitted(case, folder.path(), &options(Form::Fused, 1));
    assert_eq!(first.weights.len(), 3);
    for file in &first.weights {
        let own = folder.path().join("model").join(file.file_name().unwrap());
        let (own, linked) = (std::fs::metadata(own).unwrap(), std::fs::metadata(file).unwrap());
        assert_eq!((own.ino(), own.nlink()), (linked.ino(), 2));
    }
    let crc = crc_of(&first);
    let again = emit(&folder.path().join("model"), &folder.path().join("out"), &options(Form::Fused, 1)).unwrap();
    assert_eq!(crc, crc_of(&again));
    let names = std::fs::read_dir(folder.path().join("out")).unwrap().count();
    assert_eq!(names, 4, "no temporary file is left");
}

#[test]
fn layers_are_shared_out_evenly_and_what_cannot_be_emitted_is_one_sentence() {
    assert_eq!(groups(48, 4), [0..12, 12..24, 24..36, 36..48]);
    assert_eq!(groups(5, 2), [0..3, 3..5]);
    let case = &cases()[0];
    let folder = tempfile::tempdir().unwrap();
    emitted(case, folder.path(), &options(Form::Fused, 1));
    let model = folder.path().join("model");
    let error = emit(&model, folder.path(), &options(Form::Fused, 3)).unwrap_err().to_string();
    assert!(error.contains("3 groups do not fit 2 layers"), "{error}");
}

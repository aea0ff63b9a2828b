//! Emitted graphs with quantised layers: what ONNX Runtime computes with them, recorded by tests/reference/emitted_onnx.py for
//! exactly these files, against the CPU path on the same folder; NVFP4, for which it has no kernels, decoded to the bit.

#[path = "support/checkpoint.rs"]
mod checkpoint;
#[path = "support/divergence.rs"]
mod divergence;
#[path = "support/lowbit.rs"]
mod lowbit;

use divergence::divergence;
use lowbit::SCHEMES;
use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions};
use sage::model::checkpoint::Checkpoint;
use sage::model::lowbit::{Declared, Format, LowBit, Scheme};
use sage::model::onnx::{Emitted, Form, Options, Precision, compose, emit};
use sage::model::qwen2::{Qwen2Config, Qwen2Weights};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const FORMS: [(Form, &str); 2] = [(Form::Fused, "fused"), (Form::Primitive, "primitive")];
const CAPACITY: usize = 320;
/// Tokens that are read one by one after the prompt, whatever the network says.
const STEPS: usize = 160;

fn name(format: Format, inputs: bool) -> String {
    format!("{}{}", format.name(), if inputs { "" } else { "-weights" })
}

fn options(form: Form, format: Format) -> Options {
    Options { form, precision: Precision::Fp32, weights: Some(format), capacity: CAPACITY, groups: 1 }
}

fn emitted(folder: &Path, form: Form, (format, inputs): (Format, bool)) -> Emitted {
    let model = folder.join("model");
    std::fs::create_dir_all(&model).unwrap();
    lowbit::write(&lowbit::case(), &model, Scheme { format, inputs });
    emit(&model, &folder.join("out"), &options(form, format)).unwrap()
}

fn tokens() -> Vec<u32> {
    let mut case = lowbit::case();
    case.json["prompt"] = json!(case.size("prompt") + STEPS);
    case.prompt()
}

/// Graphs and what was rewritten for them.
fn crc_of(emitted: &Emitted) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let rewritten = emitted.weights.iter().filter(|file| file.ends_with("rewritten.weights"));
    let files = emitted.graphs.iter().map(|graph| &graph.path).chain(rewritten);
    files.for_each(|file| hasher.update(&std::fs::read(file).unwrap()));
    hasher.finalize()
}

fn reference() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/emitted_lowbit.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Step one of making the references; step two is tests/reference/emitted_onnx.py.
#[test]
#[ignore = "writes target/onnx-lowbit for tests/reference/emitted_onnx.py"]
fn write_the_quantised_graphs_for_onnx_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/onnx-lowbit");
    let _ = std::fs::remove_dir_all(&root);
    for (format, inputs) in SCHEMES {
        for (form, form_name) in FORMS {
            emitted(&root.join(format!("{}-{form_name}", name(format, inputs))), form, (format, inputs));
        }
    }
    let case = json!({"case": lowbit::case().json, "tokens": tokens(), "prompt": lowbit::case().size("prompt")});
    std::fs::write(root.join("case.json"), case.to_string()).unwrap();
}

#[test]
fn what_is_emitted_today_is_what_onnx_runtime_ran_in_chunks_and_in_one_go() {
    let reference = reference();
    for (format, inputs) in SCHEMES {
        for (form, form_name) in FORMS {
            let folder = tempfile::tempdir().unwrap();
            let emitted = emitted(folder.path(), form, (format, inputs));
            let run = &reference["runs"][format!("{}-{form_name}", name(format, inputs))];
            let told =
                "the graphs changed: cargo test --test onnx_lowbit -- --ignored, then tests/reference/emitted_onnx.py";
            assert_eq!(run["crc32"].as_u64(), Some(u64::from(crc_of(&emitted))), "{format:?} {form:?}: {told}");
            if format != Format::Nvfp4 {
                assert_eq!(run["chunked_difference"].as_f64(), Some(0.0), "{format:?} {form:?}");
            }
        }
    }
}

#[test]
fn onnx_runtime_chooses_the_tokens_of_the_quantised_cpu_path() {
    let reference = reference();
    for (format, inputs) in SCHEMES.into_iter().filter(|(format, _)| *format != Format::Nvfp4) {
        let folder = tempfile::tempdir().unwrap();
        emitted(folder.path(), Form::Fused, (format, inputs));
        let weights = Arc::new(Qwen2Weights::open(&folder.path().join("model")).unwrap());
        let options = DecoderOptions { context: CAPACITY, ..DecoderOptions::default() };
        let mut decoder = Decoder::new(weights, options).unwrap();
        let (mut kv, go) = (decoder.new_cache(), CancelToken::default());
        let (tokens, prompt) = (tokens(), lowbit::case().size("prompt"));
        decoder.forward(&tokens[..prompt], &mut kv, &go).unwrap();
        let mut index = prompt - 1;
        let runs = FORMS.map(|(_, form)| &reference["runs"][format!("{}-{form}", name(format, inputs))]);
        let (mut same, mut total) = ([0; 2], 0.0);
        let rows = runs[0]["logits"].as_array().unwrap();
        for step in 0..=STEPS {
            let logits = decoder.logits(index, &go).unwrap();
            let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            for (same, run) in same.iter_mut().zip(runs) {
                *same += usize::from(run["tokens"][step].as_u64() == Some(best as u64));
            }
            if let Some(row) = rows.get(step) {
                let row: Vec<f32> = row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
                total += divergence(&row, logits);
            }
            if step < STEPS {
                decoder.forward(&tokens[prompt + step..prompt + step + 1], &mut kv, &go).unwrap();
            }
            index = 0;
        }
        let (kl, all) = (total / rows.len() as f64, STEPS + 1);
        println!("{}: fused {} and primitive {} of {all} tokens, KL {kl:.1e}", name(format, inputs), same[0], same[1]);
        for same in same {
            assert!(same * 100 >= all * 95, "{}: {same} of {all} tokens", name(format, inputs));
        }
        assert!(kl < 1e-4, "{}: KL {kl}", name(format, inputs));
    }
}

#[test]
fn nvfp4_is_decoded_to_the_bit_as_onnx_defines_it() {
    let reference = reference();
    let folder = tempfile::tempdir().unwrap();
    emitted(folder.path(), Form::Fused, (Format::Nvfp4, true));
    let model = folder.path().join("model");
    let (checkpoint, declared) = (Checkpoint::open(&model).unwrap(), Declared::read(&model).unwrap().unwrap());
    let wanted = reference["nvfp4"].as_object().unwrap();
    assert_eq!(wanted.len(), 14);
    for (module, crc) in wanted {
        let shape = |tensor: &str| checkpoint.get(&format!("{module}.{tensor}")).unwrap().shape.clone();
        let (rows, columns) = (shape("weight")[0], shape("weight")[1] * 2);
        let low = LowBit::find(&checkpoint, &declared, module, (rows, columns)).unwrap().unwrap();
        let (mut row, mut hasher) = (vec![0.0; columns], crc32fast::Hasher::new());
        for index in 0..rows {
            low.widen_row(index, &mut row);
            row.iter().for_each(|x| hasher.update(&x.to_le_bytes()));
        }
        assert_eq!(Some(u64::from(hasher.finalize())), crc.as_u64(), "{module}");
    }
}

#[test]
fn a_plain_checkpoint_becomes_int4_on_the_way_and_needs_samples_for_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, low) = (folder.path().join("plain"), folder.path().join("low"));
    for model in [&plain, &low] {
        std::fs::create_dir(model).unwrap();
    }
    lowbit::case().write(&plain, 2);
    // Without the factors for inputs, which only samples can tell.
    lowbit::write(&lowbit::case(), &low, Scheme { format: Format::Int4, inputs: false });
    let emit = |model: &Path, out: &str, weights| {
        let options = Options { form: Form::Fused, precision: Precision::Bf16, weights, capacity: 64, groups: 2 };
        emit(model, &folder.path().join(out), &options).map_err(|error| error.to_string())
    };
    let read = |out: &str| std::fs::read(folder.path().join(out).join("rewritten.weights")).unwrap();
    emit(&plain, "a", Some(Format::Int4)).unwrap();
    emit(&low, "b", Some(Format::Int4)).unwrap();
    // Codes are the same and lie where they lay; scales, in bf16 already, are only rewritten where nothing has them.
    let codes = 128 * 128 / 2;
    assert_eq!(read("a")[..codes], read("b")[..codes]);
    assert!(read("a").len() > read("b").len());
    for (format, says) in
        [(Format::Fp8, "sage calibrate"), (Format::Int8, "sage calibrate"), (Format::Nvfp4, "sage calibrate")]
    {
        let error = emit(&plain, "c", Some(format)).unwrap_err();
        assert!(error.contains(says) && error.contains(format.name()), "{error}");
    }
    assert!(emit(&low, "c", None).unwrap_err().contains("say --precision int4"));
    assert!(emit(&low, "c", Some(Format::Fp8)).unwrap_err().contains("are int4, not fp8"));
    assert!(!folder.path().join("c").exists());
}

#[test]
fn scales_that_f16_has_no_digits_for_stay_in_f32() {
    for (format, inputs) in SCHEMES {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path();
        lowbit::write(&lowbit::case(), model, Scheme { format, inputs });
        let small = "model.layers.0.mlp.up_proj";
        lowbit::shrink_scales(model, small, 1.0 / 8192.0);
        let config = Qwen2Config::load(model).unwrap();
        let checkpoint = Checkpoint::open(model).unwrap();
        let (floats, halves) = (1, 10);
        let kinds = |precision| -> BTreeMap<String, i32> {
            let options = Options { precision, ..options(Form::Fused, format) };
            let parts = compose(&checkpoint, &config, &options).unwrap().parts;
            let graph = parts.into_iter().next().unwrap().model.graph.unwrap();
            // Every product takes numbers of one type: what was widened in f32 is cast.
            let casts = graph.node.iter().filter(|node| node.op_type == "Cast").count() as i32;
            let tensors = graph.initializer.into_iter().map(|tensor| (tensor.name, tensor.data_type));
            tensors.chain([("casts".to_owned(), casts)]).collect()
        };
        let (half, brain) = (kinds(Precision::Fp16), kinds(Precision::Bf16));
        let names: &[&str] = match format {
            Format::Int4 => &["weight_scale"],
            Format::Nvfp4 => &["factor", "input_scale"],
            Format::Int8 | Format::Fp8 => &["scale", "input_scale"],
        };
        for name in names.iter().filter(|name| inputs || **name != "input_scale") {
            let kind = |kinds: &BTreeMap<String, i32>, module: &str| kinds[&format!("{module}.{name}")];
            assert_eq!(kind(&half, small), floats, "{format:?} {name}");
            assert_eq!(kind(&half, "model.layers.1.mlp.up_proj"), halves, "{format:?} {name}");
            assert_ne!(kind(&brain, small), floats, "{format:?} {name}");
        }
        // For the weight one; for INT8's and FP8's inputs two more, for NVFP4's one, which are widened only afterwards.
        let more = if !inputs {
            1
        } else if format == Format::Nvfp4 {
            2
        } else {
            3
        };
        let plain = {
            let folder = tempfile::tempdir().unwrap();
            lowbit::write(&lowbit::case(), folder.path(), Scheme { format, inputs });
            let options = Options { precision: Precision::Fp16, ..options(Form::Fused, format) };
            let parts = compose(&Checkpoint::open(folder.path()).unwrap(), &config, &options).unwrap().parts;
            parts[0].model.graph.iter().flat_map(|graph| &graph.node).filter(|node| node.op_type == "Cast").count()
        };
        assert_eq!(half["casts"], plain as i32 + more, "{format:?}");
    }
}

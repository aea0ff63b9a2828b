//! Checkpoints that were damaged, cut, edited by hand or made to deceive: thousands of seeded changes to each file of a model
//! folder. Whatever is read there gives a model that runs or one sentence, never a panic and never a hang.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions, Generation, Step};
use sage::model::chat::own_system;
use sage::model::checkpoint::Element;
use sage::model::quantize::quantize;
use sage::model::qwen2::Qwen2Weights;
use sage::model::sampling::{Sampler, Sampling};
use sage::model::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 += 1;
        (checkpoint::hashed(self.0, 0) % sides.max(1) as u64) as usize
    }

    fn one_of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len())].clone()
    }
}

/// A folder with every file that is read: a sharded checkpoint that runs.
fn model(folder: &Path) {
    let cases = checkpoint::cases();
    let case = cases.iter().find(|case| case.size("vocabulary") == 600).unwrap();
    case.write(folder, 2);
    let tokenizer = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizer.json");
    std::fs::copy(tokenizer, folder.join("tokenizer.json")).unwrap();
    let generation = json!({"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05,
        "eos_token_id": [5, 7]});
    std::fs::write(folder.join("generation_config.json"), generation.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), json!({"chat_template": "{{ messages }}"}).to_string())
        .unwrap();
    let quantisation =
        json!({"quantization": {"quant_algo": null, "kv_cache_quant_algo": null, "quantized_layers": {}}});
    std::fs::write(folder.join("hf_quant_config.json"), quantisation.to_string()).unwrap();
}

/// Opens everything as `sage ask` does and says two tokens.
fn use_model(folder: &Path) -> Result<(), String> {
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let weights = Arc::new(Qwen2Weights::open(folder).map_err(|error| say(&error))?);
    let tokenizer = Tokenizer::load(folder).map_err(|error| say(&error))?;
    let sampling = Sampling::load(folder).map_err(|error| say(&error))?;
    own_system(folder).map_err(|error| say(&error))?;
    let prompt = tokenizer.encode("hello there").map_err(|error| say(&error))?;
    let options = DecoderOptions { context: 16, ..DecoderOptions::default() };
    let mut decoder = Decoder::new(weights, options).map_err(|error| say(&error))?;
    let mut generation = Generation::new(&decoder, Sampler::new(sampling, tokenizer.vocabulary(), 0));
    generation.start(&prompt, 2, 0).map_err(|error| say(&error))?;
    while !matches!(generation.step(&mut decoder, &CancelToken::default()), Ok(Step::Finished(_))) {}
    tokenizer.decode(generation.answer());
    Ok(())
}

/// A value that somebody might find where another was meant.
fn awkward(dice: &mut Dice) -> Value {
    let numbers = [json!(-1), json!(0), json!(1), json!(2), json!(3), json!(7), json!(255), json!(65_536)];
    let large =
        [json!(16_777_216), json!(4_294_967_295u64), json!(u64::MAX), json!(i64::MIN), json!(1e300), json!(1e-300)];
    let words = [
        json!(""),
        json!("x"),
        json!(".."),
        json!("config.json"),
        json!("F32"),
        json!("U8"),
        json!("I8"),
        json!("F8_E4M3"),
    ];
    let schemes =
        [json!("FP8"), json!("NVFP4"), json!("W4A16_AWQ"), json!("MIXED_PRECISION"), json!("sage"), json!("modelopt")];
    let other = [
        Value::Null,
        json!(true),
        json!(false),
        json!(0.5),
        json!([]),
        json!({}),
        json!([0, 0]),
        json!([1, 18_446_744_073_709_551_615u64]),
        json!({"num_bits": 8}),
        json!({"quant_method": "modelopt", "quant_algo": "FP8"}),
        json!({"rope_type": "default"}),
    ];
    match dice.roll(5) {
        0 => dice.one_of(&numbers),
        1 => dice.one_of(&large),
        2 => dice.one_of(&words),
        3 => dice.one_of(&schemes),
        _ => dice.one_of(&other),
    }
}

/// Pointers to all parts of a value.
fn parts(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Array(list) => list.iter().enumerate().for_each(|(i, part)| parts(part, &format!("{at}/{i}"), out)),
        Value::Object(fields) => fields.iter().for_each(|(key, part)| {
            parts(part, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out);
        }),
        _ => {}
    }
}

/// Changes, removes, copies, renames or adds one part.
fn edit(json: &mut Value, dice: &mut Dice) -> String {
    let mut places = Vec::new();
    parts(json, "", &mut places);
    let (place, other) = (dice.one_of(&places), dice.one_of(&places));
    let with = if dice.roll(4) == 0 { json.pointer(&other).cloned().unwrap_or_default() } else { awkward(dice) };
    let added =
        dice.one_of(&["rope_scaling", "rope_parameters", "quantization_config", "layer_types", "head_dim", "ghost"]);
    let what = dice.roll(8);
    let whole = json.as_object_mut().filter(|_| what == 7);
    if let Some(fields) = whole {
        fields.insert(added.to_owned(), with.clone());
        return format!("{added} added as {with}");
    }
    let (parent, key) = place.rsplit_once('/').unwrap_or_default();
    match (json.pointer_mut(parent), what) {
        (Some(Value::Object(fields)), 5) => {
            fields.remove(key);
            format!("{place} removed")
        }
        (Some(Value::Object(fields)), 6) => {
            let part = fields.remove(key).unwrap_or_default();
            fields.insert(added.to_owned(), part);
            format!("{place} renamed {added}")
        }
        _ => {
            if let Some(part) = json.pointer_mut(&place) {
                *part = with.clone();
            }
            format!("{place} set to {with}")
        }
    }
}

/// Overwrites, cuts or doubles bytes.
fn damage(bytes: &mut Vec<u8>, within: usize, dice: &mut Dice) -> String {
    let at = dice.roll(within.min(bytes.len()));
    match dice.roll(4) {
        0 => {
            bytes.truncate(at);
            format!("cut at byte {at}")
        }
        1 => {
            let to = (at + 1 + dice.roll(40)).min(bytes.len());
            let piece = bytes[at..to].to_vec();
            bytes.splice(at..at, piece);
            format!("bytes {at} to {to} doubled")
        }
        2 => {
            let to = (at + 1 + dice.roll(40)).min(bytes.len());
            bytes.drain(at..to);
            format!("bytes {at} to {to} removed")
        }
        _ => {
            let byte = dice.one_of(&[0, b' ', b'"', b'9', b'-', b'}', b']', 0x7f, 0xff]);
            if let Some(there) = bytes.get_mut(at) {
                *there = byte;
            }
            format!("byte {at} set to {byte}")
        }
    }
}

/// One change to a safetensors file: of its header's values, of its header's length or of its bytes.
fn change_weights(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    match dice.roll(4) {
        0 => {
            let lie =
                dice.one_of(&[0, 1, header as u64 - 1, header as u64 + 1, 99_999_999, u64::MAX, u64::MAX - 7, 1 << 63]);
            bytes[..8].copy_from_slice(&lie.to_le_bytes());
            format!("header length {lie}")
        }
        1 => damage(bytes, header + 8, dice),
        _ => {
            let mut json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            let what = edit(&mut json, dice);
            let text = json.to_string().into_bytes();
            let length = (text.len() as u64).to_le_bytes();
            bytes.splice(..8 + header, [&length[..], &text].concat());
            what
        }
    }
}

/// Makes `changes` changes, one at a time, to the `files` of a folder that can be used.
fn fuzz(folder: &Path, files: &[&str], changes: u64) {
    use_model(folder).unwrap();
    let (mut refused, mut ran) = (0, 0);
    for seed in 0..changes {
        let mut dice = Dice(seed << 20);
        let file = files[(seed % files.len() as u64) as usize];
        let path = folder.join(file);
        let kept = std::fs::read(&path).unwrap();
        let mut bytes = kept.clone();
        let what = if file.ends_with(".safetensors") {
            change_weights(&mut bytes, &mut dice)
        } else if dice.roll(4) == 0 {
            damage(&mut bytes, usize::MAX, &mut dice)
        } else {
            let mut json = serde_json::from_slice(&bytes).unwrap();
            let what = edit(&mut json, &mut dice);
            bytes = json.to_string().into_bytes();
            what
        };
        std::fs::write(&path, bytes).unwrap();
        let used = catch_unwind(AssertUnwindSafe(|| use_model(folder)));
        std::fs::write(&path, kept).unwrap();
        match used {
            Err(_) => panic!("change {seed}, {file}: {what}: a panic"),
            Ok(Err(error)) => {
                assert!(!error.is_empty() && error.lines().count() == 1, "change {seed}, {file}: {what}: {error}");
                refused += 1;
            }
            Ok(Ok(())) => ran += 1,
        }
    }
    println!("{changes} changes: {refused} refused, {ran} ran");
    // Changes that matter and changes that do not were both among them.
    assert!(refused > changes / 4 && ran > changes / 20, "{refused} refused, {ran} ran");
}

#[test]
fn a_changed_checkpoint_runs_or_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let files = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "hf_quant_config.json",
        "model-00002-of-00002.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    fuzz(folder.path(), &files, 2500);
}

#[test]
fn so_does_a_quantised_one() {
    let (folder, small) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    model(folder.path());
    for element in [Element::Q8, Element::Q4] {
        let to = small.path().join(format!("{element:?}"));
        quantize(folder.path(), &to, element).unwrap();
        fuzz(&to, &["model.safetensors", "config.json"], 500);
    }
}

//! Checkpoints in ModelOpt's layout on the CPU path, against numpy in float64 and against ModelOpt itself.
//! References: tests/reference/lowbit.py.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use checkpoint::{Case, hashed, start};
use half::bf16;
use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions};
use sage::model::checkpoint::Checkpoint;
use sage::model::lowbit::{Declared, LowBit, QUANT_CONFIG};
use sage::model::qwen2::Qwen2Weights;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

const CASE: usize = 8;

fn references() -> Value {
    serde_json::from_str(include_str!("reference/lowbit.json")).unwrap()
}

/// Name, format, group, whether inputs are rounded, FP8 cache, layers with pre_quant_scale: as in lowbit.py.
type Scheme = (&'static str, &'static str, usize, bool, bool, &'static [&'static str]);

const SCHEMES: [Scheme; 7] = [
    ("W4A16_AWQ", "int4", 64, false, false, &["o_proj", "down_proj"]),
    ("W8A8_SQ_PER_CHANNEL", "int8", 0, true, false, &["down_proj"]),
    ("W8A16", "int8", 0, false, false, &[]),
    ("FP8", "fp8", 0, true, true, &[]),
    ("NVFP4", "nvfp4", 16, true, false, &[]),
    ("NVFP4_AWQ", "nvfp4", 16, true, false, &["o_proj"]),
    ("W4A16_NVFP4", "nvfp4", 16, false, false, &[]),
];

fn case() -> Case {
    checkpoint::cases().remove(CASE)
}

/// A safetensors file under construction.
#[derive(Default)]
struct Tensors {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Tensors {
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend(bytes);
        let about = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()]});
        self.header.insert(name.to_owned(), about);
    }

    fn write(&self, path: &Path) {
        let mut header = Value::Object(self.header.clone()).to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &self.data].concat();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Positive numbers of 8 bits near `size`.
fn numbers(name: &str, count: usize, size: f64) -> Vec<f32> {
    let (base, seed) = (start(name, case().seed), size.log2().floor() as i32 - 7);
    (0..count).map(|i| (128 + (hashed(base, i) >> 57)) as f32 * 2f32.powi(seed)).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Codes and scales of one linear layer.
fn add_linear(tensors: &mut Tensors, scheme: &Scheme, module: &str, (rows, columns): (usize, usize)) {
    let &(name, kind, group, inputs, _, scaled) = scheme;
    let full = format!("{name}.{module}");
    let tops = |count: usize| -> Vec<u8> {
        let base = start(&format!("{full}.weight"), case().seed);
        (0..count).map(|i| (hashed(base, i) >> 56) as u8).collect()
    };
    let part = |part: &str| format!("{module}.{part}");
    let (weight, scale) = (part("weight"), part("weight_scale"));
    let scale_name = format!("{full}.weight_scale");
    let root = (columns as f64).sqrt();
    let input_scale = match kind {
        "int4" => {
            tensors.add(&weight, "U8", &[rows / 2, columns], &tops(rows / 2 * columns));
            let scales = numbers(&scale_name, rows * columns / group, 1.0 / (4.6 * root));
            let scales: Vec<u8> = scales.iter().flat_map(|s| bf16::from_f32(*s).to_le_bytes()).collect();
            tensors.add(&scale, "BF16", &[rows, columns / group], &scales);
            0.0
        }
        "int8" => {
            tensors.add(&weight, "I8", &[rows, columns], &tops(rows * columns));
            tensors.add(&scale, "F32", &[rows], &bytes_of(&numbers(&scale_name, rows, 1.0 / (74.0 * root))));
            0.03f32
        }
        "fp8" => {
            let codes: Vec<u8> =
                tops(rows * columns).iter().map(|&c| if c & 0x7f == 0x7f { c ^ 1 } else { c }).collect();
            tensors.add(&weight, "F8_E4M3", &[rows, columns], &codes);
            tensors.add(&scale, "F32", &[], &bytes_of(&numbers(&scale_name, 1, 1.0 / (110.0 * root))));
            0.016
        }
        _ => {
            tensors.add(&weight, "U8", &[rows, columns / 2], &tops(rows * columns / 2));
            let base = start(&scale_name, case().seed);
            let scales: Vec<u8> = (0..rows * columns / 16).map(|i| 0x30 + (hashed(base, i) >> 60) as u8).collect();
            tensors.add(&scale, "F8_E4M3", &[rows, columns / 16], &scales);
            let over_all = numbers(&format!("{full}.weight_scale_2"), 1, 1.0 / (3.0 * root));
            tensors.add(&part("weight_scale_2"), "F32", &[], &bytes_of(&over_all));
            0.0021
        }
    };
    if inputs {
        tensors.add(&part("input_scale"), "F32", &[], &bytes_of(&[input_scale]));
    }
    if scaled.iter().any(|end| module.ends_with(end)) {
        let values = numbers(&format!("{full}.pre_quant_scale"), columns, 0.9);
        tensors.add(&part("pre_quant_scale"), "F32", &[columns], &bytes_of(&values));
    }
}

/// The reference case with its linear layers in few bits.
fn write_model(folder: &Path, scheme: &Scheme) {
    let case = case();
    case.write(folder, 1);
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let original = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut tensors = Tensors::default();
    for (name, view) in original.iter() {
        match name.strip_suffix("_proj.weight") {
            Some(module) => {
                let shape = (view.shape()[0], view.shape()[1]);
                add_linear(&mut tensors, scheme, &format!("{module}_proj"), shape);
                let at = name.strip_suffix("k_proj.weight");
                if let (true, Some(at)) = (scheme.4, at) {
                    tensors.add(&format!("{at}k_proj.k_scale"), "F32", &[1], &0.011f32.to_le_bytes());
                    tensors.add(&format!("{at}v_proj.v_scale"), "F32", &[1], &0.011f32.to_le_bytes());
                }
            }
            None => tensors.add(name, "BF16", view.shape(), view.data()),
        }
    }
    tensors.write(&folder.join("model.safetensors"));
    let cache = if scheme.4 { json!("FP8") } else { Value::Null };
    let quantisation = json!({"quant_algo": scheme.0, "group_size": scheme.2, "kv_cache_quant_algo": cache,
        "exclude_modules": ["lm_head"]});
    std::fs::write(folder.join(QUANT_CONFIG), json!({"quantization": quantisation}).to_string()).unwrap();
}

/// Logits at every position.
fn logits(folder: &Path, tokens: &[u32], (threads, chunk): (usize, usize)) -> Vec<Vec<f32>> {
    let weights = Arc::new(Qwen2Weights::open(folder).unwrap());
    let options = DecoderOptions { threads, context: 64, chunk, ..DecoderOptions::default() };
    let mut decoder = Decoder::new(weights, options).unwrap();
    let (mut kv, go, mut all) = (decoder.new_cache(), CancelToken::default(), Vec::new());
    for part in tokens.chunks(chunk) {
        decoder.forward(part, &mut kv, &go).unwrap();
        all.extend((0..part.len()).map(|index| decoder.logits(index, &go).unwrap().to_vec()));
    }
    all
}

fn tokens() -> Vec<u32> {
    let (base, vocabulary) = (start(&format!("{CASE}.prompt"), case().seed), case().size("vocabulary") as u64);
    (0..40).map(|i| (hashed(base, i) % vocabulary) as u32).collect()
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[test]
fn every_scheme_computes_what_numpy_computes() {
    let references = references();
    for scheme in &SCHEMES {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), scheme);
        let reference = &references["cases"][scheme.0];
        let got = logits(folder.path(), &tokens(), (1, 64));
        let last = got.last().unwrap();
        let want: Vec<f64> = reference["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let (mut error, mut length, mut worst) = (0.0, 0.0, 0.0f64);
        for (i, want) in want.iter().enumerate() {
            let off = f64::from(last[i * last.len() / 100]) - want;
            (error, length, worst) = (error + off * off, length + want * want, worst.max(off.abs()));
        }
        let (relative, unrounded) = ((error / length).sqrt(), reference["unrounded"].as_f64().unwrap());
        let tops = reference["tokens"].as_array().unwrap();
        let same = got.iter().zip(tops).filter(|(logits, want)| top(logits) as u64 == want.as_u64().unwrap()).count();
        println!("{:<20} relative error {relative:.1e}, worst {worst:.1e}, {same} of {} tokens", scheme.0, tops.len());
        // Where inputs are rounded, a sum that falls a hair to the other side of a step moves what follows.
        let allowed = if scheme.3 || scheme.4 { unrounded.max(0.01) / 10.0 } else { 1e-5 };
        assert!(relative < allowed, "{}: {relative} of {allowed}", scheme.0);
        assert!(same * 100 >= tops.len() * 95, "{}: {same} of {}", scheme.0, tops.len());
    }
}

#[test]
fn chunks_and_threads_change_no_bit() {
    for scheme in [&SCHEMES[0], &SCHEMES[3], &SCHEMES[5]] {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), scheme);
        let want = logits(folder.path(), &tokens(), (1, 64));
        for (threads, chunk) in [(1, 1), (2, 7), (3, 40)] {
            assert!(logits(folder.path(), &tokens(), (threads, chunk)) == want, "{}: {threads} × {chunk}", scheme.0);
        }
    }
}

#[test]
fn what_modelopt_packs_is_unpacked_to_its_numbers() {
    let reference = &references()["modelopt"];
    if reference.is_null() {
        println!("skipped: lowbit.json was made without ModelOpt");
        return;
    }
    let list = |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let codes = |value: &Value| -> Vec<u8> { list(value).iter().map(|v| *v as u8).collect() };
    let floats = |value: &Value| -> Vec<f32> { list(value).iter().map(|v| *v as f32).collect() };
    let (nvfp4, int4) = (&reference["nvfp4"], &reference["int4"]);
    let mut tensors = Tensors::default();
    tensors.add("a.weight", "U8", &[8, 32], &codes(&nvfp4["weight"]));
    tensors.add("a.weight_scale", "F8_E4M3", &[8, 4], &codes(&nvfp4["weight_scale"]));
    let over_all = nvfp4["weight_scale_2"].as_f64().unwrap() as f32;
    tensors.add("a.weight_scale_2", "F32", &[], &over_all.to_le_bytes());
    tensors.add("b.weight", "U8", &[4, 64], &codes(&int4["weight"]));
    tensors.add("b.weight_scale", "F32", &[8, 2], &bytes_of(&floats(&int4["weight_scale"])));
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    let layers = json!({"a": {"quant_algo": "W4A16_NVFP4"}, "b": {"quant_algo": "W4A16_AWQ"}});
    let mixed = json!({"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}});
    std::fs::write(folder.path().join(QUANT_CONFIG), mixed.to_string()).unwrap();

    let declared = Declared::read(folder.path()).unwrap().unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let widened = |module: &str| -> Vec<f32> {
        let low = LowBit::find(&checkpoint, &declared, module, (8, 64)).unwrap().unwrap();
        let mut rows = vec![0.0; 8 * 64];
        for (row, out) in rows.chunks_exact_mut(64).enumerate() {
            low.widen_row(row, out);
        }
        rows
    };
    assert_eq!(widened("a"), floats(&nvfp4["values"]), "NVFP4 to the bit");
    // ModelOpt unpacks no INT4; half a step of the weight is the most that packing may lose.
    let (weights, scales) = (floats(&reference["weights"]), floats(&int4["weight_scale"]));
    for (at, (got, want)) in widened("b").iter().zip(&weights).enumerate() {
        let step = scales[at / 32];
        assert!((got - want).abs() <= step * 0.5001, "weight {at}: {got} for {want}, step {step}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let refused = |scheme: &Scheme, change: &dyn Fn(&mut Map<String, Value>), algo: Option<&str>| -> String {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), scheme);
        let path = folder.path().join("model.safetensors");
        let file = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
        change(&mut header);
        Tensors { header, data: file[8 + length..].to_vec() }.write(&path);
        if let Some(algo) = algo {
            let text = json!({"quantization": {"quant_algo": algo}}).to_string();
            std::fs::write(folder.path().join(QUANT_CONFIG), text).unwrap();
        }
        Qwen2Weights::open(folder.path()).err().expect("must be refused").to_string()
    };
    let up = "model.layers.1.mlp.up_proj";
    let rename = |from: String| {
        move |header: &mut Map<String, Value>| {
            let about = header.remove(&from).unwrap();
            header.insert(format!("{from}_gone"), about);
        }
    };
    let why = refused(&SCHEMES[4], &rename(format!("{up}.input_scale")), None);
    assert!(why.contains(&format!("`{up}.input_scale` is missing")), "{why}");
    let why = refused(&SCHEMES[4], &rename(format!("{up}.weight_scale_2")), None);
    assert!(why.contains(&format!("`{up}.weight_scale_2` is missing")), "{why}");
    let retype = |header: &mut Map<String, Value>| header[&format!("{up}.weight_scale")]["dtype"] = json!("U8");
    let why = refused(&SCHEMES[4], &retype, None);
    assert!(why.contains(&format!("`{up}.weight_scale` is U8")), "{why}");
    let why = refused(&SCHEMES[0], &|_| {}, Some("NVFP4"));
    assert!(why.contains("q_proj.weight_scale_2` is missing") && why.contains("and 16 more"), "{why}");
    let why = refused(&SCHEMES[6], &|_| {}, Some("W4A16_AWQ"));
    assert!(why.contains("q_proj.weight` is U8 of shape [192, 96]; Int4 of 192 × 192"), "{why}");
    let why = refused(&SCHEMES[0], &|_| {}, Some("INT3_SPECIAL"));
    assert!(why.contains("INT3_SPECIAL is not run here") && why.contains(QUANT_CONFIG), "{why}");
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &SCHEMES[0]);
    std::fs::remove_file(folder.path().join(QUANT_CONFIG)).unwrap();
    let why = Qwen2Weights::open(folder.path()).err().expect("undeclared").to_string();
    assert!(why.contains("no `quant_algo` is declared"), "{why}");
}

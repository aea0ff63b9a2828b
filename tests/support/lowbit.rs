//! Makes small checkpoints with quantised layers, in ModelOpt's layout, out of the seeded ones: for comparing paths, not for
//! use, as the scales of inputs are chosen and not measured.

#![allow(dead_code)] // each test uses its part

use super::checkpoint::{Case, cases};
use safetensors::Dtype;
use sage::model::checkpoint::Checkpoint;
use sage::model::lowbit::pack::{Choice, Packer};
use sage::model::lowbit::{Format, Scheme};
use serde_json::json;
use std::path::Path;

/// A network whose layers are whole blocks of every format.
pub fn case() -> Case {
    let json = json!({"hidden": 128, "inner": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32, "vocabulary": 96,
        "tied": false, "dtype": "bf16", "theta": 1e6, "prompt": 40});
    Case { index: 100, json, seed: cases()[0].seed }
}

/// Every format, with its inputs quantised too or taken as they are.
pub const SCHEMES: [(Format, bool); 6] = [
    (Format::Int4, false),
    (Format::Int8, true),
    (Format::Int8, false),
    (Format::Fp8, true),
    (Format::Nvfp4, true),
    (Format::Nvfp4, false),
];

/// Tensors of a file: type, shape and bytes by name.
pub type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// Writes the quantised form of `case` to `directory`; the output head is quantised with INT8 only.
pub fn write(case: &Case, directory: &Path, scheme: Scheme) {
    let plain = tempfile::tempdir().unwrap();
    case.write(plain.path(), 1);
    let checkpoint = Checkpoint::open(plain.path()).unwrap();
    let mut tensors = Tensors::new();
    for (name, tensor) in checkpoint.tensors() {
        let head = name == "lm_head.weight" && scheme.format == Format::Int8;
        if let Some(module) = name.strip_suffix(".weight").filter(|module| module.ends_with("_proj") || head) {
            quantise(module, &tensor.shape, &floats(tensor.bytes()), scheme, &mut tensors);
        } else {
            tensors.push((name.to_owned(), tensor.dtype, tensor.shape.clone(), tensor.bytes().to_vec()));
        }
    }
    std::fs::copy(plain.path().join("config.json"), directory.join("config.json")).unwrap();
    let declared = json!({"producer": {"name": "sage-tests"}, "quantization": {"quant_algo": scheme.algo(),
        "kv_cache_quant_algo": null, "group_size": 128, "exclude_modules": ["lm_head"]}});
    std::fs::write(directory.join("hf_quant_config.json"), declared.to_string()).unwrap();
    write_file(&directory.join("model.safetensors"), &tensors);
}

fn quantise(module: &str, shape: &[usize], weights: &[f32], scheme: Scheme, tensors: &mut Tensors) {
    let (rows, columns) = (shape[0], shape[1]);
    let largest = weights.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let packer = Packer::new(scheme.format, columns, 128, Choice::LeastError, largest);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    packer.pack(weights, &mut codes, &mut scales);
    if scheme.format == Format::Fp8 {
        scales = packer.over_all.to_le_bytes().to_vec();
    }
    let mut add = |part: &str, (dtype, shape): (Dtype, Vec<usize>), bytes: Vec<u8>| {
        tensors.push((format!("{module}.{part}"), dtype, shape, bytes));
    };
    let one = |value: f32| ((Dtype::F32, vec![]), value.to_le_bytes().to_vec());
    add("weight", packer.codes(rows), codes);
    add("weight_scale", packer.scales(rows), scales);
    if scheme.format == Format::Nvfp4 {
        let (kind, bytes) = one(packer.over_all);
        add("weight_scale_2", kind, bytes);
    }
    if scheme.inputs {
        // What comes out of a norm is larger than what attention and the gate let through.
        let reach = if module.ends_with("o_proj") || module.ends_with("down_proj") { 2.0 } else { 4.0 };
        let (kind, bytes) = one(reach / scheme.format.input_limit());
        add("input_scale", kind, bytes);
    }
    if module.ends_with("0.mlp.down_proj") {
        let factors = (0..columns).flat_map(|i| (0.5f32 + (i % 7) as f32 * 0.25).to_le_bytes()).collect();
        add("pre_quant_scale", (Dtype::F32, vec![columns]), factors);
    }
}

/// Makes the scales of one module in `directory` smaller, those of its inputs too.
pub fn shrink_scales(directory: &Path, module: &str, by: f32) {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let mut file = std::fs::read(directory.join("model.safetensors")).unwrap();
    for part in ["weight_scale", "weight_scale_2", "input_scale"] {
        let Some(tensor) = checkpoint.get(&format!("{module}.{part}")) else { continue };
        let bytes = &mut file[tensor.offset_bytes() as usize..][..tensor.bytes().len()];
        match tensor.dtype {
            Dtype::F32 => {
                bytes.as_chunks_mut().0.iter_mut().for_each(|x| *x = (f32::from_le_bytes(*x) * by).to_le_bytes())
            }
            Dtype::BF16 => bytes.as_chunks_mut().0.iter_mut().for_each(|x| {
                *x = half::bf16::from_f32(half::bf16::from_le_bytes(*x).to_f32() * by).to_le_bytes();
            }),
            // NVFP4's scales of blocks stay; their factor shrinks.
            _ => {}
        }
    }
    // A new file, as the old one is mapped.
    std::fs::write(directory.join("shrunk"), file).unwrap();
    std::fs::rename(directory.join("shrunk"), directory.join("model.safetensors")).unwrap();
}

/// bf16 to f32.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|two| half::bf16::from_le_bytes([two[0], two[1]]).to_f32()).collect()
}

/// Writes tensors as a safetensors file.
pub fn write_file(path: &Path, tensors: &Tensors) {
    let each = tensors.iter();
    let each = each.map(|(name, dtype, shape, bytes)| (name.as_str(), json!(dtype), &shape[..], bytes.clone()));
    super::checkpoint::write_file(path, each);
}

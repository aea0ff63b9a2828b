//! The quantised checkpoint: the original's tensors, a plan and the ranges of inputs flow in; a folder in ModelOpt's layout
//! flows out, written in one pass over the weights and within a few megabytes of memory.

use super::CalibrateError;
use super::modules::Module;
use super::recipe::Recipe;
use crate::model::checkpoint::{Checkpoint, Tensor};
use crate::model::lowbit::pack::{Packer, stored_scale};
use crate::model::lowbit::{Format, QUANT_CONFIG};
use crate::model::qwen2::Matrix;
use crate::model::tensors::{Entry, TensorWriter};
use crate::model::{copy_companions, read_json};
use crate::whole_file;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// Rows that one thread packs at a time.
const PART_ROWS: usize = 64;
/// Most bytes of widened rows that are in memory at once, over all threads, unless one part alone is larger.
const WIDENED_BYTES: usize = 48 << 20;

/// What was chosen for the checkpoint to write.
pub struct Choices<'a> {
    /// What becomes of each linear layer.
    pub modules: &'a [Module<'a>],
    /// Range of the inputs of every module that rounds them.
    pub inputs: &'a BTreeMap<String, f32>,
    /// Ranges of keys and values by layer, if they are cached in FP8.
    pub cache: Option<&'a [[f32; 2]]>,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// Threads that pack.
    pub threads: usize,
}

/// Largest weight of every module that is quantised.
///
/// # Errors
/// A weight that is infinite or not a number, by module.
pub fn largest_weights(modules: &[Module]) -> Result<BTreeMap<String, f32>, CalibrateError> {
    let mut all = BTreeMap::new();
    for module in modules.iter().filter(|module| module.scheme.is_some()) {
        let (mut row, mut largest) = (vec![0.0; module.matrix.columns], 0.0f32);
        for index in 0..module.matrix.rows {
            module.matrix.widen_row(index, &mut row);
            for weight in &row {
                // Written so that NaN counts as larger.
                largest = if weight.abs() <= largest { largest } else { weight.abs() };
            }
        }
        if !largest.is_finite() {
            let text = format!("`{}` holds a weight that is no finite number", module.name);
            return Err(CalibrateError::Refused(text));
        }
        all.insert(module.name.clone(), largest);
    }
    Ok(all)
}

/// Where the bytes of a tensor come from.
enum Content<'a> {
    Copied(&'a Tensor),
    /// Codes, then scales.
    Packed(&'a Matrix, Packer),
    Number(f32),
    /// Written with the entry before.
    WithCodes,
}

/// Writes config, weights and what goes along into the folder `to`, which is there.
///
/// # Errors
/// The original's config.json does not parse, or `to` cannot be written.
pub fn write(
    checkpoint: &Checkpoint,
    choices: &Choices,
    largest: &BTreeMap<String, f32>,
    to: &Path,
) -> Result<(), CalibrateError> {
    let from = checkpoint.directory();
    let failed = |why| CalibrateError::Write { path: to.to_owned(), why };
    copy_companions(from, to).map_err(failed)?;
    let mut config = read_json(&from.join("config.json"))?;
    let quantisation = declared(choices);
    let mut own = quantisation.clone();
    own["quant_method"] = json!("modelopt");
    own["ignore"] = own["exclude_modules"].clone();
    config["quantization_config"] = own;
    if choices.modules.last().is_some_and(|head| head.scheme.is_some()) {
        // The head is stored on its own, whatever it was before.
        config["tie_word_embeddings"] = json!(false);
    }
    let producer = json!({"name": "sage", "version": env!("CARGO_PKG_VERSION")});
    for (file, json) in
        [("config.json", config), (QUANT_CONFIG, json!({"producer": producer, "quantization": quantisation}))]
    {
        whole_file::write(&to.join(file), format!("{json:#}\n").as_bytes()).map_err(failed)?;
    }

    let plan = tensors(checkpoint, choices, largest);
    let entries: Vec<Entry> = plan.iter().map(|(entry, _)| entry.clone()).collect();
    let mut file = TensorWriter::create(&to.join("model.safetensors"), &entries).map_err(failed)?;
    for (_, content) in &plan {
        match content {
            Content::Copied(tensor) => file.write(tensor.bytes()),
            Content::Number(value) => file.write(&value.to_le_bytes()),
            Content::WithCodes => Ok(()),
            Content::Packed(matrix, packer) => pack(matrix, packer, choices.threads, &mut file),
        }
        .map_err(failed)?;
    }
    file.finish().map_err(failed)
}

/// All tensors in the order in which they are written.
fn tensors<'a>(
    checkpoint: &'a Checkpoint,
    choices: &Choices<'a>,
    largest: &BTreeMap<String, f32>,
) -> Vec<(Entry, Content<'a>)> {
    let quantised: Vec<&Module> = choices.modules.iter().filter(|module| module.scheme.is_some()).collect();
    let replaced: BTreeSet<String> = quantised.iter().map(|module| format!("{}.weight", module.name)).collect();
    let mut plan: Vec<(Entry, Content)> = Vec::new();
    for (name, tensor) in checkpoint.tensors().filter(|(name, _)| !replaced.contains(*name)) {
        let entry = Entry { name: name.to_owned(), dtype: tensor.dtype, shape: tensor.shape.clone() };
        plan.push((entry, Content::Copied(tensor)));
    }
    let number = |name: String, value| (Entry { name, dtype: Dtype::F32, shape: vec![] }, Content::Number(value));
    for module in quantised {
        let Some(scheme) = module.scheme else { continue };
        let (rows, columns) = (module.matrix.rows, module.matrix.columns);
        let most = largest.get(&module.name).copied().unwrap_or(0.0);
        let choice = choices.recipe.weights.scales.choice();
        let packer = Packer::new(scheme.format, columns, module.block, choice, most);
        let over_all = packer.over_all;
        let entry = |part: &str, (dtype, shape)| Entry { name: format!("{}.{part}", module.name), dtype, shape };
        let (codes, scales) = (entry("weight", packer.codes(rows)), entry("weight_scale", packer.scales(rows)));
        plan.push((codes, Content::Packed(module.matrix, packer)));
        plan.push((scales, Content::WithCodes));
        if scheme.format == Format::Nvfp4 {
            plan.push(number(format!("{}.weight_scale_2", module.name), over_all));
        }
        if let Some(range) = choices.inputs.get(&module.name).filter(|_| scheme.inputs) {
            let scale = stored_scale(*range, scheme.format.input_limit());
            plan.push(number(format!("{}.input_scale", module.name), scale));
        }
    }
    for (layer, ranges) in choices.cache.unwrap_or_default().iter().enumerate() {
        for (part, range) in ["k_proj.k_scale", "v_proj.v_scale"].into_iter().zip(ranges) {
            let scale = stored_scale(*range, Format::Fp8.input_limit());
            plan.push(number(format!("model.layers.{layer}.self_attn.{part}"), scale));
        }
    }
    plan
}

/// Packs a matrix part by part, several parts at once, and writes codes as they come, scales at the end.
fn pack(matrix: &Matrix, packer: &Packer, threads: usize, file: &mut TensorWriter) -> io::Result<()> {
    let one_part = |first: usize| {
        let rows = PART_ROWS.min(matrix.rows - first);
        let (mut wide, mut codes, mut scales) = (vec![0.0; rows * packer.columns], Vec::new(), Vec::new());
        for (row, out) in wide.chunks_exact_mut(packer.columns).enumerate() {
            matrix.widen_row(first + row, out);
        }
        packer.pack(&wide, &mut codes, &mut scales);
        (codes, scales)
    };
    let mut all_scales = Vec::new();
    let threads = threads.min(WIDENED_BYTES / (PART_ROWS * packer.columns * size_of::<f32>())).max(1);
    for first in (0..matrix.rows).step_by(PART_ROWS * threads) {
        let starts: Vec<usize> = (first..matrix.rows).step_by(PART_ROWS).take(threads).collect();
        let parts: Vec<(Vec<u8>, Vec<u8>)> = std::thread::scope(|scope| {
            let others: Vec<_> = starts[1..].iter().map(|&start| scope.spawn(move || one_part(start))).collect();
            let mut parts = vec![one_part(starts[0])];
            parts.extend(others.into_iter().filter_map(|other| other.join().ok()));
            parts
        });
        if parts.len() != starts.len() {
            return Err(io::Error::other("a thread that packs weights failed"));
        }
        for (codes, scales) in parts {
            file.write(&codes)?;
            all_scales.extend(scales);
        }
    }
    if packer.format == Format::Fp8 {
        all_scales.extend(packer.over_all.to_le_bytes());
    }
    file.write(&all_scales)
}

/// ModelOpt's object: one `quant_algo`, or `MIXED_PRECISION` with one per module.
fn declared(choices: &Choices) -> Value {
    let mut kinds = BTreeSet::new();
    let (mut layers, mut excluded) = (Map::new(), Vec::new());
    for module in choices.modules {
        match module.scheme.and_then(|scheme| Some((scheme, scheme.algo()?))) {
            None => excluded.push(module.name.clone()),
            Some((scheme, algo)) => {
                let group = if matches!(scheme.format, Format::Int4 | Format::Nvfp4) { module.block } else { 0 };
                kinds.insert((algo, group));
                let mut about = json!({"quant_algo": algo});
                if group > 0 {
                    about["group_size"] = json!(group);
                }
                layers.insert(module.name.clone(), about);
            }
        }
    }
    let cache = choices.cache.map(|_| "FP8");
    let mut out = json!({"quant_algo": null, "kv_cache_quant_algo": cache});
    match kinds.first() {
        Some((algo, group)) if kinds.len() == 1 => {
            out["quant_algo"] = json!(algo);
            if *group > 0 {
                out["group_size"] = json!(group);
            }
        }
        _ => {
            out["quant_algo"] = json!("MIXED_PRECISION");
            out["quantized_layers"] = Value::Object(layers);
        }
    }
    out["exclude_modules"] = json!(excluded);
    out
}

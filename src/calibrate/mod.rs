//! Calibration: the reference network reads sample sets or the robot's own recordings; ranges of what goes into every linear
//! layer, the quantised checkpoint with its scales, golden numbers and an accuracy report come out.
//!
//! A model folder and a recipe flow in. Out flows a folder in ModelOpt's layout that the CPU path runs and engines are emitted
//! from, with `calibration/` inside it: `manifest.toml`, `recipe.toml`, `amax.json`, `histograms.json`, `golden.safetensors`,
//! `report.json`. It appears under its name when all of it is there.

pub mod agreement;
pub mod golden;
pub mod legacy;
mod manifest;
mod modules;
pub mod ranges;
pub mod recipe;
pub mod samples;
mod store;

use self::agreement::Agreement;
use self::manifest::{Files, Manifest};
use self::modules::Module;
use self::ranges::{Histogram, Ranges};
use self::recipe::{Range, Recipe, Stored};
use self::samples::{Reader, Samples, Window};
use crate::engine::CancelToken;
use crate::engine::cpu::kernels::Kernels;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions, Site};
use crate::engine::tensorrt::manifest::fingerprint;
use crate::model::ModelError;
use crate::model::chat::own_system;
use crate::model::checkpoint::Checkpoint;
use crate::model::lowbit::Format;
use crate::model::qwen2::Qwen2Weights;
use crate::model::tokenizer::Tokenizer;
use crate::whole_file;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a calibration did not come about.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A model folder that cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Something asked for that cannot be: one sentence.
    #[error("{0}")]
    Refused(String),
    /// A folder that cannot be written.
    #[error("{} cannot be written ({why})", path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// The system refused a thread.
    #[error("cannot start the decoder ({0})")]
    Start(io::Error),
}

/// What to calibrate, and how.
pub struct Request<'a> {
    /// Model folder in Hugging Face layout, in bf16, f16 or f32.
    pub model: &'a Path,
    /// Folder to write; must not be there, or be empty.
    pub out: &'a Path,
    /// Name of a recipe that ships, or the path of one.
    pub recipe: &'a str,
    /// Files to read besides the recipe's sets; with any file or log, the sets are left out.
    pub samples: &'a [PathBuf],
    /// Recordings whose questions and answers are read.
    pub logs: &'a [PathBuf],
    /// Most tokens to read, instead of the recipe's.
    pub tokens: Option<usize>,
    /// Decides which documents are read for ranges and which for the report.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Instruction set of the reference; the scalar one gives the same bytes on every machine.
    pub kernels: &'static Kernels,
}

/// What a calibration found.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// As `report.json` has it.
    pub report: Value,
    /// Linear layers in few bits, and all of them.
    pub modules: (usize, usize),
    /// Sentences about sites whose range is worth a look.
    pub notes: Vec<String>,
}

/// Calibrates; `say` gets a sentence per stage.
///
/// # Errors
/// One sentence; nothing is left under the name of the folder to write.
pub fn calibrate(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Calibrated, CalibrateError> {
    let (recipe, recipe_text) = Recipe::load(request.recipe)?;
    let tokens = request.tokens.unwrap_or(recipe.samples.tokens);
    if tokens < 16 {
        return Err(CalibrateError::Refused(format!("{tokens} tokens are too few to calibrate with; say 16 or more")));
    }
    let folder = Unfinished::begin(request.model, request.out)?;
    let weights = Arc::new(Qwen2Weights::open(request.model)?);
    let checkpoint = Checkpoint::open(request.model)?;
    if weights.matrices().any(|matrix| matrix.element.is_quantised() || matrix.low_bit().is_some()) {
        let reason = "is quantised already; give the checkpoint it was made from";
        return Err(ModelError::invalid(request.model, reason).into());
    }
    let modules = modules::plan(&weights, &recipe)?;
    let samples = read_samples(request, &recipe, &weights)?;
    let sequence = recipe.samples.sequence.min(weights.config.max_positions);
    let (read, judged) = samples.split((sequence, tokens), request.seed);
    if read.is_empty() || judged.is_empty() {
        let text = "the samples are too few: at least four documents are needed, one of four is for the report";
        return Err(CalibrateError::Refused(text.to_owned()));
    }
    // Room for the longest context that there is, not that there may be: at 14B 400 kB a token.
    let context = read.iter().chain(&judged).map(|window| window.tokens.len()).max().unwrap_or(sequence);
    let (threads, kernels) = (request.threads, request.kernels);
    let options = DecoderOptions { threads, context, kernels, ..DecoderOptions::default() };
    let mut reference = Decoder::new(Arc::clone(&weights), options.clone()).map_err(CalibrateError::Start)?;

    let count = |windows: &[Window]| windows.iter().map(|window| window.tokens.len()).sum::<usize>();
    say(&format!("reading {} tokens of {} documents for ranges", count(&read), read.len()));
    let head = modules.last().is_some_and(|module| module.scheme.is_some_and(|scheme| scheme.inputs));
    let ranges = observe(&mut reference, &read, head)?;
    let inputs = input_ranges(&modules, &ranges, &recipe);
    let cache = cache_ranges(&ranges, weights.layers.len());

    say("writing the quantised checkpoint");
    let largest = store::largest_weights(&modules)?;
    let choices = store::Choices {
        modules: &modules,
        inputs: &inputs,
        cache: (recipe.cache.format == Stored::Fp8).then_some(&cache[..]),
        recipe: &recipe,
        threads: request.threads,
    };
    store::write(&checkpoint, &choices, &largest, folder.path())?;

    say(&format!("comparing it on {} tokens of {} other documents", count(&judged), judged.len()));
    let quantised = Arc::new(Qwen2Weights::open(folder.path())?);
    let sizes = (quantised.file_bytes, weights.file_bytes);
    let mut decoder = Decoder::new(quantised, options).map_err(CalibrateError::Start)?;
    let mut sets = vec![Agreement::default(); samples.sources.len()];
    for window in &judged {
        sets[window.source].read(&mut decoder, &mut reference, window.tokens);
    }
    let mut report = report(&samples, &sets);
    report["weights_bytes"] = json!(sizes.0);
    report["weights_bytes_reference"] = json!(sizes.1);

    let inside = folder.path().join("calibration");
    let failed = |why| CalibrateError::Write { path: inside.clone(), why };
    std::fs::create_dir(&inside).map_err(failed)?;
    let prompts = golden::write(&mut decoder, &judged, &inside.join("golden.safetensors")).map_err(failed)?;
    let manifest = Manifest::new(&Files {
        model: request.model,
        original: fingerprint(&checkpoint),
        quantised: fingerprint(&Checkpoint::open(folder.path())?),
        recipe: (&recipe.name, &recipe_text),
        sources: &samples.sources,
        read: (sequence, count(&read), count(&judged), request.seed),
        kernels: decoder.options().kernels.full_name(),
        prompts,
    });
    for (file, text) in [
        ("manifest.toml", manifest.toml().map_err(|error| failed(io::Error::other(error)))?),
        ("recipe.toml", recipe_text),
        ("amax.json", format!("{:#}\n", amax(&modules, &ranges, &largest, &inputs))),
        ("histograms.json", format!("{}\n", histograms(&ranges))),
        ("report.json", format!("{report:#}\n")),
    ] {
        whole_file::write(&inside.join(file), text.as_bytes()).map_err(failed)?;
    }
    let packed = modules.iter().filter(|module| module.scheme.is_some()).count();
    folder.finish()?;
    Ok(Calibrated { report, modules: (packed, modules.len()), notes: notes(&ranges) })
}

fn read_samples(request: &Request, recipe: &Recipe, weights: &Qwen2Weights) -> Result<Samples, CalibrateError> {
    let tokenizer = Tokenizer::load(request.model)?;
    let reader =
        Reader { tokenizer: &tokenizer, system: own_system(request.model)?, vocabulary: weights.config.vocab_size };
    let mut samples = Samples::default();
    if request.samples.is_empty() && request.logs.is_empty() {
        for set in &recipe.samples.sets {
            samples.add_set(set, &reader)?;
        }
    }
    for file in request.samples {
        samples.add_file(file, &reader)?;
    }
    for log in request.logs {
        samples.add_log(log, &reader)?;
    }
    Ok(samples)
}

/// Over all positions, and for each source; a source of which nothing was judged says so by 0 tokens.
fn report(samples: &Samples, sets: &[Agreement]) -> Value {
    let mut all = Agreement::default();
    sets.iter().for_each(|set| all.add_all(set));
    let named = |(source, set): (&samples::Source, &Agreement)| {
        let mut named = Map::from_iter([("name".to_owned(), json!(source.name)), ("tokens".to_owned(), json!(0))]);
        if let (true, Value::Object(own)) = (set.predicted > 0, set.report()) {
            named.extend(own);
        }
        Value::Object(named)
    };
    let mut report = all.report();
    report["sets"] = samples.sources.iter().zip(sets).map(named).collect();
    report
}

/// Reads the windows and counts what goes into every layer; with `head`, also what goes into the head at every token.
fn observe(decoder: &mut Decoder, windows: &[Window], head: bool) -> Result<Ranges, CalibrateError> {
    let (go, mut ranges) = (CancelToken::default(), Ranges::default());
    let chunk = decoder.options().chunk;
    let mut kv = decoder.new_cache();
    for window in windows {
        kv.truncate(0);
        for part in window.tokens.chunks(chunk) {
            // Nobody cancels here.
            let _ = decoder.forward_seen(part, &mut kv, &go, &mut ranges);
            for index in 0..if head { part.len() } else { 0 } {
                let _ = decoder.logits_seen(index, &go, &mut ranges);
            }
        }
    }
    for (layer, site, histogram) in ranges.iter() {
        if histogram.broken > 0 {
            let text = format!(
                "{} numbers at layer {layer}, {site:?}, are infinite or not a number: the weights are damaged or do not fit config.json",
                histogram.broken
            );
            return Err(CalibrateError::Refused(text));
        }
    }
    Ok(ranges)
}

/// The range of the inputs of every module that rounds them.
fn input_ranges(modules: &[Module], ranges: &Ranges, recipe: &Recipe) -> BTreeMap<String, f32> {
    let mut chosen: BTreeMap<(usize, Site, Format), f32> = BTreeMap::new();
    let mut inputs = BTreeMap::new();
    for module in modules {
        let Some(scheme) = module.scheme.filter(|scheme| scheme.inputs) else { continue };
        let (layer, site) = module.site;
        let range = *chosen.entry((layer, site, scheme.format)).or_insert_with(|| {
            let Some(seen) = ranges.get(layer, site) else { return 0.0 };
            match recipe.inputs.range {
                Range::Largest => seen.largest,
                Range::Percentile => seen.percentile(recipe.inputs.percentile / 100.0),
                Range::LeastError => seen.least_error(scheme.format),
            }
        });
        inputs.insert(module.name.clone(), range);
    }
    inputs
}

/// Largest key and value of every layer.
fn cache_ranges(ranges: &Ranges, layers: usize) -> Vec<[f32; 2]> {
    let largest = |layer, site| ranges.get(layer, site).map_or(0.0, |seen: &Histogram| seen.largest);
    (0..layers).map(|layer| [largest(layer, Site::Key), largest(layer, Site::Value)]).collect()
}

/// What was seen and chosen, by module.
fn amax(modules: &[Module], ranges: &Ranges, weights: &BTreeMap<String, f32>, chosen: &BTreeMap<String, f32>) -> Value {
    let mut inputs = Map::new();
    for module in modules {
        if let Some(seen) = ranges.get(module.site.0, module.site.1) {
            inputs.insert(module.name.clone(), json!(seen.largest));
        }
    }
    let mut cache = Map::new();
    for (layer, [key, value]) in cache_ranges(ranges, modules.last().map_or(0, |head| head.site.0)).iter().enumerate() {
        cache.insert(format!("model.layers.{layer}.self_attn.k_proj"), json!(key));
        cache.insert(format!("model.layers.{layer}.self_attn.v_proj"), json!(value));
    }
    json!({"inputs": inputs, "input_ranges": chosen, "weights": weights, "cache": cache})
}

fn histograms(ranges: &Ranges) -> Value {
    let named = |(layer, site, seen): (usize, Site, &Histogram)| {
        let site = format!("{site:?}").to_lowercase();
        (format!("layer.{layer}.{site}"), seen.json())
    };
    let all: Map<String, Value> = ranges.iter().map(named).collect();
    json!({"bins_per_octave": ranges::PER_OCTAVE, "least_exponent": ranges::LEAST_EXPONENT, "sites": all})
}

/// Sites where a few numbers are far beyond the others: the ones to look at when the report is bad.
fn notes(ranges: &Ranges) -> Vec<String> {
    let inputs = ranges.iter().filter(|(_, site, _)| !matches!(site, Site::Key | Site::Value));
    let mut far: Vec<(f32, String)> = inputs
        .map(|(layer, site, seen)| {
            let usual = seen.percentile(0.999).max(f32::MIN_POSITIVE);
            let (site, largest) = (format!("{site:?}").to_lowercase(), seen.largest);
            (largest / usual, format!("layer {layer}, input of {site}: largest {largest:.3}, 99.9 % below {usual:.3}"))
        })
        .filter(|(ratio, _)| *ratio > 8.0)
        .collect();
    far.sort_by(|a, b| b.0.total_cmp(&a.0));
    far.into_iter().take(5).map(|(_, text)| text).collect()
}

/// A folder under a temporary name, removed unless it is finished.
struct Unfinished {
    part: PathBuf,
    out: PathBuf,
    finished: bool,
}

impl Unfinished {
    /// Makes `OUT.part` and clears what an interrupted run left there.
    fn begin(model: &Path, out: &Path) -> Result<Unfinished, CalibrateError> {
        let failed = |why| CalibrateError::Write { path: out.to_owned(), why };
        if out.canonicalize().ok().is_some_and(|out| model.canonicalize().ok() == Some(out)) {
            return Err(CalibrateError::Refused("--out is the model's own folder; give another".to_owned()));
        }
        match std::fs::read_dir(out) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let text = format!("{} is not empty; remove it or give another --out", out.display());
                    return Err(CalibrateError::Refused(text));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if part.is_dir() {
            std::fs::remove_dir_all(&part).map_err(failed)?;
        }
        std::fs::create_dir_all(&part).map_err(failed)?;
        Ok(Unfinished { part, out: out.to_owned(), finished: false })
    }

    fn path(&self) -> &Path {
        &self.part
    }

    /// Gives the folder its name.
    fn finish(mut self) -> Result<(), CalibrateError> {
        let failed = |why| CalibrateError::Write { path: self.out.clone(), why };
        std::fs::rename(&self.part, &self.out).map_err(failed)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is cleared by the next run.
            let _ = std::fs::remove_dir_all(&self.part);
        }
    }
}

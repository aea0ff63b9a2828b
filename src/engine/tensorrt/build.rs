//! Builds engines of a checkpoint, or writes what another machine needs to build them. A model folder and a recipe flow in; a
//! folder with plans and a manifest flows out, written so that an interrupted build leaves the old one or none.

use super::abi::{Built, Io, Library, Request, Shapes, Watch};
use super::claim::Claim;
use super::manifest::{self, Builder, Engine, Manifest, Profile, Recipe, Target, hash_file};
use super::{Flavor, TrtError, at, shelf, words};
use crate::model::checkpoint::Checkpoint;
use crate::model::lowbit::Format;
use crate::model::onnx::proto::{Model, Size};
use crate::model::onnx::rewritten::Mapped;
use crate::model::onnx::{Composed, Form, Precision, compose, emit, weights_bytes};
use crate::model::qwen2::Qwen2Config;
use crate::whole_file;
use prost::Message;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// What earlier builds in a folder measured.
pub const TIMING_CACHE: &str = "timing.cache";

/// What became of a build.
#[derive(Debug)]
pub enum Outcome {
    /// The engine that is there is the one that is wanted.
    UpToDate(Manifest),
    /// It was built; the sentence says why the one that was there would not do.
    Built(Manifest, Option<String>),
}

/// Writes graphs, links to the weights and a manifest; the manifest and the graphs flow out.
///
/// # Errors
/// The checkpoint cannot be used, the folder cannot be written, or an engine lies there.
pub fn emit_only(model: &Path, out: &Path, recipe: Recipe) -> Result<(Manifest, Vec<Composed>), TrtError> {
    if Manifest::load(out).is_ok_and(|there| there.builder.is_some()) {
        let text =
            format!("{}: an engine was built there, which this would replace; give another --out", out.display());
        return Err(TrtError::Stale(text));
    }
    let claim = Claim::take(out)?;
    let emitted = emit(model, out, &recipe.graph)?;
    let checkpoint = Checkpoint::open(model)?;
    let mut manifest = Manifest::new(&checkpoint, &emitted.config, recipe);
    manifest.held_bytes = weights_bytes(&emitted.parts);
    for (graph, composed) in emitted.graphs.iter().zip(&emitted.parts) {
        let name = graph.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        manifest.engines.push(Engine {
            file: name,
            layers: [graph.layers.start, graph.layers.end],
            bytes: graph.bytes,
            blake3: hash_file(&graph.path)?,
            inputs: describe_graph(&composed.model, true),
            outputs: describe_graph(&composed.model, false),
        });
    }
    words::bring_with_weights(model, out)?;
    manifest.save(out)?;
    claim.keep();
    // Graphs of an emission in other groups.
    shelf::prune(out)?;
    Ok((manifest, emitted.parts))
}

/// Builds with the TensorRT that was found.
///
/// # Errors
/// What the checkpoint, TensorRT or the file system refuses; a cancelled build.
pub fn build(
    library: &Library,
    model: &Path,
    out: &Path,
    recipe: Recipe,
    watch: &dyn Watch,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, TrtError> {
    let target = Target::parse(&recipe.target).map_err(TrtError::Refused)?;
    refuse_foreign(library, &target)?;
    if !fits(library, recipe.graph.form) {
        let text = format!("{} has no fused attention (10.15 has); say --form primitive", library.describe());
        return Err(TrtError::Refused(text));
    }
    if recipe.graph.form == Form::Fused && recipe.graph.precision == Precision::Fp32 {
        let text = "fused attention computes in 16 bits only; say --precision bf16 or fp16, or --form primitive";
        return Err(TrtError::Refused(text.to_owned()));
    }
    let (config, checkpoint) = (Qwen2Config::load(model)?, Checkpoint::open(model)?);
    let composition = compose(&checkpoint, &config, &recipe.graph)?;
    refuse_formats(&composition.formats, &target)?;
    let mut wanted = Manifest::new(&checkpoint, &config, recipe);
    wanted.held_bytes = weights_bytes(&composition.parts);
    // What RTX builds for no GPU in particular runs on all that it knows.
    let own = || if library.flavor == Flavor::Rtx { None } else { own_gpu() };
    let capability = target.capability.or_else(own).unwrap_or_default();
    wanted.builder = Some(Builder { tensorrt: library.describe(), capability });
    let claim = Claim::take(out)?;
    let mut why = None;
    if out.join(manifest::FILE).exists() {
        why = match Manifest::load(out) {
            Ok(there) => match there.differs_from(&wanted) {
                None => match there.check_files(out) {
                    Ok(()) => {
                        words::bring(model, out)?;
                        claim.keep();
                        return Ok(Outcome::UpToDate(there));
                    }
                    Err(error) => Some(error.to_string()),
                },
                different => different,
            },
            Err(error) => Some(error.to_string()),
        };
    }
    let capabilities: Vec<i32> = match (library.flavor, target.capability) {
        (Flavor::Rtx, Some(capability)) => vec![capability],
        _ => Vec::new(),
    };
    let cache_path = out.join(TIMING_CACHE);
    let mut cache = std::fs::read(&cache_path).ok();
    let rewritten = composition.rewritten.map(out, cancelled).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => TrtError::Cancelled,
        _ => at(out)(error),
    })?;
    for part in &composition.parts {
        let weights = (&checkpoint, &rewritten);
        let built = build_part(library, weights, part, &wanted, (&capabilities, cache.as_deref()), watch);
        let built = built.map_err(|error| if cancelled() { TrtError::Cancelled } else { error })?;
        let bytes = built.plan.bytes();
        let hash = blake3::hash(bytes).to_hex().to_string();
        // The name carries the content: plans of the manifest that is there stay until the new one is in place.
        let file = format!("{}-{}.plan", part.name.trim_end_matches(".onnx"), &hash[..12]);
        let path = out.join(&file);
        whole_file::write(&path, bytes).map_err(at(&path))?;
        wanted.engines.push(Engine {
            file,
            layers: [part.layers.start, part.layers.end],
            bytes: bytes.len() as u64,
            blake3: hash,
            inputs: built.inputs.iter().map(describe).collect(),
            outputs: built.outputs.iter().map(describe).collect(),
        });
        if let Some(memory) = &built.timing_cache {
            cache = Some(memory.bytes().to_vec());
        }
    }
    if let Some(cache) = cache.filter(|cache| !cache.is_empty()) {
        whole_file::write(&cache_path, &cache).map_err(at(&cache_path))?;
    }
    words::bring(model, out)?;
    wanted.save(out)?;
    claim.keep();
    shelf::prune(out)?;
    Ok(Outcome::Built(wanted, why))
}

/// What the installed builder cannot make, in one sentence.
fn refuse_foreign(library: &Library, target: &Target) -> Result<(), TrtError> {
    const RTX: [i32; 6] = [75, 80, 86, 89, 120, 121];
    let name = library.describe();
    match (library.flavor, target.capability) {
        (Flavor::Rtx, Some(capability)) if !RTX.contains(&capability) => {
            let known = RTX.map(|capability| format!("sm{capability}")).join(", ");
            Err(TrtError::Refused(format!(
                "{name} does not build for {} (sm{capability}), only for {known}; `--emit-only` writes what to build from on \
                 the device itself",
                target.name
            )))
        }
        // TensorRT proper builds for the GPU that it runs on, and says itself when there is none.
        (Flavor::Ten | Flavor::Eleven, Some(capability)) => match own_gpu() {
            Some(here) if here != capability => Err(TrtError::Refused(format!(
                "{name} builds for the GPU of its own machine, sm{here}, not for {} (sm{capability}); `--emit-only` writes what to build \
                 from on the device itself",
                target.name
            ))),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Compute capability of this machine's GPU, if there is one.
fn own_gpu() -> Option<i32> {
    #[cfg(feature = "tensorrt")]
    let capability = crate::engine::cuda::Device::open(0).ok().map(|device| device.capability);
    #[cfg(not(feature = "tensorrt"))]
    let capability = None;
    capability
}

/// Numbers that a GPU does not have, in one sentence.
fn refuse_formats(formats: &BTreeSet<Format>, target: &Target) -> Result<(), TrtError> {
    let Some(capability) = target.capability else { return Ok(()) };
    for &format in formats {
        let (least, which) = match format {
            Format::Nvfp4 => (100, "Blackwell"),
            Format::Fp8 => (89, "Ada"),
            Format::Int4 | Format::Int8 => continue,
        };
        if capability < least {
            return Err(TrtError::Refused(format!(
                "{} needs a GPU from {which} on (sm{least}), sm{capability} computes no such numbers; int4 and int8 run \
                 everywhere",
                format.name()
            )));
        }
    }
    Ok(())
}

fn build_part<'a>(
    library: &'a Library,
    (checkpoint, rewritten): (&Checkpoint, &Mapped),
    part: &Composed,
    manifest: &Manifest,
    (capabilities, timing_cache): (&[i32], Option<&[u8]>),
    watch: &dyn Watch,
) -> Result<Built<'a>, TrtError> {
    let onnx = part.model.encode_to_vec();
    let bytes = |name: &str| rewritten.get(name).or_else(|| Some(checkpoint.get(name)?.bytes()));
    let weights: Vec<(&str, &[u8])> = part.weights().filter_map(|(name, _)| Some((name, bytes(name)?))).collect();
    let profiles: Vec<Vec<Shapes>> = manifest.profiles.iter().map(|profile| shapes(&part.model, profile)).collect();
    let request = Request {
        onnx: &onnx,
        onnx_path: &checkpoint.directory().join(&part.name),
        weights: &weights,
        profiles: &profiles,
        capabilities,
        timing_cache,
    };
    library.builder()?.build(&request, watch)
}

/// The sizes of every dynamic input in one profile.
pub fn shapes(model: &Model, profile: &Profile) -> Vec<Shapes> {
    let size = |size: &Size, which: usize| match size {
        Size::Fixed(size) => *size,
        Size::Named(name) if name == "T" => profile.keys[which] as i64,
        Size::Named(_) => profile.tokens[which] as i64,
    };
    let inputs = model.graph.iter().flat_map(|graph| &graph.input);
    inputs
        .filter_map(|input| {
            let dims = &input.kind.as_ref()?.tensor.as_ref()?.shape.as_ref()?.dim;
            let sizes: Vec<&Size> = dims.iter().filter_map(|dim| dim.size.as_ref()).collect();
            sizes.iter().any(|size| matches!(size, Size::Named(_))).then(|| {
                let [min, opt, max] = [0, 1, 2].map(|which| sizes.iter().map(|s| size(s, which)).collect());
                Shapes { name: input.name.clone(), min, opt, max }
            })
        })
        .collect()
}

/// `name type [sizes]` of an input or output.
fn describe(io: &Io) -> String {
    let kind = match io.kind {
        0 => "f32",
        1 => "f16",
        7 => "bf16",
        8 => "i64",
        3 => "i32",
        _ => "?",
    };
    format!("{} {kind} {:?}", io.name, io.shape)
}

fn describe_graph(model: &Model, inputs: bool) -> Vec<String> {
    let list = model.graph.iter().flat_map(|graph| if inputs { &graph.input } else { &graph.output });
    list.map(|value| {
        let tensor = value.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
        let kind = match tensor.map(|tensor| tensor.element) {
            Some(1) => "f32",
            Some(10) => "f16",
            Some(16) => "bf16",
            Some(7) => "i64",
            _ => "?",
        };
        let dims =
            tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.as_slice()).unwrap_or_default();
        let sizes: Vec<i64> =
            dims.iter().map(|dim| if let Some(Size::Fixed(size)) = dim.size { size } else { -1 }).collect();
        format!("{} {kind} {sizes:?}", value.name)
    })
    .collect()
}

/// Whether a form runs on a TensorRT of that version.
pub fn fits(library: &Library, form: Form) -> bool {
    form == Form::Primitive || library.flavor != Flavor::Ten || library.version >= 101_500
}

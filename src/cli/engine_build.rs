//! `sage engine build`, `inspect`, `list`, `verify` and `prune`: engines of TensorRT on disk. Folders flow in; folders and lines
//! flow out.

use super::{BadInput, Verdict};
use crate::engine::tensorrt::build::{Outcome, build as build_engine, emit_only};
use crate::engine::tensorrt::manifest::{self, Manifest, Recipe, Target};
use crate::engine::tensorrt::shelf::{self, Shelved};
use crate::engine::tensorrt::{TrtError, Watch, locate, trtexec};
use crate::engine::tensorrt::{claim, edge_llm};
use crate::model::ModelError;
use crate::model::checkpoint::Checkpoint;
use crate::model::lowbit::Format;
use crate::model::onnx::source::stored_format;
use crate::model::onnx::{Form, Options, Precision};
use crate::model::qwen2::Qwen2Config;
use safetensors::Dtype;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

/// Positions of the KV cache unless something else is said.
const CAPACITY: usize = 4_096;
/// Tokens of a prefill step unless something else is said.
const CHUNK: usize = 128;

/// Arguments of `sage engine build`.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Model folder in Hugging Face layout (Qwen2 or Qwen2.5), in bf16, f16 or f32, or as `sage calibrate` and ModelOpt
    /// quantise it.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Folder of the engine; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Numbers to compute in, bf16, fp16 or fp32, or those of the weights, fp8, int8, int4 or nvfp4; default: the
    /// checkpoint's own. int4 is made of a plain checkpoint on the way, the others need what `sage calibrate` writes.
    #[arg(long, value_name = "P")]
    precision: Option<String>,
    /// What weights in few bits are computed in: bf16, fp16 or fp32 (to compare, no engine takes it); default: what the
    /// checkpoint's other numbers are in.
    #[arg(long, value_name = "P")]
    compute: Option<Precision>,
    /// The GPU: thor, this, sm89, sm120 and the like.
    #[arg(long, value_name = "T", default_value = "this")]
    target: String,
    /// Operators: fused needs TensorRT 10.15 or newer, primitive runs on any 10.
    #[arg(long, value_enum, default_value_t = Form::Fused)]
    form: Form,
    /// Positions that the KV cache has room for; default: 4096, or what the model was made for, if less.
    #[arg(long, value_name = "N")]
    capacity: Option<usize>,
    /// Most tokens of one prefill step; default: 128, or the capacity, if less.
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Engines that the layers are divided among, with a preemption point between them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    groups: usize,
    /// Write model.onnx and links to the weights, and print the command that builds from them elsewhere.
    #[arg(long)]
    emit_only: bool,
    /// Folder with TensorRT's libraries; default: SAGE_TENSORRT, then where the system looks.
    #[arg(long, value_name = "DIR")]
    tensorrt: Option<PathBuf>,
}

/// Arguments of commands on a folder.
#[derive(Debug, clap::Args)]
pub struct FolderArgs {
    /// The folder.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Arguments of `sage engine verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The engine's folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The checkpoint that it should be of.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Try it also on a GPU that it was not built for; TensorRT says what it thinks of that.
    #[arg(long)]
    any_gpu: bool,
}

/// Arguments of `sage engine libraries`.
#[derive(Debug, clap::Args)]
pub struct LibrariesArgs {
    /// Folder with TensorRT's libraries; default: SAGE_TENSORRT, then where the system looks.
    #[arg(long, value_name = "DIR")]
    tensorrt: Option<PathBuf>,
}

/// Refusals are bad input; a missing library or file is a fault.
pub fn refused(error: TrtError) -> anyhow::Error {
    match error {
        TrtError::Refused(_) | TrtError::Model(_) | TrtError::Stale(_) => BadInput(error.to_string()).into(),
        other => other.into(),
    }
}

fn recipe(args: &BuildArgs) -> anyhow::Result<Recipe> {
    let bad = |text: String| anyhow::Error::from(BadInput(text));
    Target::parse(&args.target).map_err(bad)?;
    if let Some(why) = not_a_checkpoint(&args.model) {
        return Err(bad(why));
    }
    let config = Qwen2Config::load(&args.model).map_err(|error| BadInput(error.to_string()))?;
    let (precision, weights) = match args.precision.as_deref() {
        Some("bf16") => (Precision::Bf16, None),
        Some("fp16") => (Precision::Fp16, None),
        Some("fp32") => (Precision::Fp32, None),
        other => {
            let wanted = other.map(|name| {
                Format::named(name).ok_or_else(|| {
                    bad(format!("no precision \"{name}\"; there are bf16, fp16, fp32, fp8, int8, int4 and nvfp4"))
                })
            });
            let (own, held) = own_numbers(&args.model, &config)?;
            (args.compute.unwrap_or(own), wanted.transpose()?.or(held))
        }
    };
    if weights.is_none() && args.compute.is_some_and(|compute| compute != precision) {
        return Err(bad("--compute is for weights in few bits; for plain ones, --precision says all".to_owned()));
    }
    let (most, layers) = (config.max_positions, config.layers);
    let capacity = args.capacity.unwrap_or(CAPACITY.min(most));
    if capacity < 2 {
        return Err(bad(format!("--capacity {capacity} holds no conversation; give 2 to {most} positions")));
    }
    if capacity > most {
        return Err(bad(format!("--capacity {capacity} is beyond the {most} positions that the model was made for")));
    }
    // What nobody asked for gives way.
    let chunk = args.chunk.unwrap_or(CHUNK.min(capacity));
    if chunk == 0 || chunk > capacity {
        return Err(bad(format!(
            "--chunk {chunk} does not fit a KV cache of {capacity} positions; give 1 to {capacity}"
        )));
    }
    if args.groups == 0 || args.groups > layers {
        return Err(bad(format!(
            "--groups {}: {} has {layers} layers; give 1 to {layers}",
            args.groups,
            args.model.display()
        )));
    }
    Ok(Recipe {
        graph: Options { form: args.form, precision, weights, capacity, groups: args.groups },
        chunk,
        target: args.target.clone(),
    })
}

/// One sentence if the folder holds an engine instead of a checkpoint.
pub fn not_a_checkpoint(folder: &Path) -> Option<String> {
    let ours = || {
        format!(
            "{}: is an engine for a GPU; give the checkpoint that it was built from (`mind = \"DIR\"` in sage.toml takes engines)",
            folder.display()
        )
    };
    // What was emitted has the weights beside its graphs, and is both.
    let weights = ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| folder.join(name).is_file());
    edge_llm::refusal(folder).or_else(|| (!weights && folder.join(manifest::FILE).is_file()).then(ours))
}

/// What a checkpoint's plain numbers are computed in, and the format of its quantised layers.
fn own_numbers(model: &Path, config: &Qwen2Config) -> anyhow::Result<(Precision, Option<Format>)> {
    let bad = |error: ModelError| BadInput(error.to_string());
    let checkpoint = Checkpoint::open(model).map_err(bad)?;
    let own = checkpoint.get("model.embed_tokens.weight").map(|tensor| tensor.dtype);
    let precision = if own == Some(Dtype::F16) { Precision::Fp16 } else { Precision::Bf16 };
    Ok((precision, stored_format(&checkpoint, config).map_err(bad)?))
}

/// What an engine is built without, and cannot be spoken with.
fn tell_of_missing_words(model: &Path) -> io::Result<()> {
    if model.join("tokenizer.json").is_file() {
        return Ok(());
    }
    let name = model.display();
    writeln!(io::stderr(), "note: {name} has no tokenizer.json; put one into the engine's folder before it is a mind")
}

/// Runs `sage engine build`.
///
/// # Errors
/// One sentence about what is missing, refused or cancelled.
pub fn build(args: &BuildArgs) -> anyhow::Result<Verdict> {
    let recipe = recipe(args)?;
    if args.out.canonicalize().ok().is_some_and(|out| args.model.canonicalize().ok() == Some(out)) {
        return Err(BadInput("--out is the model's own folder; give another".to_owned()).into());
    }
    let mut out = io::stdout().lock();
    if args.emit_only {
        let (manifest, graphs) = emit_only(&args.model, &args.out, recipe).map_err(refused)?;
        for engine in &manifest.engines {
            writeln!(out, "{}: {} bytes", args.out.join(&engine.file).display(), engine.bytes)?;
        }
        tell_of_missing_words(&args.model)?;
        writeln!(out, "on the device, with TensorRT's own tool (on a Jetson in /usr/src/tensorrt/bin):")?;
        for graph in &graphs {
            writeln!(out, "{}", trtexec::line(graph, &args.out, &manifest))?;
        }
        writeln!(out, "or there, with the manifest that `mind = \"ENGINE\"` needs:")?;
        writeln!(out, "{}", same_build(&args.out, &manifest))?;
        return Ok(Verdict::Good);
    }
    let library = locate::find(args.tensorrt.as_deref()).map_err(refused)?;
    writeln!(io::stderr(), "{}", library.describe())?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let bar = Bar { stop: Arc::clone(&stop), phases: Mutex::default(), drawn: io::stderr().is_terminal() };
    let cancelled = || stop.load(Ordering::Acquire);
    let outcome = build_engine(&library, &args.model, &args.out, recipe, &bar, &cancelled);
    bar.end();
    match outcome.map_err(refused)? {
        Outcome::UpToDate(_) => writeln!(out, "{}: up to date", args.out.display())?,
        Outcome::Built(manifest, why) => {
            tell_of_missing_words(&args.model)?;
            if let Some(why) = why {
                writeln!(out, "built again: {why}")?;
            }
            for engine in &manifest.engines {
                writeln!(out, "{}: {} bytes", args.out.join(&engine.file).display(), engine.bytes)?;
            }
        }
    }
    Ok(Verdict::Good)
}

/// The command that makes an engine of an emitted folder, which is a checkpoint too, on the device.
fn same_build(folder: &Path, manifest: &Manifest) -> String {
    let (graph, folder) = (&manifest.recipe.graph, folder.display().to_string());
    let precision = graph.weights.map_or(graph.precision.name(), Format::name);
    format!(
        "sage engine build {} --out ENGINE --precision {precision} --form {} --capacity {} --chunk {} --groups {}",
        trtexec::quoted(&folder),
        graph.form.name(),
        graph.capacity,
        manifest.recipe.chunk,
        graph.groups
    )
}

/// How far a build is.
struct Bar {
    stop: Arc<AtomicBool>,
    /// Open phases: name, steps done, steps in all.
    phases: Mutex<Vec<(String, u32, u32)>>,
    drawn: bool,
}

impl Bar {
    fn draw(&self, phases: &[(String, u32, u32)]) {
        let mut share = 0.0;
        let mut part = 1.0;
        for (_, done, of) in phases {
            part /= f64::from((*of).max(1));
            share += f64::from(*done) * part;
        }
        let name = phases.last().map_or("", |phase| phase.0.as_str());
        let _ = write!(io::stderr(), "\r{:3.0} %  {name:<50.50}", 100.0 * share.min(1.0));
    }

    fn end(&self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r{:60}\r", "");
        }
    }
}

impl Watch for Bar {
    fn phase(&self, name: &str, _: Option<&str>, steps: u32) {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), 0, steps));
    }

    fn step(&self, name: &str, step: u32) -> bool {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(phase) = phases.iter_mut().rev().find(|phase| phase.0 == name) {
            phase.1 = step + 1;
        }
        if self.drawn {
            self.draw(&phases);
        }
        !self.stop.load(Ordering::Acquire)
    }

    fn finished(&self, name: &str) {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = phases.iter().rposition(|phase| phase.0 == name) {
            phases.remove(at);
        }
    }
}

/// Runs `sage engine libraries`.
///
/// # Errors
/// Standard output is closed.
pub fn libraries(args: &LibrariesArgs) -> anyhow::Result<Verdict> {
    let found = locate::all(args.tensorrt.as_deref());
    let mut out = io::stdout().lock();
    if found.is_empty() {
        writeln!(out, "no TensorRT; {}", locate::ADVICE)?;
    }
    for (name, library) in found {
        let library = match library {
            Ok(library) => library,
            Err(error) => {
                writeln!(out, "{name}: {error}")?;
                continue;
            }
        };
        let runtime = match library.runtime() {
            Ok(runtime) if runtime.answers() => "its runtime starts and answers".to_owned(),
            Ok(_) => "its runtime starts but does not answer as it should; please report this".to_owned(),
            Err(error) => error.to_string(),
        };
        writeln!(out, "{name}: {}; {runtime}", library.describe())?;
    }
    Ok(Verdict::Good)
}

/// Runs `sage engine inspect`.
///
/// # Errors
/// No engine lies there.
pub fn inspect(args: &FolderArgs) -> anyhow::Result<Verdict> {
    let mut out = io::stdout().lock();
    match shelf::look(&args.folder) {
        Some(Shelved::Own(_, manifest)) => {
            let text = serde_json::to_string_pretty(&*manifest.map_err(refused)?)?;
            writeln!(out, "{text}")?;
        }
        Some(Shelved::EdgeLlm(folder, plans)) => {
            let engine = edge_llm::EdgeLlm::read(&folder, &plans, edge_llm::plugin_variable()).map_err(refused)?;
            write!(out, "{engine}")?;
        }
        // There is none, and loading it says what lies there instead.
        None => return Manifest::load(&args.folder).map(|_| Verdict::Good).map_err(refused),
    }
    Ok(Verdict::Good)
}

/// Runs `sage engine list`.
///
/// # Errors
/// The folder cannot be read.
pub fn list(args: &FolderArgs) -> anyhow::Result<Verdict> {
    let mut out = io::stdout().lock();
    for found in shelf::list(&args.folder).map_err(refused)? {
        match found {
            Shelved::Own(folder, Ok(manifest)) => writeln!(out, "{}: {}", folder.display(), about(&manifest))?,
            Shelved::Own(_, Err(error)) => writeln!(out, "{error}")?,
            Shelved::EdgeLlm(folder, _) => writeln!(out, "{}: TensorRT Edge-LLM", folder.display())?,
        }
    }
    Ok(Verdict::Good)
}

fn about(manifest: &Manifest) -> String {
    let graph = &manifest.recipe.graph;
    let bytes: u64 = manifest.engines.iter().map(|engine| engine.bytes).sum();
    let made = match &manifest.builder {
        None => "emitted for".to_owned(),
        Some(builder) => format!("{} for", builder.tensorrt),
    };
    format!(
        "{} layers of {}, {}, {:?}, {} positions, {} in a row, {made} {}, {:.1} MB",
        manifest.network.layers,
        manifest.network.hidden,
        graph.name(),
        graph.form,
        graph.capacity,
        graph.groups,
        manifest.recipe.target,
        bytes as f64 / 1e6
    )
}

/// Runs `sage engine verify`.
///
/// # Errors
/// No engine lies there.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<Verdict> {
    let manifest = Manifest::load(&args.folder).map_err(refused)?;
    let mut wrong = manifest.check_files(&args.folder).err().map(|error| error.to_string());
    if let (None, Some(model)) = (&wrong, &args.model) {
        wrong = differs(&manifest, model)?;
    }
    let mut out = io::stdout().lock();
    if let Some(why) = wrong {
        writeln!(out, "{}: {why}", args.folder.display())?;
        return Ok(Verdict::CheckFailed);
    }
    writeln!(out, "{}: good: {}", args.folder.display(), about(&manifest))?;
    match (&args.model, &manifest.builder) {
        (Some(model), Some(_)) => run_beside_the_processor(args, model, &mut out),
        _ => Ok(Verdict::Good),
    }
}

/// Runs the engine if there is something to run it on, and says so if there is not.
fn run_beside_the_processor(args: &VerifyArgs, model: &Path, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    #[cfg(feature = "tensorrt")]
    let compared = super::engine_device::compare(&args.folder, model, args.any_gpu)?;
    #[cfg(not(feature = "tensorrt"))]
    let compared: Result<std::convert::Infallible, String> = {
        let _ = (args.any_gpu, model);
        Err("this sage was built without the feature `tensorrt`".to_owned())
    };
    match compared {
        Err(why) => writeln!(out, "its files were checked, it was not run: {why}")?,
        #[cfg(feature = "tensorrt")]
        Ok(comparison) => {
            writeln!(out, "{}", comparison.sentence())?;
            return Ok(if comparison.holds() { Verdict::Good } else { Verdict::CheckFailed });
        }
        #[cfg(not(feature = "tensorrt"))]
        Ok(never) => match never {},
    }
    Ok(Verdict::Good)
}

fn differs(manifest: &Manifest, model: &Path) -> anyhow::Result<Option<String>> {
    let bad = |error: ModelError| BadInput(error.to_string());
    let config = Qwen2Config::load(model).map_err(bad)?;
    let checkpoint = Checkpoint::open(model).map_err(bad)?;
    let mut wanted = Manifest::new(&checkpoint, &config, manifest.recipe.clone());
    wanted.builder.clone_from(&manifest.builder);
    Ok(manifest.differs_from(&wanted))
}

/// Runs `sage engine prune`.
///
/// # Errors
/// There is no such folder, a build is writing there, or a file cannot be removed.
pub fn prune(args: &FolderArgs) -> anyhow::Result<Verdict> {
    if let Some(why) = edge_llm::refusal(&args.folder) {
        return Err(BadInput(why).into());
    }
    if !args.folder.is_dir() {
        return Err(BadInput(format!("{}: there is no such folder", args.folder.display())).into());
    }
    let _lock = claim::lock(&args.folder).map_err(refused)?;
    let removed = shelf::prune(&args.folder).map_err(refused)?;
    let mut out = io::stdout().lock();
    for (name, bytes) in &removed {
        writeln!(out, "removed {name}, {bytes} bytes")?;
    }
    writeln!(out, "{} files removed", removed.len())?;
    Ok(Verdict::Good)
}

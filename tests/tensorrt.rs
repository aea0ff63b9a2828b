//! Engines of TensorRT: what every machine can check, and, where SAGE_TENSORRT names a folder with TensorRT-RTX's libraries
//! (tests/trt/run gets them), real builds of a tiny model for GPUs that are not there.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/checkpoint.rs"]
mod checkpoint;
#[path = "support/lowbit.rs"]
mod lowbit;

use bench::Bench;
use checkpoint::cases;
use sage::engine::tensorrt::build::{Outcome, build};
use sage::engine::tensorrt::manifest::{Manifest, Recipe};
use sage::engine::tensorrt::{Library, TrtError, Watch, locate, shelf};
use sage::model::lowbit::{Format, Scheme};
use sage::model::onnx::{Form, Options, Precision};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

impl Bench {
    /// With quantised layers.
    fn quantised(format: Format, inputs: bool) -> Bench {
        Bench::with(|folder| lowbit::write(&lowbit::case(), folder, Scheme { format, inputs }))
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.out())
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn recipe(form: Form, precision: Precision, target: &str, groups: usize) -> Recipe {
    let graph = Options { form, precision, weights: None, capacity: 320, groups };
    Recipe { graph, chunk: 64, target: target.to_owned() }
}

fn quantised(form: Form, precision: Precision, format: Format, target: &str) -> Recipe {
    let plain = recipe(form, precision, target, 1);
    Recipe { graph: Options { weights: Some(format), ..plain.graph }, ..plain }
}

/// Counts steps and goes on until there were `limit`.
struct Count {
    steps: AtomicU32,
    limit: u32,
}

impl Count {
    fn unlimited() -> Count {
        Count { steps: AtomicU32::new(0), limit: u32::MAX }
    }
}

impl Watch for Count {
    fn phase(&self, _: &str, _: Option<&str>, _: u32) {}
    fn step(&self, _: &str, _: u32) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed) < self.limit
    }
    fn finished(&self, _: &str) {}
}

/// The library that SAGE_TENSORRT names.
fn library() -> Option<Library> {
    if std::env::var_os("SAGE_TENSORRT").is_none() {
        eprintln!("skipped: SAGE_TENSORRT is not set; tests/trt/run gets a builder");
        return None;
    }
    Some(locate::find(None).unwrap())
}

fn make(library: &Library, bench: &Bench, recipe: Recipe, watch: &Count) -> Result<Outcome, TrtError> {
    let cancelled = || watch.steps.load(Ordering::Relaxed) > watch.limit;
    build(library, &bench.model(), &bench.out(), recipe, watch, &cancelled)
}

fn sage(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sage")).args(args).output().unwrap()
}

#[test]
fn every_slot_is_the_one_that_a_cpp_compiler_sees() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trt/slots.py");
    let available = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !available("python3") || !available("g++") {
        return eprintln!("skipped: python3 or g++ is not there");
    }
    let output = Command::new("python3").arg(script).arg("--check").output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{said}{wrong}");
}

#[test]
fn a_machine_without_tensorrt_emits_and_says_what_is_missing() {
    let bench = Bench::new();
    let (model, out) = (bench.model().display().to_string(), bench.out().display().to_string());
    let nowhere = bench.root.path().join("model").display().to_string();
    let base = ["engine", "build", &model, "--out", &out, "--capacity", "320", "--target", "thor"];
    let output = sage(&[&base[..], &["--tensorrt", &nowhere]].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("none was found") && text.lines().count() == 1, "{text}");
    assert!(bench.files().is_empty());

    let output = sage(&[&base[..], &["--emit-only", "--groups", "3"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.starts_with("trtexec --onnx=")).count(), 3, "{text}");
    // The middle engine takes the residual stream, not tokens.
    let middle = text.lines().filter(|line| line.starts_with("trtexec")).nth(1).unwrap();
    assert!(middle.contains("hidden:128x192") && !middle.contains("input_ids"), "{middle}");
    let manifest = Manifest::load(&bench.out()).unwrap();
    assert_eq!(manifest.engines.len(), 3);
    manifest.check_files(&bench.out()).unwrap();
    let output = sage(&["engine", "verify", &out, "--model", &model]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    // A plan reads from it what the engine will hold: 3 layers, 2 heads of 24, keys and values of 320 positions in bf16.
    let config = bench.root.path().join("sage.toml");
    std::fs::write(&config, format!("[[plan.beside]]\nname = \"tiny\"\nengine = {out:?}\n")).unwrap();
    let output = sage(&["plan", "--config", &config.display().to_string(), "--device", "thor", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tiny = &answer["plan"]["engines"][3];
    assert_eq!((tiny["name"].as_str(), tiny["kv_bytes"].as_u64()), (Some("tiny"), Some(2 * 3 * 2 * 24 * 320 * 2)));
    assert_eq!(tiny["weights_bytes"].as_u64(), Some(manifest.held_bytes));
    // At least the residual stream of a chunk and the logits.
    assert!(tiny["activation_bytes"].as_u64() > Some(128 * 192 * 2), "{tiny}");
    assert!(manifest.held_bytes < manifest.weights_bytes, "the file also has a header");

    // Quantised on the way: the sixteen bits of a weight become four and their share of a scale.
    let four = bench.root.path().join("four").display().to_string();
    let wide = bench.root.path().join("wide");
    std::fs::create_dir(&wide).unwrap();
    lowbit::case().write(&wide, 1);
    let wide = wide.display().to_string();
    let output = sage(&["engine", "build", &wide, "--out", &four, "--emit-only", "--precision", "int4"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let held = Manifest::load(Path::new(&four)).unwrap();
    assert!(held.held_bytes * 2 < held.weights_bytes, "{} of {}", held.held_bytes, held.weights_bytes);
    let rewritten = std::fs::metadata(Path::new(&four).join("rewritten.weights")).unwrap().len();
    assert!(rewritten < held.held_bytes);

    // Another checkpoint is not this engine's, and a file that was changed is named.
    let other = bench.root.path().join("other");
    std::fs::create_dir(&other).unwrap();
    cases()[9].write(&other, 1);
    let output = sage(&["engine", "verify", &out, "--model", &other.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("weights are not those"));
    std::fs::write(bench.out().join("model-1-of-3.onnx"), "changed").unwrap();
    let output = sage(&["engine", "verify", &out]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("model-1-of-3.onnx"));
}

#[test]
fn bad_recipes_are_one_sentence() {
    let bench = Bench::new();
    let (model, out) = (bench.model().display().to_string(), bench.out().display().to_string());
    for (more, says) in [
        (["--precision", "int3"], "there are bf16"),
        (["--precision", "nvfp4"], "sage calibrate"),
        (["--target", "abacus"], "no target"),
        (["--capacity", "4096"], "2048 positions"),
        (["--groups", "4"], "has 3 layers; give 1 to 3"),
        (["--groups", "0"], "has 3 layers; give 1 to 3"),
        (["--capacity", "0"], "holds no conversation; give 2 to 2048"),
        (["--chunk", "5000"], "--chunk 5000 does not fit a KV cache of 2048 positions"),
        (["--chunk", "0"], "--chunk 0"),
    ] {
        let base = ["engine", "build", &model, "--out", &out, "--emit-only"];
        let output = sage(&[&base[..], &more].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {text}");
        assert!(text.contains(says), "{more:?}: {text}");
    }
}

#[test]
fn the_tiny_model_is_built_in_every_form_and_precision() {
    let Some(library) = library() else { return };
    for target in ["sm89", "sm120"] {
        for (form, precision) in [
            (Form::Fused, Precision::Bf16),
            (Form::Fused, Precision::Fp16),
            (Form::Primitive, Precision::Bf16),
            (Form::Primitive, Precision::Fp16),
            (Form::Primitive, Precision::Fp32),
        ] {
            let (bench, watch) = (Bench::new(), Count::unlimited());
            let recipe = recipe(form, precision, target, 1);
            let Outcome::Built(manifest, None) = make(&library, &bench, recipe, &watch).unwrap() else {
                panic!("a new engine")
            };
            let engine = &manifest.engines[0];
            println!("{target} {form:?} {precision:?}: {} bytes", engine.bytes);
            // Three layers, with a cache of keys and one of values each.
            let caches = engine.inputs.iter().filter(|input| input.contains("_cache_")).count();
            assert_eq!((caches, engine.outputs.len()), (6, 8), "{:?}", engine.inputs);
            assert!(engine.inputs.contains(&"input_ids i64 [1, -1]".to_owned()), "{:?}", engine.inputs);
            assert!(watch.steps.load(Ordering::Relaxed) > 0);
            manifest.check_files(&bench.out()).unwrap();
        }
    }
}

#[test]
fn the_tiny_model_is_built_in_every_form_with_quantised_weights() {
    let Some(library) = library() else { return };
    for (format, inputs) in lowbit::SCHEMES {
        let bench = Bench::quantised(format, inputs);
        for target in ["sm89", "sm120"].into_iter().filter(|target| format != Format::Nvfp4 || *target == "sm120") {
            for form in [Form::Fused, Form::Primitive] {
                // Numbers beside the codes in both kinds of 16 bits, once.
                let both = [Precision::Bf16, Precision::Fp16];
                for &precision in &both[..if target == "sm120" { 2 } else { 1 }] {
                    let watch = Count::unlimited();
                    let outcome = make(&library, &bench, quantised(form, precision, format, target), &watch);
                    let Ok(Outcome::Built(manifest, _)) = outcome else { panic!("{format:?} {form:?}: {outcome:?}") };
                    let engine = &manifest.engines[0];
                    println!("{target} {format:?} inputs {inputs} {form:?} {precision:?}: {} bytes", engine.bytes);
                    assert_eq!(engine.outputs.len(), 6, "{:?}", engine.outputs);
                    manifest.check_files(&bench.out()).unwrap();
                    assert!(bench.files().iter().all(|name| !name.contains("rewritten")), "{:?}", bench.files());
                }
            }
        }
    }
}

#[test]
fn scales_that_f16_has_no_digits_for_are_built_in_f32() {
    let Some(library) = library() else { return };
    for (format, inputs) in
        [(Format::Int4, false), (Format::Int8, true), (Format::Int8, false), (Format::Fp8, true), (Format::Nvfp4, true)]
    {
        let bench = Bench::quantised(format, inputs);
        lowbit::shrink_scales(&bench.model(), "model.layers.0.mlp.up_proj", 1.0 / 8192.0);
        let watch = Count::unlimited();
        let outcome = make(&library, &bench, quantised(Form::Fused, Precision::Fp16, format, "sm120"), &watch);
        let Ok(Outcome::Built(manifest, _)) = outcome else { panic!("{format:?}: {outcome:?}") };
        println!("{format:?} inputs {inputs}: {} bytes", manifest.engines[0].bytes);
    }
}

#[test]
fn numbers_that_a_gpu_has_not_are_refused_and_a_changed_scale_is_another_engine() {
    let Some(library) = library() else { return };
    let watch = Count::unlimited();
    for (format, target, says) in
        [(Format::Nvfp4, "sm89", "from Blackwell on (sm100)"), (Format::Fp8, "sm86", "from Ada on (sm89)")]
    {
        let bench = Bench::quantised(format, true);
        let recipe = quantised(Form::Fused, Precision::Bf16, format, target);
        let error = make(&library, &bench, recipe, &watch).unwrap_err().to_string();
        assert!(error.contains(says) && error.lines().count() == 1, "{error}");
        assert!(bench.files().is_empty());
    }
    let bench = Bench::quantised(Format::Int4, false);
    let recipe = || quantised(Form::Fused, Precision::Bf16, Format::Int4, "sm89");
    assert!(matches!(make(&library, &bench, recipe(), &watch), Ok(Outcome::Built(_, None))));
    assert!(matches!(make(&library, &bench, recipe(), &watch), Ok(Outcome::UpToDate(_))));
    // The last factor of inputs, which lies beyond what is looked at of a weight.
    let file = bench.model().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let end = json["model.layers.0.mlp.down_proj.pre_quant_scale"]["data_offsets"][1].as_u64().unwrap() as usize;
    bytes[8 + header + end - 1] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let Ok(Outcome::Built(_, Some(why))) = make(&library, &bench, recipe(), &watch) else {
        panic!("another scale is another engine")
    };
    assert!(why.contains("calibration"), "{why}");
}

#[test]
fn an_engine_is_built_again_only_when_something_changed_and_nothing_old_is_left() {
    let Some(library) = library() else { return };
    let bench = Bench::new();
    let watch = Count::unlimited();
    let plain = || recipe(Form::Fused, Precision::Bf16, "sm89", 1);
    assert!(matches!(make(&library, &bench, plain(), &watch), Ok(Outcome::Built(_, None))));
    let first = bench.files();
    assert!(matches!(make(&library, &bench, plain(), &watch), Ok(Outcome::UpToDate(_))));
    assert_eq!(first, bench.files());

    let Ok(Outcome::Built(manifest, Some(why))) = make(&library, &bench, Recipe { chunk: 32, ..plain() }, &watch)
    else {
        panic!("another recipe is another engine")
    };
    assert!(why.contains("\"chunk\":64"), "{why}");
    let plans: Vec<String> = bench.files().into_iter().filter(|name| name.ends_with(".plan")).collect();
    assert_eq!(plans, [manifest.engines[0].file.clone()]);

    // Other weights of the same shape.
    let mut case = cases().remove(8);
    case.seed += 1;
    case.write(&bench.model(), 2);
    let Ok(Outcome::Built(manifest, Some(why))) = make(&library, &bench, Recipe { chunk: 32, ..plain() }, &watch)
    else {
        panic!("other weights are another engine")
    };
    assert!(why.contains("weights are not those"), "{why}");

    // A damaged plan.
    std::fs::write(bench.out().join(&manifest.engines[0].file), "half").unwrap();
    let Ok(Outcome::Built(_, Some(why))) = make(&library, &bench, Recipe { chunk: 32, ..plain() }, &watch) else {
        panic!("a damaged plan is built again")
    };
    assert!(why.contains("is not the file"), "{why}");
}

#[test]
fn a_cancelled_build_leaves_what_was_there() {
    let Some(library) = library() else { return };
    let bench = Bench::new();
    let stopped = Count { steps: AtomicU32::new(0), limit: 2 };
    let error = make(&library, &bench, recipe(Form::Fused, Precision::Bf16, "sm89", 1), &stopped).unwrap_err();
    assert!(matches!(error, TrtError::Cancelled), "{error}");
    assert!(bench.files().is_empty(), "{:?}", bench.files());

    make(&library, &bench, recipe(Form::Fused, Precision::Bf16, "sm89", 1), &Count::unlimited()).unwrap();
    let stopped = Count { steps: AtomicU32::new(0), limit: 2 };
    make(&library, &bench, recipe(Form::Fused, Precision::Fp16, "sm89", 2), &stopped).unwrap_err();
    Manifest::load(&bench.out()).unwrap().check_files(&bench.out()).unwrap();

    // Cancelled when the first of three engines is there: it goes too, and so does the folder.
    let bench = Bench::new();
    let recipe = recipe(Form::Fused, Precision::Bf16, "sm89", 3);
    let first = UntilAPlan(bench.out());
    let error = build(&library, &bench.model(), &bench.out(), recipe, &first, &|| first.is_there()).unwrap_err();
    assert!(matches!(error, TrtError::Cancelled) && !bench.out().exists(), "{error}: {:?}", bench.files());
}

/// Goes on until the first plan is written.
struct UntilAPlan(PathBuf);

impl UntilAPlan {
    fn is_there(&self) -> bool {
        shelf::files(&self.0).any(|name| name.ends_with(".plan"))
    }
}

impl Watch for UntilAPlan {
    fn phase(&self, _: &str, _: Option<&str>, _: u32) {}
    fn step(&self, _: &str, _: u32) -> bool {
        !self.is_there()
    }
    fn finished(&self, _: &str) {}
}

#[test]
fn what_the_builder_cannot_make_is_refused_and_points_to_emitting() {
    let Some(library) = library() else { return };
    let bench = Bench::new();
    for (recipe, says) in [
        (recipe(Form::Fused, Precision::Bf16, "thor", 1), "--emit-only"),
        (recipe(Form::Fused, Precision::Bf16, "h200", 1), "sm90"),
        (recipe(Form::Fused, Precision::Fp32, "sm89", 1), "16 bits"),
        (recipe(Form::Fused, Precision::Bf16, "sm75", 1), ""),
    ] {
        let error = make(&library, &bench, recipe, &Count::unlimited()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(bench.files().iter().all(|name| !name.ends_with(".plan")), "{:?}", bench.files());
    }
}

#[test]
fn a_runtime_answers_and_without_a_device_takes_no_plan() {
    let Some(library) = library() else { return };
    let bench = Bench::new();
    make(&library, &bench, recipe(Form::Fused, Precision::Bf16, "sm89", 1), &Count::unlimited()).unwrap();
    let manifest = Manifest::load(&bench.out()).unwrap();
    let plan = std::fs::read(bench.out().join(&manifest.engines[0].file)).unwrap();
    let runtime = library.runtime().unwrap();
    assert!(runtime.answers());
    if !Path::new("/dev/nvidia0").exists() {
        let error = runtime.load(&plan).unwrap_err().to_string();
        assert!(error.contains("the plan is not taken"), "{error}");
    }
}

#[test]
fn the_libraries_of_tensorrt_10_and_11_are_recognised_and_a_missing_driver_is_no_crash() {
    let Some(folder) = std::env::var_os("SAGE_TENSORRT_LEAN") else {
        return eprintln!("skipped: SAGE_TENSORRT_LEAN is not set; tests/trt/run gets the libraries");
    };
    let output = sage(&["engine", "libraries", "--tensorrt", folder.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for name in ["libnvinfer_lean.so.10: TensorRT 10.", "libnvinfer_lean.so.11: TensorRT 11."] {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line.contains("driver") || line.contains("answers"), "{line}");
    }
}

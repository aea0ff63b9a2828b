//! Whole engines without a GPU: plans, contexts, caches, groups and recorded steps through TensorRT's tables and the driver's
//! functions, against test doubles of both that C++ compiles from NVIDIA's headers (trt/fake_nvinfer.cpp, gpu/fake_libcuda.c). The
//! double's network is arithmetic that the test does too: every token depends on every token before it.
#![cfg(feature = "tensorrt")]

#[path = "support/checkpoint.rs"]
mod checkpoint;
mod dispatch_support;
mod gpu_double;

use checkpoint::cases;
use dispatch_support::NoSensors;
use gpu_double::Double;
use sage::config::{Config, EnginesConfig};
use sage::engine::generator::{Generator, Stepped, Talk};
use sage::engine::profile::Profile;
use sage::engine::tensorrt::manifest::{Builder, Engine, Manifest, Recipe};
use sage::engine::tensorrt::run::{Engines, RowGenerator, RowTalk, Where};
use sage::engine::tensorrt::words;
use sage::engine::{CancelToken, Progress, StepSink};
use sage::model::checkpoint::Checkpoint;
use sage::model::onnx::{Form, Options, Precision, groups};
use sage::model::qwen2::Qwen2Config;
use sage::model::sampling::{Sampler, Sampling};
use sage::model::transcript::{Finish, Step};
use sage::robot::engines::LoadKind;
use sage::types::*;
use std::path::{Path, PathBuf};

/// No multiple of 256, so that the last stretch of positions is a short one.
const CAPACITY: usize = 600;
const CHUNK: usize = 16;

/// A checkpoint, of which only the shape matters, and an engine "of" it that the double runs.
fn engine(root: &Path, form: Form, parts: usize, capability: i32) -> (PathBuf, PathBuf) {
    let (model, folder) = (root.join("model"), root.join(format!("{form:?}-{parts}-{capability}")));
    if !model.exists() {
        std::fs::create_dir(&model).unwrap();
        cases()[8].write(&model, 1);
    }
    engine_of(&model, &folder, form, parts, capability);
    (model, folder)
}

fn engine_of(model: &Path, folder: &Path, form: Form, parts: usize, capability: i32) {
    std::fs::create_dir(folder).unwrap();
    let (checkpoint, config) = (Checkpoint::open(model).unwrap(), Qwen2Config::load(model).unwrap());
    let graph = Options { form, precision: Precision::Fp32, weights: None, capacity: CAPACITY, groups: parts };
    let mut manifest = Manifest::new(&checkpoint, &config, Recipe { graph, chunk: CHUNK, target: "sm89".to_owned() });
    manifest.builder = Some(Builder { tensorrt: "TensorRT 10.16.2".to_owned(), capability });
    let network = manifest.network.clone();
    for (index, layers) in groups(network.layers, parts).into_iter().enumerate() {
        let plan = format!(
            "double {} {index} {parts} {} {} {} {} {} {} {CAPACITY} {CHUNK}",
            u8::from(form == Form::Fused),
            layers.start,
            layers.end,
            network.hidden,
            network.kv_heads,
            network.head_dim,
            network.vocabulary
        );
        let file = format!("model-{index}.plan");
        std::fs::write(folder.join(&file), &plan).unwrap();
        manifest.engines.push(Engine {
            file,
            layers: [layers.start, layers.end],
            bytes: plan.len() as u64,
            blake3: blake3::hash(plan.as_bytes()).to_hex().to_string(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        });
    }
    words::bring(model, folder).unwrap();
    manifest.save(folder).unwrap();
}

/// The double's network on the host.
struct Arithmetic {
    network: sage::engine::tensorrt::manifest::Network,
    /// Per layer, what its keys and values add up to so far.
    sums: Vec<f64>,
}

impl Arithmetic {
    fn read(&mut self, token: u32) -> u32 {
        let (heads, head) = (self.network.kv_heads as f64, self.network.head_dim as f64);
        let mut x = f64::from(token);
        for (layer, sum) in self.sums.iter_mut().enumerate() {
            *sum += 2.0 * (x + 2.0 * (heads - 1.0) + head - 1.0) + 1.0;
            x = (x * 3.0 + *sum + layer as f64) % 1009.0;
        }
        let vocabulary = self.network.vocabulary as f64;
        let residue = |token: &u32| (f64::from(*token) * 31.0 + x) % vocabulary;
        (0..self.network.vocabulary as u32).min_by(|a, b| residue(a).total_cmp(&residue(b))).unwrap()
    }
}

/// What the double answers to a prompt.
fn expected(manifest: &Manifest, prompt: &[u32], count: usize) -> Vec<u32> {
    let network = manifest.network.clone();
    let mut arithmetic = Arithmetic { sums: vec![0.0; network.layers], network };
    let mut next = prompt.iter().map(|token| arithmetic.read(*token)).last().unwrap();
    let mut answer = Vec::new();
    while answer.len() < count {
        answer.push(next);
        next = arithmetic.read(next);
    }
    answer
}

/// One step of the lane.
fn step(generator: &mut RowGenerator<Engines>, talk: &mut RowTalk<Engines>, cancel: &CancelToken) -> Stepped {
    generator.submit(talk, cancel).unwrap();
    let mut looks = 0;
    loop {
        match generator.poll(talk).unwrap() {
            Stepped::Pending => looks += 1,
            other => {
                assert!(looks > 0 || !matches!(other, Stepped::Between), "a queued group is not done at once");
                return other;
            }
        }
    }
}

/// Steps until `count` tokens of the answer are there.
fn tokens(generator: &mut RowGenerator<Engines>, talk: &mut RowTalk<Engines>, count: usize) -> Vec<u32> {
    let go = CancelToken::default();
    while talk.transcript().answer().len() < count {
        let stepped = step(generator, talk, &go);
        assert!(!matches!(stepped, Stepped::Done(Step::Finished(_)) | Stepped::Stopped), "{stepped:?}");
    }
    talk.transcript().answer().to_vec()
}

fn prompt(length: usize, seed: usize, vocabulary: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 37 + seed * 101 + 5) % vocabulary) as u32).collect()
}

/// Runs in a child process that finds the doubles; alone it does nothing.
#[test]
fn inside() {
    let Some(folder) = std::env::var_os("DOUBLE_ENGINE").map(PathBuf::from) else { return };
    let manifest = Manifest::load(&folder).unwrap();
    let vocabulary = manifest.network.vocabulary;
    let mut generator = RowGenerator::new(Engines::load(&folder, Where::default()).unwrap());
    let sampler = || Sampler::new(Sampling::default(), vocabulary, 0);
    let (mut first, mut second) = (generator.talk(sampler()).unwrap(), generator.talk(sampler()).unwrap());

    // Prefill in chunks with a rest, decoding beyond 256 positions, where steps are recorded anew.
    let long = prompt(3 * CHUNK + 5, 1, vocabulary);
    let wanted = expected(&manifest, &long, 300);
    first.transcript_mut().start(&long, 400, 0).unwrap();
    assert_eq!(tokens(&mut generator, &mut first, 200), wanted[..200]);

    // Another conversation in between, step by step in turns, one of them cancelled now and then between groups.
    let short = prompt(3, 2, vocabulary);
    let other = expected(&manifest, &short, 60);
    second.transcript_mut().start(&short, 60, 0).unwrap();
    let (go, stop) = (CancelToken::default(), CancelToken::default());
    stop.cancel();
    for turn in 0.. {
        if first.transcript().answer().len() == 300 && second.transcript().answer().len() == 60 {
            break;
        }
        if first.transcript().answer().len() < 300 {
            step(&mut generator, &mut first, &go);
        }
        if second.transcript().answer().len() < 60 {
            if turn % 5 == 4 {
                assert_eq!(step(&mut generator, &mut second, &stop), Stepped::Stopped);
            }
            step(&mut generator, &mut second, &go);
        }
    }
    assert_eq!((first.transcript().answer(), second.transcript().answer()), (&wanted[..], &other[..]));

    // Cut back to before a recording's stretch and gone on with differently.
    let cut = long.len() + 150;
    first.transcript_mut().truncate(cut);
    first.transcript_mut().append(&[7, 8, 9]);
    let changed: Vec<u32> = [&long[..], &wanted[..150], &[7, 8, 9]].concat();
    let answer = tokens(&mut generator, &mut first, 153 + 40);
    assert_eq!(answer[153..], expected(&manifest, &changed, 40)[..]);

    // Sessions that went while their step ran, or before they saw that their answer was over: the next one is whole.
    generator.submit(&mut second, &go).unwrap();
    second.transcript_mut().allow(10);
    generator.submit(&mut second, &go).unwrap();
    let again = prompt(30, 3, vocabulary);
    second.transcript_mut().start(&again, 20, 0).unwrap();
    assert_eq!(tokens(&mut generator, &mut second, 20), expected(&manifest, &again, 20));

    // To the end of the cache.
    let full = prompt(CAPACITY - 4, 4, vocabulary);
    first.transcript_mut().start(&full, 100, 0).unwrap();
    let ended = loop {
        if let Stepped::Done(Step::Finished(finish)) = step(&mut generator, &mut first, &go) {
            break finish;
        }
    };
    assert_eq!((ended, first.transcript().answer()), (Finish::Context, &expected(&manifest, &full, 4)[..]));
}

/// Runs in a child process too: the mind of a configuration that names an engine's folder.
#[test]
fn inside_a_robot() {
    let Some(folder) = std::env::var_os("DOUBLE_MIND").map(PathBuf::from) else { return };
    let config = EnginesConfig { mind: folder.clone(), ..EnginesConfig::default() };
    let loaded = sage::robot::engines::load(&config, LoadKind::Counted).unwrap();
    let mut engines = loaded.engines;
    let mind = engines.iter_mut().find(|engine| engine.capability() == Capability::Reason).unwrap();
    assert!(mind.describe().contains("2 engines in a row, test double of the driver"), "{}", mind.describe());
    let manifest = Manifest::load(&folder).unwrap();
    assert_eq!(mind.weights_hash(), manifest.hash());
    assert!(mind.memory_bytes() > 3 * manifest.kv_bytes);
    let planned = sage::plan::engines(&Config { engines: config, ..Config::default() }).unwrap();
    assert!(planned[2].total() >= mind.memory_bytes() && planned[2].activation_bytes > 0, "{:?}", planned[2]);
    let ask = Job {
        input: JobInput::Ask { prompt: Prompt::from("scene: person none\nhello").unwrap(), max_tokens: 12 },
        credit_words: u16::MAX,
        ..dispatch_support::job(1, Capability::Reason, Class::Dialogue, Nanos::NEVER)
    };
    let mut session = mind.open(&ask, &NoSensors).unwrap();
    let (go, mut sink) = (CancelToken::default(), StepSink::default());
    let mut steps = 0;
    while sage::engine::step(&mut *session, &go, &mut sink).unwrap() == Progress::More {
        sink.products.clear();
        steps += 1;
    }
    // Two groups for each of twelve tokens, and the chunks of the prompt before.
    assert!(matches!(sink.output, Some(Output::Answered { tokens: 12, .. })), "{:?}", sink.output);
    assert!(steps > 24, "{steps}");
}

#[test]
fn a_configuration_that_names_an_engine_has_its_mind_on_the_device() {
    let Some(double) = Double::with_tensorrt() else { return };
    let (model, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/mind"), double.path().join("mind"));
    engine_of(&model, &folder, Form::Fused, 2, 89);
    run_inside(&double, "inside_a_robot", ("DOUBLE_MIND", &folder));
    assert_eq!(double.tensorrt_counted().0, 0);
    // What a plan counts for it: the engines, and three caches.
    let config = double.path().join("sage.toml");
    std::fs::write(&config, format!("[engines]\nmind = {:?}\n", folder.display().to_string())).unwrap();
    let output = double.sage(&["plan", "--config", &config.display().to_string(), "--device", "thor", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mind = &answer["plan"]["engines"][2];
    let manifest = Manifest::load(&folder).unwrap();
    assert_eq!((mind["name"].as_str(), mind["kv_bytes"].as_u64()), (Some("mind"), Some(3 * manifest.kv_bytes)));
    let notes = answer["plan"]["notes"].to_string();
    assert!(notes.contains("activations of mind are computed from shapes"), "{notes}");
}

#[test]
fn tensorrt_10_is_not_told_to_build_for_another_gpu_than_its_machines() {
    let Some(double) = Double::with_tensorrt() else { return };
    let model = double.path().join("model");
    std::fs::create_dir(&model).unwrap();
    cases()[8].write(&model, 1);
    let (model, out) = (model.display().to_string(), double.path().join("out").display().to_string());
    let build = |target: &str| {
        let output = double.sage(&["engine", "build", &model, "--out", &out, "--target", target]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = build("thor");
    assert!(code == Some(2) && said.contains("its own machine, sm89, not for thor (sm110); `--emit-only`"), "{said}");
    // The double has no builder: for its own GPU it is asked for one, and nothing is left of the attempt.
    let (code, said) = build("sm89");
    assert!(code == Some(3) && said.contains("createInferBuilder_INTERNAL"), "{said}");
    assert!(!Path::new(&out).exists());
}

/// Runs one of the tests above in a process that finds the doubles.
fn run_inside(double: &Double, test: &str, (name, folder): (&str, &Path)) {
    let program = std::env::current_exe().unwrap();
    let output = double
        .command(&program.display().to_string())
        .args([test, "--exact", "--nocapture"])
        .env(name, folder)
        .output()
        .unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}{wrong}", folder.display());
}

#[test]
fn engines_answer_by_every_token_before_in_both_forms_and_any_number_of_groups() {
    let Some(double) = Double::with_tensorrt() else { return };
    for (form, parts) in [(Form::Fused, 1), (Form::Fused, 3), (Form::Primitive, 1), (Form::Primitive, 2)] {
        let (_, folder) = engine(double.path(), form, parts, 89);
        run_inside(&double, "inside", ("DOUBLE_ENGINE", &folder));
        let (alive, enqueued) = double.tensorrt_counted();
        println!("{form:?} in {parts}: {enqueued} runs queued by TensorRT, the rest by recorded steps");
        assert_eq!(alive, 0, "objects of TensorRT were left");
        let counted = double.counted();
        for (kind, made, gone) in &counted {
            assert!(kind == "contexts" && *made == 0 || made == gone, "{kind}: {made} made, {gone} destroyed");
        }
        // Recorded once per engine and stretch of positions, not once per token: 500 tokens and more were decoded.
        let graphs = counted.iter().find(|(kind, ..)| kind == "executables").unwrap().1;
        assert!((4..=9 * parts as u64).contains(&graphs), "{graphs} recorded steps");
        assert!(enqueued < 250 * parts as u64, "{enqueued} runs were queued one by one");
    }
}

#[test]
fn verify_finds_an_engine_that_answers_otherwise_than_the_processor() {
    let Some(double) = Double::with_tensorrt() else { return };
    let (model, folder) = engine(double.path(), Form::Fused, 2, 89);
    let (model, folder) = (model.display().to_string(), folder.display().to_string());
    let output = double.sage(&["engine", "libraries", "--tensorrt", &double.path().display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("libnvinfer.so.10: TensorRT 10.16.2; its runtime starts and answers"), "{said}");
    let output = double.sage(&["engine", "verify", &folder, "--model", &model]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("good:") && said.contains("of 96 tokens as the processor's"), "{said}");
}

#[test]
fn bench_writes_the_profile_that_plans_read() {
    let Some(double) = Double::with_tensorrt() else { return };
    let (_, folder) = engine(double.path(), Form::Primitive, 2, 0);
    let profile = double.path().join("profile.toml");
    let (folder, file) = (folder.display().to_string(), profile.display().to_string());
    let base = ["engine", "bench", &folder, "--json", "--tokens", "20", "--prompt", "40", "--name", "double"];
    let output = double.sage(&[&base[..], &["--write", &file]].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((report["groups"].as_u64(), report["prompt_tokens"].as_u64()), (Some(2), Some(40)));
    assert_eq!(report["decode_step_us"]["n"], 40, "two groups for each of twenty tokens");
    assert_eq!(report["prefill_step_us"]["n"], 6, "two groups for each of three chunks");
    let profile: Profile = toml::from_str(&std::fs::read_to_string(profile).unwrap()).unwrap();
    assert_eq!(profile.name, "double");
    assert!(profile.cost(Capability::Reason).unwrap().p50_us >= 1.0);
}

#[test]
fn what_does_not_belong_here_is_refused_in_one_sentence() {
    let Some(double) = Double::with_tensorrt() else { return };
    let refused = |folder: &Path, says: &str| {
        let output = double.sage(&["engine", "bench", &folder.display().to_string()]);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && wrong.contains(says) && wrong.lines().count() == 1, "{wrong}");
    };
    let (_, folder) = engine(double.path(), Form::Fused, 1, 110);
    refused(&folder, "it is for sm110, this GPU is sm89");
    let (_, folder) = engine(double.path(), Form::Fused, 2, 89);
    std::fs::write(folder.join("model-1.plan"), "double").unwrap();
    refused(&folder, "is not the file that its manifest describes");
    // Whole, but nothing that TensorRT takes; its own words are in the sentence.
    let mut manifest = Manifest::load(&folder).unwrap();
    manifest.engines[1].bytes = 6;
    manifest.engines[1].blake3 = blake3::hash(b"double").to_hex().to_string();
    manifest.save(&folder).unwrap();
    refused(&folder, "the plan is not taken: this is no plan of the test double");
}

//! `sage calibrate` as a user meets it: what it leaves behind runs, is judged, says where it came from, and is either whole or
//! not there.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use sage::config::Config;
use sage::model::lowbit::Declared;
use sage::model::qwen2::Qwen2Weights;
use sage::record::{Limits, Recorder, SessionInfo};
use sage::time::Virtual;
use sage::types::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output as Printed};
use std::sync::Arc;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Random weights of the reference case whose vocabulary has room for the reference tokenizer.
fn model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let cases = checkpoint::cases();
    cases.iter().find(|case| case.size("vocabulary") == 600).unwrap().write(folder, 1);
    std::fs::copy(root().join("tests/reference/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
}

fn calibrate(model: &Path, out: &Path, more: &[&str]) -> Printed {
    let mut command = Process::new(env!("CARGO_BIN_EXE_sage"));
    command.arg("calibrate").arg(model).arg("--out").arg(out).args(["--json", "--threads", "1"]).args(more);
    command.output().unwrap()
}

fn report(printed: &Printed) -> Value {
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    serde_json::from_slice(&printed.stdout).unwrap()
}

fn refused(printed: &Printed, says: &str) {
    let error = String::from_utf8_lossy(&printed.stderr).into_owned();
    let last = error.lines().last().unwrap_or_default();
    assert_eq!(printed.status.code(), Some(2), "{error}");
    assert!(last.starts_with("sage: ") && last.contains(says), "{error}");
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_recipe_leaves_a_checkpoint_that_is_smaller_runs_and_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let mut divergence = Vec::new();
    // Bytes of a weight, with its scales, in this model's matrices; the rest stays in bf16.
    for (recipe, most_kl) in [("int8", 0.02), ("fp8", 0.1), ("int4", 0.2), ("nvfp4", 0.5)] {
        let out = folder.path().join(recipe);
        let made = report(&calibrate(&original, &out, &["--recipe", recipe, "--tokens", "1200"]));
        println!("{recipe}: {made}");
        assert!(made["weights_bytes"].as_u64() < made["weights_bytes_reference"].as_u64());
        assert!(made["tokens"].as_u64().unwrap() > 100);
        let sets = made["sets"].as_array().unwrap();
        assert_eq!(sets.iter().map(|set| set["name"].as_str().unwrap()).collect::<Vec<_>>(), ["general", "robot"]);
        let sum = |of: &dyn Fn(&Value) -> f64| sets.iter().map(of).sum::<f64>();
        let all = made["tokens"].as_f64().unwrap();
        assert!((sum(&|set| set["tokens"].as_f64().unwrap()) - all).abs() < 1e-9);
        for part in ["kl", "top1_agreement"] {
            let weighed = sum(&|set| set["tokens"].as_f64().unwrap() * set[part].as_f64().unwrap());
            assert!((weighed / all - made[part].as_f64().unwrap()).abs() < 1e-9, "{part}: {made}");
        }
        assert!(sets.iter().all(|set| set["tokens"].as_u64().unwrap() > 50), "both sets are judged: {made}");
        let kl = made["kl"].as_f64().unwrap();
        assert!(kl > 0.0 && kl < most_kl, "{recipe}: {kl}");
        divergence.push(kl);
        assert!(!folder.path().join(format!("{recipe}.part")).exists());
        // What the folder says of itself is what lies in it.
        let weights = Qwen2Weights::open(&out).unwrap();
        assert_eq!(weights.matrices().filter(|matrix| matrix.low_bit().is_some()).count(), 14);
        assert!(Declared::read(&out).unwrap().is_some());
        assert_eq!(json(&out.join("calibration/report.json")), made);
        let amax = json(&out.join("calibration/amax.json"));
        assert!(amax["inputs"]["model.layers.1.mlp.down_proj"].as_f64().unwrap() > 0.0);
        assert!(amax["cache"]["model.layers.0.self_attn.k_proj"].as_f64().unwrap() > 0.0);
        let manifest = std::fs::read_to_string(out.join("calibration/manifest.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        assert_eq!(manifest["recipe"]["name"].as_str(), Some(recipe));
        assert_eq!(manifest["source"].as_array().unwrap().len(), 2);
        // `sage engine eval` on other text agrees that it is the same model, nearly.
        let text = root().join("docs/architecture.md");
        let mut eval = Process::new(env!("CARGO_BIN_EXE_sage"));
        eval.args(["engine", "eval", "--json", "--tokens", "200", "--model"]).arg(&out);
        eval.arg("--reference").arg(&original).arg("--text").arg(text);
        let judged = report(&eval.output().unwrap());
        assert!(judged["kl"].as_f64().unwrap() < 2.0 * most_kl, "{judged}");
    }
    assert!(divergence[0] < divergence[1] && divergence[1] < divergence[3], "8 bits are better than 4: {divergence:?}");
}

#[test]
fn the_mind_in_four_bits_still_answers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("mind");
    let made = report(&calibrate(&root().join("engines/mind"), &out, &["--recipe", "int4", "--tokens", "4096"]));
    println!("{made}");
    // The mind knows what is said to robots; of general text it knows nothing, and there small changes turn the choice.
    let sets = made["sets"].as_array().unwrap();
    let robot = sets.iter().find(|set| set["name"] == "robot").unwrap();
    assert!(
        robot["top1_agreement"].as_f64().unwrap() > 0.9 && made["top1_agreement"].as_f64().unwrap() > 0.8,
        "{made}"
    );
    let mut ask = Process::new(env!("CARGO_BIN_EXE_sage"));
    ask.args(["ask", "--greedy", "--threads", "1", "--system", "You are Sage, a small robot.", "--model"]).arg(&out);
    ask.arg("scene: person none; obstacle none; charger ahead 2.0 m; battery 80 %\nrobot where is the charger");
    let answer = ask.output().unwrap();
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.status.success() && text.contains("charger"), "{text}");
}

#[test]
fn the_same_request_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let made = |name: &str, threads: &str| -> Vec<Vec<u8>> {
        let out = folder.path().join(name);
        let more = ["--recipe", "nvfp4", "--tokens", "400", "--seed", "7"];
        let mut command = Process::new(env!("CARGO_BIN_EXE_sage"));
        command.arg("calibrate").arg(&original).arg("--out").arg(&out).args(more).args(["--threads", threads]);
        assert!(command.output().unwrap().status.success());
        let files = ["model.safetensors", "hf_quant_config.json", "config.json", "calibration/manifest.toml"];
        let more = ["calibration/golden.safetensors", "calibration/amax.json", "calibration/histograms.json"];
        files.iter().chain(&more).map(|file| std::fs::read(out.join(file)).unwrap()).collect()
    };
    assert!(made("one", "1") == made("three", "3"));
}

#[test]
fn a_head_and_a_cache_in_few_bits_run_too() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let recipe = folder.path().join("own.toml");
    let text = "name = \"own\"\nabout = \"all of it\"\n[formats]\nattention = \"fp8\"\nfeed_forward = \"nvfp4\"\nhead = \"fp8\"\n\
                [weights]\nexclude = [\"model.layers.0.*\"]\n[inputs]\nrange = \"percentile\"\npercentile = 99.9\n\
                [cache]\nformat = \"fp8\"\n[samples]\nsets = [\"robot\"]\nsequence = 64\ntokens = 400\n";
    std::fs::write(&recipe, text).unwrap();
    let out = folder.path().join("out");
    let made = report(&calibrate(&original, &out, &["--recipe", recipe.to_str().unwrap()]));
    println!("{made}");
    let weights = Qwen2Weights::open(&out).unwrap();
    assert_eq!(weights.matrices().filter(|matrix| matrix.low_bit().is_some()).count(), 7 + 1);
    assert!(weights.head.low_bit().is_some() && weights.layers[0].up.low_bit().is_none());
    assert!(weights.layers.iter().all(|layer| layer.cache_scales.is_some()));
    let declared = json(&out.join("hf_quant_config.json"));
    assert_eq!(declared["quantization"]["quant_algo"], "MIXED_PRECISION");
    assert_eq!(declared["quantization"]["quantized_layers"]["model.layers.1.mlp.up_proj"]["group_size"], 16);
    // A percentile cuts off the outermost.
    let amax = json(&out.join("calibration/amax.json"));
    let of = |part: &str| amax[part]["model.layers.1.mlp.down_proj"].as_f64().unwrap();
    assert!(of("input_ranges") < of("inputs"), "{} {}", of("input_ranges"), of("inputs"));
}

/// A recording in which somebody asks `questions` and gets an answer to each.
fn recording(path: &Path, questions: usize) {
    let clock = Virtual::default();
    clock.set(Nanos::from_s(1));
    let session = SessionInfo::new(Config::default().core(), 0, Nanos::from_s(1));
    let mut recorder = Recorder::create(path, session, Limits::default(), Arc::new(clock.clone())).unwrap();
    for tick in 0..2 * questions.max(1) as u64 {
        let now = Nanos::from_s(1) + Nanos(tick * 10_000_000);
        clock.set(now);
        let (mut inputs, mut outputs) = (Inputs { tick, now, ..Inputs::default() }, Outputs::default());
        let id = tick / 2 + 1;
        if questions > 0 && tick % 2 == 0 {
            let text = format!("scene: person none; obstacle none; charger none; battery {id} %\nrobot go left");
            let prompt = Prompt::from(&text).unwrap();
            outputs.commands.push(Command::Submit(Job {
                id: JobId(id),
                capability: Capability::Reason,
                source: SourceId(0),
                generation: 0,
                class: Class::Dialogue,
                input: JobInput::Ask { prompt, max_tokens: 9 },
                created: now,
                deadline: Nanos::NEVER,
                fresh_until: Nanos::NEVER,
                credit_words: 0,
                based_on: Default::default(),
            }));
        } else if questions > 0 {
            for (index, word) in ["I", "turn", "left."].into_iter().enumerate() {
                let piece = Piece::Word { index: index as u16, word: Word::from(word).unwrap() };
                inputs.events.push(LaneEvent::Piece { job: JobId(id), piece });
            }
        }
        recorder.tick(&inputs, &outputs, now, Nanos(1_000));
        recorder.poll();
    }
    recorder.close();
}

#[test]
fn the_robots_own_recordings_calibrate_it() {
    let folder = tempfile::tempdir().unwrap();
    let (original, log) = (folder.path().join("original"), folder.path().join("run.mcap"));
    model(&original);
    recording(&log, 12);
    let out = folder.path().join("out");
    let log = log.to_str().unwrap();
    report(&calibrate(&original, &out, &["--recipe", "fp8", "--log", log]));
    let manifest = std::fs::read_to_string(out.join("calibration/manifest.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let sources = manifest["source"].as_array().unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!((sources[0]["name"].as_str(), sources[0]["documents"].as_integer()), (Some(log), Some(12)));
    let silent = folder.path().join("silent.mcap");
    recording(&silent, 0);
    let printed =
        calibrate(&original, &folder.path().join("no"), &["--recipe", "fp8", "--log", silent.to_str().unwrap()]);
    refused(&printed, "nobody asked the robot anything");
    assert!(!folder.path().join("no").exists() && !folder.path().join("no.part").exists());
}

#[test]
fn a_recorded_run_of_the_shipped_scene_calibrates_the_mind() {
    let folder = tempfile::tempdir().unwrap();
    let (log, out) = (folder.path().join("run.mcap"), folder.path().join("out"));
    let mut replay = Process::new(env!("CARGO_BIN_EXE_sage"));
    replay.arg("replay").arg(root().join("tests/scenes/demo.mcap")).arg("--simulate").arg("--out").arg(&log);
    assert!(replay.output().unwrap().status.success());
    let mut command = Process::new(env!("CARGO_BIN_EXE_sage"));
    command.arg("calibrate").arg(root().join("engines/mind")).arg("--out").arg(&out).args(["--recipe", "fp8"]);
    let printed = command.arg("--log").arg(&log).args(["--threads", "1"]).output().unwrap();
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&printed.stderr));
    assert!(printed.status.success());
    // What was said to the robot is what the mind was trained for; so 8 bits say the same.
    let made = json(&out.join("calibration/report.json"));
    assert!(made["sets"][0]["tokens"].as_u64().unwrap() > 30 && made["sets"].as_array().unwrap().len() == 1, "{made}");
    assert!(made["top1_agreement"].as_f64().unwrap() > 0.9, "{made}");
    // The table has a line for the recording and one for all.
    let name = log.display().to_string();
    for line in [name.as_str(), "all"] {
        assert!(text.lines().any(|row| row.starts_with(line) && row.contains(" % ")), "{line}: {text}");
    }
}

#[test]
fn what_cannot_be_calibrated_is_said_in_one_sentence_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    model(&original);
    let out = folder.path().join("out");
    let int8 = ["--recipe", "int8", "--tokens", "200"];
    refused(&calibrate(&original, &out, &["--recipe", "int5"]), "no recipe int5");
    refused(&calibrate(&folder.path().join("nowhere"), &out, &int8), "config.json");
    refused(&calibrate(&original, &original, &int8), "own folder");
    refused(&calibrate(&original, &out, &["--recipe", "int8", "--samples", "/nowhere.txt"]), "/nowhere.txt");
    refused(&calibrate(&original, &out, &["--recipe", "int8", "--tokens", "3"]), "too few");
    let short = folder.path().join("short.txt");
    std::fs::write(&short, "one document alone\n").unwrap();
    refused(&calibrate(&original, &out, &["--recipe", "int8", "--samples", short.to_str().unwrap()]), "four documents");
    let lines = folder.path().join("lines.jsonl");
    std::fs::write(&lines, "{\"text\": \"good\"}\n{\"words\": 3}\n").unwrap();
    refused(&calibrate(&original, &out, &["--recipe", "int8", "--samples", lines.to_str().unwrap()]), "line 2");
    assert!(!out.exists() && !folder.path().join("out.part").exists());
    report(&calibrate(&original, &out, &int8));
    refused(&calibrate(&original, &out, &int8), "is not empty");
    refused(&calibrate(&out, &folder.path().join("again"), &int8), "quantised already");
    // What an interrupted run left is cleared by the next.
    let part = folder.path().join("late.part");
    std::fs::create_dir_all(part.join("calibration")).unwrap();
    report(&calibrate(&original, &folder.path().join("late"), &int8));
    assert!(!part.exists());
}

#[test]
fn calibration_tables_of_old_engines_are_imported() {
    let folder = tempfile::tempdir().unwrap();
    let (table, out) = (folder.path().join("CalibrationTable"), folder.path().join("amax.json"));
    let import = || {
        let mut command = Process::new(env!("CARGO_BIN_EXE_sage"));
        command.arg("calibrate").arg("--import").arg(&table).arg("--out").arg(&out).output().unwrap()
    };
    std::fs::write(&table, "TRT-8503-EntropyCalibration2\nimages: 3c010204\nmodel.0/conv:0: 3d4ccccd\n").unwrap();
    assert!(import().status.success());
    let amax = json(&out);
    assert_eq!(amax["source"], "TRT-8503-EntropyCalibration2");
    assert!((amax["inputs"]["images"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert!((amax["inputs"]["model.0/conv:0"].as_f64().unwrap() - 0.05 * 127.0).abs() < 1e-5);
    std::fs::remove_file(&out).unwrap();
    std::fs::write(&table, "TRT-8503-EntropyCalibration2\nimages 3c010204\n").unwrap();
    refused(&import(), "line 2");
    assert!(!out.exists());
}

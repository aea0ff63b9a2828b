//! The demo as a user sees it: the scene that ships goes through the whole loop. The story is checked under virtual time, so
//! that the machine's speed does not matter; a few seconds run for real, to see that threads, recorder and report work.

use serde_json::Value;
use std::process::{Command, Output};

fn sage(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sage")).args(args).output().expect("the program runs")
}

fn last_json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn texts(list: &Value) -> Vec<(f64, String)> {
    let entries = list["last"].as_array().expect("a list");
    entries
        .iter()
        .map(|entry| (entry["t_s"].as_f64().expect("a time"), entry["text"].as_str().expect("a text").to_owned()))
        .collect()
}

fn shipped_scene() -> String {
    format!("{}/tests/scenes/demo.mcap", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_shipped_scene_tells_its_story_through_engines_that_ran() {
    let scene = shipped_scene();
    let report = last_json(&sage(&["replay", &scene, "--simulate", "--json"]));
    let actions = texts(&report["actions"]);
    let first = actions.iter().find(|(_, text)| !text.starts_with("halt")).expect("an action");
    assert!(first.0 < 20.0, "an action occurs within the first 20 s: {actions:?}");
    let halts: Vec<f64> =
        actions.iter().filter(|(_, text)| text.starts_with("halt latched")).map(|(t, _)| *t).collect();
    assert!(halts.iter().any(|t| (27.0..29.5).contains(t)), "\"stop\" is said at 27 s: {actions:?}");
    assert!(halts.iter().any(|t| (38.0..43.0).contains(t)), "a barrel comes at 38 to 41 s: {actions:?}");
    for state in ["wake", "focus", "rest", "dream", "crisis"] {
        let seconds = report["states"][state].as_f64().expect("seconds");
        assert!(seconds > 0.5, "{state} is reached: {}", report["states"]);
    }
    let said = texts(&report["said"]);
    assert!(said.iter().filter(|(_, text)| text.ends_with('—')).count() >= 2, "two answers are cut: {said:?}");
    assert!(report["heard"]["total"].as_u64() >= Some(8), "{}", report["heard"]);
    for class in ["reflex", "dialogue"] {
        assert_eq!(report["deadlines"][class]["missed"], 0, "{class}: {}", report["deadlines"]);
    }
    assert_eq!(report["ticks_missed"], 0);
}

#[test]
fn a_simulation_is_the_same_every_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("slow.toml");
    // Steps of many milliseconds: how long they take decides in which tick a job is done.
    let step = |capability: &str| {
        format!("[[steps]]\ncapability = \"{capability}\"\np50_us = 4000.0\np999_us = 30000.0\nsteps_max = 400\n")
    };
    let steps: String = ["hear", "see", "reason", "consolidate"].map(step).concat();
    std::fs::write(&profile, format!("name = \"slow\"\n{steps}")).expect("written");
    let (scene, profile) = (shipped_scene(), profile.display().to_string());
    let digest = |seed: &str| {
        let args = ["replay", &scene, "--simulate", "--profile", &profile, "--seconds", "12", "--seed", seed, "--json"];
        last_json(&sage(&args))["digest"].as_str().expect("a digest").to_owned()
    };
    assert_eq!(digest("1"), digest("1"));
    assert_ne!(digest("1"), digest("2"), "step costs vary with the seed, and with them the ticks of completion");
}

#[test]
fn the_story_is_the_same_with_three_lanes() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("sage.toml");
    std::fs::write(&config, "[schedule]\nlanes = 3\n").expect("written");
    let config = config.display().to_string();
    let told = |more: &[&str]| {
        let scene = shipped_scene();
        let mut args = vec!["replay", &scene, "--simulate", "--seconds", "32", "--json"];
        args.extend(more);
        let report = last_json(&sage(&args));
        let heard: Vec<String> = texts(&report["heard"]).into_iter().map(|(_, text)| text).collect();
        let actions: Vec<String> = texts(&report["actions"]).into_iter().map(|(_, text)| text).collect();
        (heard, actions)
    };
    let (one, three) = (told(&[]), told(&["--config", &config]));
    assert!(one.0.len() >= 3 && !one.1.is_empty(), "{one:?}");
    assert_eq!(one, three);
}

#[test]
fn a_live_run_leaves_a_report_and_a_recording_that_verifies_to_the_same_digest() {
    a_live_run_verifies(1);
}

#[test]
fn so_does_one_whose_hearing_seeing_and_answering_have_lanes_of_their_own() {
    a_live_run_verifies(3);
}

fn a_live_run_verifies(lanes: u8) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().display().to_string();
    let config = folder.path().join("sage.toml");
    std::fs::write(&config, format!("[schedule]\nlanes = {lanes}\n")).expect("written");
    let config = config.display().to_string();
    let output = sage(&["demo", "--config", &config, "--seconds", "9", "--out", &out, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = last_json(&output);
    let written: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).expect("report.json")).expect("JSON");
    assert_eq!(report, written);
    assert!(report["seen"]["total"].as_u64() > Some(0), "the eye's lane works: {}", report["seen"]);
    assert!(report["ticks"].as_u64() > Some(300), "{}", report["ticks"]);
    let picture = std::fs::read_to_string(folder.path().join("latency.svg")).expect("latency.svg");
    assert!(picture.starts_with("<svg") && picture.contains("wake-up lateness"));
    let recording = folder.path().join("demo.mcap").display().to_string();
    let verified = sage(&["replay", &recording, "--verify", "--from-sensors", "--json"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let verified = last_json(&verified);
    assert_eq!(verified["digest"], report["digest"]);
    assert_eq!(verified["mismatches"], 0);
}

//! The command line as people meet it: help, exit codes, one sentence for bad input, nothing half-written.

use std::path::Path;
use std::process::{Command, Output};

fn sage(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sage")).args(args).output().expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let output = sage(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    for command in
        ["demo", "run", "record", "replay", "scene", "devices", "ask", "chat", "bench", "config", "completions"]
    {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is missing in:\n{text}");
    }
    assert!(text.contains("Exit codes: 0 good"), "{text}");
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2() {
    for (args, says) in [
        (vec!["demo", "--scene", "no-such-scene"], "no scene \"no-such-scene\""),
        (vec!["demo", "--rate", "0"], "--rate is 0"),
        (vec!["demo", "--seconds", "-3"], "--seconds"),
        (vec!["run", "--config", "no/such/file.toml"], "sage config --default"),
        (vec!["replay", "Cargo.toml", "--verify"], "Cargo.toml"),
        (vec!["bench", "loop", "speed"], "no part \"speed\""),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        let output = sage(&args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
    }
}

#[test]
fn the_printed_default_configuration_is_accepted_and_a_wrong_one_is_refused_at_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sage.toml");
    std::fs::write(&file, sage(&["config", "--default"]).stdout).expect("written");
    let output = sage(&["config", "--check", &file.display().to_string()]);
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::write(&file, "[loop]\nrate_hz = 100\nspeed = 1\n").expect("written");
    let output = sage(&["config", "--check", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("sage.toml:3:"), "{}", stderr(&output));
}

#[test]
fn a_missing_network_is_a_fault_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let assets = folder.path().display().to_string();
    let out = folder.path().join("out").display().to_string();
    let output = sage(&["--assets", &assets, "demo", "--scene", "quiet", "--seconds", "1", "--out", &out]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("ear.safetensors"), "{}", stderr(&output));
    assert!(!Path::new(&out).join("report.json").exists());
}

#[test]
fn completions_and_a_man_page_can_be_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = sage(&["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1_000, "{shell}");
    }
    let man = sage(&["man"]);
    assert!(String::from_utf8_lossy(&man.stdout).contains(".TH sage"));
}

#[cfg(not(feature = "live"))]
#[test]
fn a_build_without_devices_says_in_one_sentence_how_to_get_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sage.toml");
    std::fs::write(&file, "[[camera]]\nname = \"front\"\n").expect("written");
    for args in [vec!["devices".to_owned()], vec!["run".to_owned(), "--config".to_owned(), file.display().to_string()]]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_sage")).args(&args).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--features live"), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_plan_says_yes_or_no_with_reasons_and_run_refuses_what_it_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sage.toml");
    let name = file.display().to_string();
    let robot = "[[camera]]\nname = \"front\"\n[[microphone]]\nname = \"mic\"\n";
    std::fs::write(&file, robot).expect("written");
    let output = sage(&["plan", "--config", &name, "--device", "thor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("yes: it fits") && text.contains("Reason (Dialogue)"), "{text}");

    let beside = "[[plan.beside]]\nname = \"omni\"\nweights_bytes = 66000000000\nloading = \"copied\"\n";
    std::fs::write(&file, format!("{robot}[plan]\ndevice = \"thor\"\n{beside}")).expect("written");
    let output = sage(&["plan", "--config", &name, "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(answer["admitted"], false);
    let output = sage(&["run", "--config", &name]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("while its largest copied network is loaded"), "{}", stderr(&output));

    let output = sage(&["plan", "--config", &name, "--device", "abacus"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("thor"), "{}", stderr(&output));
}

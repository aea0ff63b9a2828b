//! The recipes in engines/: every computed figure follows from the shape, and what a recipe tells people to type is accepted.

use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

fn number(table: &Value, key: &str) -> f64 {
    let value = &table[key];
    value.as_float().or(value.as_integer().map(|whole| whole as f64)).unwrap_or_else(|| panic!("{key} is no number"))
}

/// Bytes of one weight of a layer's matrix.
fn bytes_of_weight(precision: &str) -> f64 {
    match precision {
        "bf16" => 2.0,
        "fp8" => 1.0,
        "int4" => 0.5 + 2.0 / 128.0,
        "nvfp4" => 0.5 + 1.0 / 16.0,
        other => panic!("{other}"),
    }
}

fn near(what: &str, written: f64, computed: f64, tolerance: f64) {
    assert!((written - computed).abs() <= tolerance, "{what}: {written} is written, {computed} follows from the shape");
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines").join(name).join("engine.toml");
    let table: Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let recipe = Value::Table(table);
    let shape = |key: &str| number(&recipe["shape"], key);
    let (layers, hidden, inner) = (shape("layers"), shape("hidden"), shape("inner"));
    let (queries, keys) = (shape("heads") * shape("head_dim"), shape("kv_heads") * shape("head_dim"));
    let matrices = layers * (2.0 * hidden * queries + 2.0 * hidden * keys + 3.0 * hidden * inner);
    let small = 2.0 * (layers * (2.0 * hidden + queries + 2.0 * keys) + hidden);
    let table = 2.0 * shape("vocabulary") * hidden;
    let tables = if recipe["shape"]["tied"].as_bool().unwrap() { table } else { 2.0 * table };
    let kv = layers * keys * 2.0 * 2.0;
    near("KV bytes per token", number(&recipe["kv"], "bytes_per_token"), kv, 0.0);
    near("KV bytes", number(&recipe["kv"], "bytes_at_capacity"), kv * number(&recipe["build"], "capacity"), 0.0);
    for (precision, figures) in recipe["precision"].as_table().unwrap() {
        let matrices = matrices * bytes_of_weight(precision);
        near(&format!("{name} {precision} weights"), number(figures, "weights_bytes"), matrices + tables + small, 1.0);
        near(&format!("{name} {precision} read"), number(figures, "read_bytes"), matrices + table, 1.0);
        let bandwidth = number(&recipe["device"], "bandwidth_reached_bytes_per_s");
        let ms = (matrices + table + 2_048.0 * kv) / bandwidth * 1e3;
        near(&format!("{name} {precision} ms"), number(figures, "ms_per_token"), ms, 0.06);
        near(
            &format!("{name} {precision} step"),
            number(figures, "step_ms"),
            ms / number(&recipe["build"], "groups"),
            0.06,
        );
    }
    // The commands' arguments are accepted; only the checkpoint is not there.
    let precisions = recipe["precision"].as_table().unwrap();
    let own = precisions.values().filter_map(|figures| figures.get("command"));
    for command in [&recipe["build"]["command"]].into_iter().chain(own) {
        let arguments: Vec<&str> = command.as_str().unwrap().split_whitespace().skip(1).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_sage")).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("config.json"), "{said}");
    }
}

#[test]
fn the_figures_of_the_recipes_follow_from_their_shapes() {
    check("qwen2.5-14b");
    check("qwen2.5-0.5b");
}

#[test]
fn plans_with_a_14b_mind_on_thor_say_what_a_step_of_it_does_to_hearing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sage.toml");
    let text = "[[camera]]\nname = \"front\"\n[[microphone]]\nname = \"mic\"\n[plan]\ndevice = \"thor\"\n\
                [[plan.beside]]\nname = \"qwen2.5-14b\"\nweights_bytes = 29540067328\nkv_bytes = 805306368\n";
    std::fs::write(&file, text).unwrap();
    let plan = |profile: &str| {
        let config = file.display().to_string();
        let output = Command::new(env!("CARGO_BIN_EXE_sage"))
            .args(["plan", "--config", &config, "--profile", profile])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // One step of a quarter token in 4 bits, 10.8 ms with its margin, is what a reflex waits for.
    let (_, text) = plan("thor-14b-int4-roofline");
    let hear = text.lines().find(|line| line.contains("Hear (Reflex)")).unwrap();
    assert!(hear.contains("of which 10.8 ms behind one other step"), "{text}");
    let (_, text) = plan("thor-14b-bf16-roofline");
    let hear = text.lines().find(|line| line.contains("Hear (Reflex)")).unwrap();
    assert!(hear.contains("of which 35.0 ms behind one other step"), "{text}");
}

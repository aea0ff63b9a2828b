//! Reads and checks `sage.toml`. A path or text flows in; a `Config` whose every value is possible flows out, or one
//! sentence with file and line.

use super::Config;
use crate::types::MAX_SOURCES;
use std::path::{Path, PathBuf};

/// The commented default that `sage config --default` prints.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Why a configuration cannot be used: file, line and a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {message}", file.display(), if *line > 0 { format!(":{line}") } else { String::new() })]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line from 1; 0 if the whole file is meant.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or what [`Config::parse`] says.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError {
            file: file.to_owned(),
            line: 0,
            message: format!("cannot be read ({error}); `sage config --default > sage.toml` makes one"),
        })?;
        Config::parse(&text, file)
    }

    /// Parses and checks the text of `file`.
    ///
    /// # Errors
    /// Not TOML, an unknown key, a value of the wrong kind, or an impossible value.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            ConfigError {
                file: file.to_owned(),
                line: text[..at].matches('\n').count() + 1,
                message: error.message().replace('\n', " "),
            }
        })?;
        match first_impossible(&config) {
            None => Ok(config),
            Some((section, key, message)) => {
                Err(ConfigError { file: file.to_owned(), line: line_of(text, section, key), message })
            }
        }
    }
}

/// Line of `key` inside `[section]` (or the first `[[section]]`), or of the section, or 1.
fn line_of(text: &str, section: &str, key: &str) -> usize {
    let mut current = "";
    let mut section_line = 1;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            current = line.split(']').next().unwrap_or("").trim_matches('[');
            if current == section {
                section_line = index + 1;
            }
        } else if current == section && line.split('=').next().is_some_and(|name| name.trim() == key) {
            return index + 1;
        }
    }
    section_line
}

/// The first value that cannot be, as section, key and sentence.
fn first_impossible(config: &Config) -> Option<(&'static str, &'static str, String)> {
    let within = |section, key, value: f64, low: f64, high: f64, unit: &str| {
        let possible = value.is_finite() && (low..=high).contains(&value);
        (!possible).then(|| {
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            (section, key, format!("{section}.{key} is {value}; it must be {low} to {high}{unit}"))
        })
    };
    let one_of = |section, key, value: &str, known: &[&str]| {
        (!known.contains(&value))
            .then(|| (section, key, format!("{section}.{key} is \"{value}\"; it must be one of: {}", known.join(", "))))
    };
    let c = config;
    let (t, a, m, b, s, g) = (&c.tick, &c.attention, &c.metabolism, &c.budget, &c.schedule, &c.gate);
    let checks = [
        within("loop", "rate_hz", t.rate_hz.into(), 1.0, 1000.0, "Hz"),
        within("attention", "threshold", a.threshold.into(), 0.0, 1.0, ""),
        within("attention", "predictor_s", a.predictor_s.into(), 0.01, 60.0, "s"),
        within("attention", "floor_s", a.floor_s.into(), 0.1, 600.0, "s"),
        within("attention", "starved_ms", a.starved_ms.into(), 50.0, 60_000.0, "ms"),
        within("attention", "trust_s", a.trust_s.into(), 0.1, 3_600.0, "s"),
        within("metabolism", "focus_enter", m.focus_enter.into(), 0.0, 1.0, ""),
        within("metabolism", "focus_exit", m.focus_exit.into(), 0.0, 1.0, ""),
        within("metabolism", "quiet", m.quiet.into(), 0.0, 1.0, ""),
        within("metabolism", "rest_after_s", m.rest_after_s.into(), 0.1, 86_400.0, "s"),
        within("metabolism", "dream_after_s", m.dream_after_s.into(), 0.1, 86_400.0, "s"),
        within("metabolism", "dream_max_s", m.dream_max_s.into(), 0.1, 86_400.0, "s"),
        within("metabolism", "dwell_s", m.dwell_s.into(), 0.0, 60.0, "s"),
        within("metabolism", "focus_hold_s", m.focus_hold_s.into(), 0.0, 600.0, "s"),
        within("metabolism", "crisis_hold_s", m.crisis_hold_s.into(), 0.0, 600.0, "s"),
        within("budget", "tank_ms", b.tank_ms.into(), 1.0, 1e6, "ms"),
        within("budget", "refill_ms_per_s", b.refill_ms_per_s.into(), 1.0, 1e5, "ms per second"),
        within("budget", "reserve", b.reserve.into(), 0.0, 0.95, ""),
        within("schedule", "lanes", s.lanes.into(), 1.0, 4.0, ""),
        within("schedule", "queue", s.queue.into(), 4.0, 64.0, "jobs"),
        within("schedule", "hear_every_ms", s.hear_every_ms.into(), 20.0, 320.0, "ms"),
        within("schedule", "hear_deadline_ms", s.hear_deadline_ms.into(), 5.0, 5_000.0, "ms"),
        within("schedule", "see_hz", s.see_hz.into(), 0.0, 240.0, "Hz"),
        within("schedule", "see_crisis_hz", s.see_crisis_hz.into(), 0.0, 240.0, "Hz"),
        within("schedule", "see_rest_hz", s.see_rest_hz.into(), 0.0, 240.0, "Hz"),
        within("schedule", "see_deadline_ms", s.see_deadline_ms.into(), 5.0, 60_000.0, "ms"),
        within("schedule", "reason_deadline_ms", s.reason_deadline_ms.into(), 50.0, 600_000.0, "ms"),
        within("schedule", "reason_max_tokens", s.reason_max_tokens.into(), 1.0, 32_768.0, "tokens"),
        within("schedule", "speak_ahead_ms", s.speak_ahead_ms.into(), 200.0, 60_000.0, "ms"),
        within("schedule", "dream_hz", s.dream_hz.into(), 0.0, 100.0, "Hz"),
        within("schedule", "load_ms_per_s", s.load_ms_per_s.into(), 0.0, 100_000.0, "ms per second"),
        within("gate", "halt_range_mm", g.halt_range_mm.into(), 0.0, 100_000.0, "mm"),
        within("gate", "looming_permille_per_s", g.looming_permille_per_s.into(), 1.0, 1e6, "thousandths per second"),
        within("gate", "looming_cells", g.looming_cells.into(), 1.0, 192.0, "cells"),
        within("gate", "action_age_ms", g.action_age_ms.into(), 1.0, 600_000.0, "ms"),
        within("gate", "action_valid_ms", g.action_valid_ms.into(), 1.0, 600_000.0, "ms"),
        within("gate", "heartbeat_ms", g.heartbeat_ms.into(), 10.0, 60_000.0, "ms"),
        within("gate", "halt_release_s", g.halt_release_s.into(), 0.0, 3_600.0, "s"),
        within("voice", "words_per_minute", c.voice.words_per_minute.into(), 40.0, 600.0, "words per minute"),
        one_of("voice", "kind", &c.voice.kind, &["silent", "espeak"]),
        within("record", "max_bytes", c.record.max_bytes as f64, 1e6, 1e13, "bytes"),
        within("realtime", "priority", c.realtime.priority.into(), 0.0, 99.0, ""),
        within("realtime", "spin_us", c.realtime.spin_us.into(), 0.0, 5_000.0, "µs"),
        one_of("engines", "kernels", &c.engines.kernels, &["auto", "scalar"]),
        within("engines", "threads", c.engines.threads.into(), 1.0, 64.0, ""),
        one_of("plan", "device", &c.plan.device, &crate::plan::Device::NAMES),
        one_of("log", "format", &c.log.format, &["human", "json", "journald"]),
    ];
    checks.into_iter().flatten().next().or_else(|| relations(config))
}

/// What no single value shows: sums, orders and names.
fn relations(config: &Config) -> Option<(&'static str, &'static str, String)> {
    let weights: f32 = config.attention.weights.iter().sum();
    if (weights - 1.0).abs() > 1e-3 || config.attention.weights.iter().any(|weight| !(0.0..=1.0).contains(weight)) {
        return Some((
            "attention",
            "weights",
            format!("attention.weights must be five values from 0 to 1 with sum 1; their sum is {weights}"),
        ));
    }
    let metabolism = &config.metabolism;
    if metabolism.focus_exit >= metabolism.focus_enter {
        return Some((
            "metabolism",
            "focus_exit",
            format!(
                "metabolism.focus_exit ({}) must be below focus_enter ({}), or focus would begin and end at once",
                metabolism.focus_exit, metabolism.focus_enter
            ),
        ));
    }
    let count = config.camera.len() + config.microphone.len();
    if count > MAX_SOURCES - 1 {
        return Some((
            "camera",
            "name",
            format!("{count} cameras and microphones are named; at most {} are possible", MAX_SOURCES - 1),
        ));
    }
    let mut names: Vec<&str> = config.camera.iter().map(|camera| camera.name.as_str()).collect();
    names.extend(config.microphone.iter().map(|mic| mic.name.as_str()));
    for (index, name) in names.iter().enumerate() {
        let section = if index < config.camera.len() { "camera" } else { "microphone" };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Some((section, "name", format!("{section}.name \"{name}\" must be letters, digits, '-' or '_'")));
        }
        if names[..index].contains(name) {
            return Some((section, "name", format!("two sources are named \"{name}\"; names must differ")));
        }
    }
    for camera in &config.camera {
        if !(16..=4096).contains(&camera.width) || !(12..=4096).contains(&camera.height) {
            let message =
                format!("camera.width x height is {} x {}; 16 x 12 to 4096 x 4096", camera.width, camera.height);
            return Some(("camera", "width", message));
        }
        if !(1..=240).contains(&camera.rate_hz) {
            return Some(("camera", "rate_hz", format!("camera.rate_hz is {}; it must be 1 to 240", camera.rate_hz)));
        }
        if !(10.0..=170.0).contains(&camera.fov_deg) {
            return Some(("camera", "fov_deg", format!("camera.fov_deg is {}; it must be 10 to 170", camera.fov_deg)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text, Path::new("sage.toml")).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_commented_default_is_the_default() {
        let parsed = Config::parse(DEFAULT_TOML, Path::new("default.toml")).expect("parses");
        assert_eq!(parsed, Config::default());
    }

    #[test]
    fn every_commented_example_is_a_known_key() {
        let live: String = DEFAULT_TOML
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.starts_with("[[") || rest.contains(" = ") => rest,
                Some(_) => "",
                None => line,
            })
            .fold(String::new(), |all, line| all + line + "\n");
        let parsed = Config::parse(&live, Path::new("default.toml")).expect("parses");
        assert_eq!(parsed.camera, vec![crate::config::CameraConfig::default()]);
        assert_eq!(parsed.microphone, vec![crate::config::MicrophoneConfig::default()]);
        assert_eq!(parsed.realtime.cpu, Some(1));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let message = refused("[loop]\nrate_hz = 50\nspeed = 3\n");
        assert!(message.starts_with("sage.toml:3: "), "{message}");
        assert!(message.contains("speed") && message.contains("rate_hz"), "{message}");
    }

    #[test]
    fn an_impossible_value_is_refused_at_its_line_with_its_range() {
        let message = refused("\n[loop]\nrate_hz = 0\n");
        assert!(message.starts_with("sage.toml:3: loop.rate_hz is 0; it must be 1 to 1000 Hz"), "{message}");
    }

    #[test]
    fn a_unit_in_a_string_is_refused() {
        let message = refused("[gate]\nhalt_range_mm = \"35 cm\"\n");
        assert!(message.starts_with("sage.toml:2: "), "{message}");
    }

    #[test]
    fn weights_must_sum_to_one_and_names_must_differ() {
        assert!(refused("[attention]\nweights = [1.0, 0.2, 0.2, 0.2, 0.2]\n").contains("sum 1"));
        let message = refused("[[camera]]\nname = \"a\"\n[[microphone]]\nname = \"a\"\n");
        assert!(message.contains("names must differ"), "{message}");
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let message = Config::load(Path::new("no/such.toml")).expect_err("missing").to_string();
        assert!(message.contains("sage config --default"), "{message}");
    }
}

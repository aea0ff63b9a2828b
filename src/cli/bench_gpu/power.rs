//! In which power mode a machine is, and at which clocks. Jetson's tools and the system's files flow in; names and numbers flow
//! out. What a machine does not tell is left out.

use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Power mode and clocks, as far as the machine tells.
pub fn power() -> Value {
    let mut report = Map::new();
    if let Some(mode) = power_mode() {
        report.insert("mode".to_owned(), json!(mode));
    }
    let devfreq = Path::new("/sys/class/devfreq");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(devfreq).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for folder in folders {
        if let Some(hz) = number(&folder.join("cur_freq")) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            report.insert(format!("{name}_mhz"), json!(hz / 1_000_000));
        }
    }
    let cpu = Path::new("/sys/devices/system/cpu/cpu0/cpufreq");
    if let Some(khz) = number(&cpu.join("scaling_cur_freq")) {
        report.insert("cpu0_mhz".to_owned(), json!(khz / 1_000));
    }
    if let Ok(governor) = std::fs::read_to_string(cpu.join("scaling_governor")) {
        report.insert("cpu0_governor".to_owned(), json!(governor.trim()));
    }
    Value::Object(report)
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What `nvpmodel -q` says, on a Jetson.
fn power_mode() -> Option<String> {
    let output = Command::new("nvpmodel").arg("-q").output().ok()?;
    mode_of(&String::from_utf8_lossy(&output.stdout))
}

fn mode_of(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.split_once("Power Mode:"))?;
    Some(line.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_read_from_what_the_tool_prints() {
        assert_eq!(mode_of("NV Power Mode: MAXN\n0\n").as_deref(), Some("MAXN"));
        assert_eq!(mode_of("NVPM WARN: fan mode is not set!\nNV Power Mode: 120W\n1\n").as_deref(), Some("120W"));
        assert_eq!(mode_of("error"), None);
    }
}

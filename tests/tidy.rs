//! The house rules that a machine can check: size and opening of files, no unwrap outside tests, clocks only at the edge,
//! every `unsafe` explained, the core free of clocks, threads, files and engines.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("source folder").map(|entry| entry.expect("entry").path()) {
        if entry.is_dir() {
            sources(&entry, out);
        } else if entry.extension().is_some_and(|ext| ext == "rs") {
            out.push(entry);
        }
    }
}

/// Each source file with its text up to its unit tests, and its path from the repository's root.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let name = path.strip_prefix(root).expect("inside").display().to_string();
            let text = fs::read_to_string(&path).expect("utf-8");
            (name, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned())
        })
        .collect()
}

fn complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_holds_and_stays_readable() {
    let mut complaints = Vec::new();
    for (name, text) in files() {
        if !text.starts_with("//!") {
            complaints.push(format!("{name}: does not open with a //! paragraph"));
        }
        let lines = text.lines().count();
        if lines > 500 {
            complaints.push(format!("{name}: {lines} lines before its tests, over 500"));
        }
        let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if ["utils", "util", "helpers", "common", "manager", "misc"].contains(&stem) {
            complaints.push(format!("{name}: says nothing about what it holds"));
        }
    }
    complain(complaints);
}

#[test]
fn nothing_unwraps_or_gives_up_outside_tests() {
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for banned in [".unwrap()", "panic!(", "todo!(", "unimplemented!(", "dbg!("] {
                if code.contains(banned) {
                    complaints.push(format!("{name}:{}: {banned}", index + 1));
                }
            }
        }
    }
    complain(complaints);
}

#[test]
fn clocks_are_read_only_at_the_edge() {
    let edge = ["src/time.rs", "src/cli", "src/observe", "src/engine", "src/main.rs"];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        if edge.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            if ["Instant::now", "SystemTime::now", "clock_gettime"].iter().any(|clock| line.contains(clock)) {
                complaints.push(format!("{name}:{}: reads a clock", index + 1));
            }
        }
    }
    complain(complaints);
}

#[test]
fn the_core_knows_no_clock_thread_file_or_engine() {
    let pure = ["src/attend", "src/dispatch/schedule", "src/dispatch/lane", "src/act/gate", "src/core.rs", "src/types"];
    let mut complaints = Vec::new();
    for (name, text) in files().iter().filter(|(name, _)| pure.iter().any(|prefix| name.starts_with(prefix))) {
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for banned in ["std::thread", "std::fs", "std::net", "HashMap", "crate::time", "crate::engine", "std::time"]
            {
                if code.contains(banned) {
                    complaints.push(format!("{name}:{}: {banned} in the core", index + 1));
                }
            }
        }
    }
    complain(complaints);
}

#[test]
fn every_unsafe_says_why_it_is_safe() {
    let mut complaints = Vec::new();
    for (name, text) in files() {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !(code.contains("unsafe {") || code.contains("unsafe impl")) {
                continue;
            }
            let above = &lines[index.saturating_sub(6)..=index];
            if !above.iter().any(|line| line.contains("SAFETY:")) {
                complaints.push(format!("{name}:{}: unsafe without SAFETY", index + 1));
            }
        }
    }
    complain(complaints);
}

//! The command that builds an emitted graph with TensorRT's own tool. A manifest and one of its graphs flow in; one line for a shell
//! flows out.

use super::build::{TIMING_CACHE, shapes};
use super::manifest::Manifest;
use crate::model::onnx::Composed;
use std::path::Path;

/// The line for one engine. The sizes of a profile are taken by `trtexec` only right behind its `--profile`. It would also run what it built, on random
/// numbers: those are no token ids, so `--skipInference`.
pub fn line(part: &Composed, out: &Path, manifest: &Manifest) -> String {
    let onnx = out.join(&part.name);
    let mut words = vec![
        "trtexec".to_owned(),
        format!("--onnx={}", onnx.display()),
        format!("--saveEngine={}", onnx.with_extension("plan").display()),
        "--stronglyTyped".to_owned(),
        "--skipInference".to_owned(),
        format!("--timingCacheFile={}", out.join(TIMING_CACHE).display()),
    ];
    for (index, profile) in manifest.profiles.iter().enumerate() {
        words.push(format!("--profile={index}"));
        let shapes = shapes(&part.model, profile);
        for (flag, which) in [("min", 0), ("opt", 1), ("max", 2)] {
            let each = shapes.iter().map(|shape| {
                let sizes: Vec<String> =
                    [&shape.min, &shape.opt, &shape.max][which].iter().map(i64::to_string).collect();
                format!("{}:{}", shape.name, sizes.join("x"))
            });
            words.push(format!("--{flag}Shapes={}", each.collect::<Vec<String>>().join(",")));
        }
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<String>>().join(" ")
}

/// A word as a POSIX shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_spaces_and_quotes_are_one_word_for_a_shell() {
        assert_eq!(quoted("--profile=0"), "--profile=0");
        for word in ["my models/o'brien", "$HOME", "a;b", "", "é", "*"] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output();
            assert_eq!(String::from_utf8_lossy(&output.expect("a shell").stdout), word);
        }
    }
}

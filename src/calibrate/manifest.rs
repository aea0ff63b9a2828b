//! `manifest.toml` of a calibration: everything its numbers depend on, so that they can be made again. Facts flow in, TOML
//! flows out.

use super::golden;
use super::samples::Source;
use serde::Serialize;
use std::path::Path;

/// What the manifest is made of.
pub struct Files<'a> {
    /// Folder of the original.
    pub model: &'a Path,
    /// Its fingerprint.
    pub original: String,
    /// Fingerprint of the quantised checkpoint.
    pub quantised: String,
    /// Name and text of the recipe.
    pub recipe: (&'a str, &'a str),
    /// What was read.
    pub sources: &'a [Source],
    /// Tokens of a context, read for ranges, read for the report; and the seed.
    pub read: (usize, usize, usize, u64),
    /// The CPU kernels that computed it.
    pub kernels: String,
    /// Prompts in `golden.safetensors`.
    pub prompts: usize,
}

/// The manifest.
#[derive(Debug, Serialize)]
pub struct Manifest {
    format: u32,
    tool: Tool,
    model: Model,
    recipe: Named,
    samples: Samples,
    golden: Golden,
    source: Vec<Source>,
}

#[derive(Debug, Serialize)]
struct Tool {
    sage: String,
    kernels: String,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    fingerprint: String,
    quantised_fingerprint: String,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    blake3: String,
}

#[derive(Debug, Serialize)]
struct Samples {
    seed: u64,
    sequence: usize,
    tokens_for_ranges: usize,
    tokens_for_report: usize,
}

#[derive(Debug, Serialize)]
struct Golden {
    prompts: usize,
    /// Of the logits: length of the difference over length.
    tolerance: f64,
}

impl Manifest {
    /// Puts the facts together.
    pub fn new(files: &Files) -> Manifest {
        let (sequence, for_ranges, for_report, seed) = files.read;
        let name = files.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Manifest {
            format: 1,
            tool: Tool { sage: env!("CARGO_PKG_VERSION").to_owned(), kernels: files.kernels.clone() },
            model: Model { name, fingerprint: files.original.clone(), quantised_fingerprint: files.quantised.clone() },
            recipe: Named {
                name: files.recipe.0.to_owned(),
                blake3: blake3::hash(files.recipe.1.as_bytes()).to_hex().to_string(),
            },
            samples: Samples { seed, sequence, tokens_for_ranges: for_ranges, tokens_for_report: for_report },
            golden: Golden { prompts: files.prompts, tolerance: golden::TOLERANCE },
            source: files.sources.to_vec(),
        }
    }

    /// As text.
    ///
    /// # Errors
    /// The serialiser's.
    pub fn toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

//! What a calibration does: formats by class of module, how ranges are chosen, how much is read. A TOML file or the name of a
//! recipe that ships flows in; a checked [`Recipe`] flows out.

use super::CalibrateError;
use crate::model::lowbit::pack::Choice;
use crate::model::lowbit::{Format, Scheme};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Recipes in the program: name and text.
pub const SHIPPED: [(&str, &str); 4] = [
    ("int4", include_str!("../../calibration/recipes/int4.toml")),
    ("int8", include_str!("../../calibration/recipes/int8.toml")),
    ("fp8", include_str!("../../calibration/recipes/fp8.toml")),
    ("nvfp4", include_str!("../../calibration/recipes/nvfp4.toml")),
];

/// A recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// What it is for, one sentence.
    pub about: String,
    /// Formats by class of module.
    pub formats: Formats,
    /// How weights are stored.
    #[serde(default)]
    pub weights: Weights,
    /// How inputs are rounded.
    #[serde(default)]
    pub inputs: Inputs,
    /// How keys and values are cached.
    #[serde(default)]
    pub cache: Cache,
    /// What is read.
    #[serde(default)]
    pub samples: Samples,
}

/// A class's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stored {
    /// As the checkpoint has it.
    Model,
    /// [`Format::Int4`].
    Int4,
    /// [`Format::Int8`].
    Int8,
    /// [`Format::Fp8`].
    Fp8,
    /// [`Format::Nvfp4`].
    Nvfp4,
}

impl Stored {
    /// The format, if it is not the checkpoint's.
    pub fn format(self) -> Option<Format> {
        match self {
            Stored::Model => None,
            Stored::Int4 => Some(Format::Int4),
            Stored::Int8 => Some(Format::Int8),
            Stored::Fp8 => Some(Format::Fp8),
            Stored::Nvfp4 => Some(Format::Nvfp4),
        }
    }
}

/// Formats by class of module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Formats {
    /// Query, key, value and output projections.
    pub attention: Stored,
    /// Gate, up and down projections.
    pub feed_forward: Stored,
    /// The head.
    pub head: Stored,
}

/// How weights are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weights {
    /// Weights of a row that share a scale in INT4; halved for a layer whose rows it does not divide.
    pub group: usize,
    /// `largest` or `least-error`.
    pub scales: Scales,
    /// Modules that stay as they are, by full name; `*` stands for anything.
    pub exclude: Vec<String>,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { group: 128, scales: Scales::Largest, exclude: Vec::new() }
    }
}

/// How the scale of a group of weights is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scales {
    /// [`Choice::Largest`].
    Largest,
    /// [`Choice::LeastError`].
    LeastError,
}

impl Scales {
    /// As the packer takes it.
    pub fn choice(self) -> Choice {
        match self {
            Scales::Largest => Choice::Largest,
            Scales::LeastError => Choice::LeastError,
        }
    }
}

/// How inputs are rounded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inputs {
    /// Whether they are at all; INT4 never rounds them.
    pub rounded: bool,
    /// How far their range reaches.
    pub range: Range,
    /// With `percentile`: the share of inputs within the range, in per cent.
    pub percentile: f64,
}

impl Default for Inputs {
    fn default() -> Self {
        Inputs { rounded: true, range: Range::Largest, percentile: 99.99 }
    }
}

/// How the range of inputs is chosen from what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Range {
    /// To the largest that was seen.
    Largest,
    /// To a percentile.
    Percentile,
    /// To where the squared error over the histogram is least.
    LeastError,
}

/// How keys and values are cached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// `model` or `fp8`.
    pub format: Stored,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { format: Stored::Model }
    }
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// Sample sets that ship, by name.
    pub sets: Vec<String>,
    /// Tokens of one context.
    pub sequence: usize,
    /// Most tokens that are read for ranges; a quarter as many are read for the report.
    pub tokens: usize,
}

impl Default for Samples {
    fn default() -> Self {
        Samples { sets: vec!["general".to_owned(), "robot".to_owned()], sequence: 512, tokens: 16_384 }
    }
}

impl Recipe {
    /// The recipe called `name`, or the file of that path; with its text.
    ///
    /// # Errors
    /// No such recipe, a file that cannot be read, or one that says something impossible: one sentence.
    pub fn load(name: &str) -> Result<(Recipe, String), CalibrateError> {
        let shipped = SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let text = match shipped {
            Some(text) => text,
            None if Path::new(name).is_file() => std::fs::read_to_string(name)
                .map_err(|error| CalibrateError::Refused(format!("cannot read the recipe {name}: {error}")))?,
            None => {
                let known: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
                let text = format!("no recipe {name}: say {}, or give the path of a TOML file", known.join(", "));
                return Err(CalibrateError::Refused(text));
            }
        };
        let recipe = Self::parse(&text).map_err(|why| CalibrateError::Refused(format!("the recipe {name} {why}")))?;
        Ok((recipe, text))
    }

    fn parse(text: &str) -> Result<Recipe, String> {
        let recipe: Recipe = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            format!("cannot be read: line {line}: {}", error.message())
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if !self.weights.group.is_power_of_two() || !(16..=1024).contains(&self.weights.group) {
            return Err(format!("has groups of {} weights; say a power of 2 from 16 to 1024", self.weights.group));
        }
        if !(50.0..=100.0).contains(&self.inputs.percentile) {
            return Err(format!("asks for the {} percentile; say 50 to 100", self.inputs.percentile));
        }
        if self.samples.sequence < 2 || self.samples.tokens < 16 {
            return Err("reads too little: sequence must be at least 2 and tokens at least 16".to_owned());
        }
        if !matches!(self.cache.format, Stored::Model | Stored::Fp8) {
            return Err("caches keys and values in a format that is not run; say model or fp8".to_owned());
        }
        let formats = [self.formats.attention, self.formats.feed_forward, self.formats.head];
        if formats.iter().all(|stored| *stored == Stored::Model) {
            return Err("leaves every module as the checkpoint has it".to_owned());
        }
        if formats.contains(&Stored::Fp8) && !self.inputs.rounded {
            return Err(
                "stores weights in fp8 without rounding inputs, which ModelOpt's layout has no name for".to_owned()
            );
        }
        Ok(())
    }

    /// What becomes of a module of this class.
    pub fn scheme(&self, module: &str, class: Stored) -> Option<Scheme> {
        let format = class.format()?;
        let excluded = self.weights.exclude.iter().any(|pattern| matches(pattern, module));
        let scheme = Scheme { format, inputs: self.inputs.rounded && format != Format::Int4 };
        if excluded { None } else { Some(scheme) }
    }
}

/// Whether `name` is what `pattern` says; `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(first) else { return false };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_is_good_and_named_as_it_is_asked_for() {
        for (name, _) in SHIPPED {
            assert_eq!(Recipe::load(name).unwrap().0.name, name);
        }
        let refused = Recipe::load("int3").unwrap_err().to_string();
        assert!(refused.contains("int4, int8, fp8, nvfp4"), "{refused}");
    }

    #[test]
    fn a_recipe_that_cannot_be_meant_is_refused_with_the_reason() {
        let good = SHIPPED[0].1;
        for (from, to, says) in [
            ("group = 128", "group = 100", "power of 2"),
            ("group = 128", "group = 128\ncolour = 1", "colour"),
            ("attention = \"int4\"", "attention = \"int5\"", "int5"),
            (
                "attention = \"int4\"\nfeed_forward = \"int4\"",
                "attention = \"model\"\nfeed_forward = \"model\"",
                "every module",
            ),
        ] {
            assert!(good.contains(from), "{from}");
            let why = Recipe::parse(&good.replace(from, to)).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, yes) in [
            ("lm_head", "lm_head", true),
            ("lm_head", "lm_head2", false),
            ("model.layers.0.*", "model.layers.0.mlp.up_proj", true),
            ("model.layers.0.*", "model.layers.10.mlp.up_proj", false),
            ("*.down_proj", "model.layers.3.mlp.down_proj", true),
            ("*.down_proj", "model.layers.3.mlp.down_proj.x", false),
            ("*mlp*", "model.layers.3.mlp.down_proj", true),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} on {name}");
        }
    }
}

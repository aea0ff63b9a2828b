//! Linear layers in 8 or 4 bits with their scales in tensors of their own: what NVIDIA's ModelOpt writes, `sage calibrate`
//! writes, the CPU path runs and engines are emitted from. A checkpoint flows in; formats, scales and exact numbers flow out.
//!
//! | format | `weight` | `weight_scale` | `weight_scale_2` | `input_scale` |
//! |---|---|---|---|---|
//! | INT4 | U8 `[out / 2, in]`, even row in the low half | float `[out, in / group]` | | |
//! | INT8 | I8 `[out, in]` | float `[out]` | | amax / 127 |
//! | FP8 | F8_E4M3 `[out, in]` | float `[]`: amax / 448 | | amax / 448 |
//! | NVFP4 | U8 `[out, in / 2]`, even column in the low half | F8_E4M3 `[out, in / 16]` | float `[]`: amax / (6 · 448) | amax / (6 · 448) |
//!
//! A weight is its code times its scales. `pre_quant_scale [in]`, where there is one, multiplies the input first. The layout
//! was read from ModelOpt's `export/quant_utils.py` and `quantization/qtensor/nvfp4_tensor.py`.

mod declared;
pub mod e2m1;
pub mod e4m3;
mod linear;
pub mod pack;

pub use declared::{Declared, QUANT_CONFIG};
pub use linear::{LowBit, number, round};

use serde::{Deserialize, Serialize};

/// Neighbouring weights or activations that share a scale in NVFP4.
pub const NVFP4_BLOCK: usize = 16;

/// How the weights of a linear layer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// 4-bit whole numbers, -8 to 7, a scale per group of inputs.
    Int4,
    /// 8-bit whole numbers, a scale per output.
    Int8,
    /// E4M3, one scale.
    Fp8,
    /// E2M1, an E4M3 scale per 16 inputs and one scale over all.
    Nvfp4,
}

impl Format {
    /// As in commands, recipes and manifests: `int4`, `int8`, `fp8`, `nvfp4`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Int4 => "int4",
            Format::Int8 => "int8",
            Format::Fp8 => "fp8",
            Format::Nvfp4 => "nvfp4",
        }
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<Format> {
        [Format::Int4, Format::Int8, Format::Fp8, Format::Nvfp4].into_iter().find(|format| format.name() == name)
    }

    /// Largest value of the input's encoding: `input_scale` is the largest input over this.
    pub fn input_limit(self) -> f32 {
        match self {
            Format::Int4 | Format::Int8 => 127.0,
            Format::Fp8 => e4m3::MAX,
            Format::Nvfp4 => e2m1::MAX * e4m3::MAX,
        }
    }
}

/// Formats of a linear layer's weights and of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scheme {
    /// Of the weights.
    pub format: Format,
    /// Whether the input is rounded to the same format before it is multiplied (never with [`Format::Int4`]).
    pub inputs: bool,
}

/// ModelOpt's names. The first of a scheme is the one that is written.
const NAMES: [(&str, Format, bool); 12] = [
    ("W4A16_AWQ", Format::Int4, false),
    ("INT4_AWQ", Format::Int4, false),
    ("W4A16", Format::Int4, false),
    ("W8A8_SQ_PER_CHANNEL", Format::Int8, true),
    ("INT8_SQ", Format::Int8, true),
    ("W8A8", Format::Int8, true),
    ("W8A16", Format::Int8, false),
    ("FP8", Format::Fp8, true),
    ("NVFP4", Format::Nvfp4, true),
    ("NVFP4_AWQ", Format::Nvfp4, true),
    ("W4A16_NVFP4", Format::Nvfp4, false),
    ("NVFP4_W4A16", Format::Nvfp4, false),
];

impl Scheme {
    /// The scheme that ModelOpt calls `name`, in any case.
    pub fn named(name: &str) -> Option<Scheme> {
        let found = NAMES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
        found.map(|&(_, format, inputs)| Scheme { format, inputs })
    }

    /// ModelOpt's name of it, for `quant_algo`; FP8 of weights alone has none.
    pub fn algo(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|&&(_, format, inputs)| format == self.format && inputs == self.inputs)
            .map(|(name, ..)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_keep_their_names() {
        for name in ["W4A16_AWQ", "W8A8_SQ_PER_CHANNEL", "W8A16", "FP8", "NVFP4", "W4A16_NVFP4"] {
            assert_eq!(Scheme::named(name).and_then(Scheme::algo), Some(name));
        }
        assert_eq!(Scheme::named("int4_awq").and_then(Scheme::algo), Some("W4A16_AWQ"));
        assert_eq!(Scheme::named("FP8_PB_WO"), None);
    }
}

//! Qwen2 and Qwen2.5, dense: configuration and weights as Hugging Face stores them.
//! Flows in: a model directory. Flows out: [`Qwen2Config`] and [`Qwen2Weights`], checked against each other.

mod config;
mod weights;

pub use config::Qwen2Config;
#[cfg(test)]
pub(crate) use weights::widen_block_row;
pub use weights::{Layer, Matrix, Qwen2Weights};
pub(crate) use weights::{element_of, ties, widen};

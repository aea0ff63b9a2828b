//! Qwen2 and Qwen2.5 on the CPU.
//! Flows in: a model directory and tokens. Flows out: logits, tokens, text; in steps that can be cancelled inside.

mod decoder;
mod generate;
mod kv;
mod parallel;
mod rounded;
mod widened;

pub use crate::model::transcript::{Finish, PromptError, Step, common_prefix};
pub use decoder::{Decoder, DecoderOptions, Seen, Site};
pub use generate::Generation;
pub use kv::KvCache;
pub use parallel::Cancelled;
pub use rounded::Mode;

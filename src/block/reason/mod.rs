//! The reasoning block: a scene and an utterance become a prompt, a language model's reply becomes words to speak and one
//! known action. Detections, status and words flow in; a [`crate::types::Prompt`], words and an action flow out.

pub mod prompt;
pub mod reply;

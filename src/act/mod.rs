//! Effectors: the voice, action lines, and the last gate on freshness and safety. Acts flow in from the tick; sound and
//! lines flow out, and what was played flows back.

pub mod actions;
pub mod body;
pub mod espeak;
pub mod gate;
#[cfg(feature = "live")]
mod loudspeaker;
pub mod motion;
#[cfg(feature = "live")]
pub mod mouth;
pub mod voice;

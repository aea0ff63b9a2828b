//! The embedded default: networks that ship with the program and run on the CPU.

pub mod ear;
pub mod eye;

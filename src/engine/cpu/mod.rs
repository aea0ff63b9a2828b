//! The embedded default: networks that ship with the program and run on the CPU.

pub mod aligned;
pub mod ear;
pub mod eye;
pub mod kernels;
pub mod pool;
pub mod qwen2;
pub mod simd;

//! Capability blocks: `hear`, `see`, `reason` as IRP processes over engines. Jobs flow in, observations and pieces flow out.
//! Hearing and seeing are single networks (`engine::cpu::{ear, eye}`); reasoning and dreaming are composed here.

pub mod dream;
pub mod reason;

//! Capability blocks: `hear`, `see`, `reason` as IRP processes over engines. Jobs flow in, observations and pieces flow out.

pub mod reason;

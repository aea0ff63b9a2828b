//! Step costs: what one step of each engine takes on a machine, measured or declared. Profiles flow from benchmarks into
//! the simulator and `plan`.

use crate::types::Capability;
use serde::{Deserialize, Serialize};

/// Cost of one step of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepCost {
    /// Which engine.
    pub capability: Capability,
    /// Median step, µs.
    pub p50_us: f32,
    /// 99.9th percentile, µs.
    pub p999_us: f32,
    /// Most steps one job takes.
    pub steps_max: u32,
}

/// Step costs of one machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name, such as `laptop-cpu` or `thor-nvfp4`.
    pub name: String,
    /// One entry per engine.
    pub steps: Vec<StepCost>,
}

impl Profile {
    /// The cost of the capability's steps, if the profile knows it.
    pub fn cost(&self, capability: Capability) -> Option<StepCost> {
        self.steps.iter().copied().find(|step| step.capability == capability)
    }
}

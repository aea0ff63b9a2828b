//! What matters now, and why: salience, state, budget, trust, memory. Pure: inputs of a tick in, wishes and vitals out.

pub mod appraisal;
pub mod budget;
pub mod detectors;
pub mod irp;
pub mod memory;
pub mod metabolism;
pub mod salience;
pub mod trust;
pub mod world;

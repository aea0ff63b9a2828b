//! What matters now, and why: salience, state, budget, trust, memory, dialogue. Pure: a tick's inputs flow in; wants,
//! decisions and vitals flow out. `attention` looks at all sources, `dialogue` at what is said, `periodic` at what is due.

pub mod appraisal;
pub mod attention;
pub mod budget;
pub mod detectors;
pub mod dialogue;
pub mod irp;
pub mod memory;
pub mod metabolism;
pub mod own_voice;
pub mod periodic;
pub mod salience;
pub mod trust;
pub mod turn;
pub mod world;

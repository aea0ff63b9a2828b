//! The robot's own values (battery, range, bumper, emergency stop). Absent means unknown, never "fine".

use super::Nanos;
use serde::{Deserialize, Serialize};

/// The latest of the robot's own values; each is `None` until it was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Counts up from 0 per source.
    pub seq: u64,
    /// When the values were sampled.
    pub captured: Nanos,
    /// Charge, 0..=100 %.
    pub battery_percent: Option<u8>,
    /// Nearest range reading ahead.
    pub range_mm: Option<u32>,
    /// A bumper is pressed.
    pub bumper: Option<bool>,
    /// The emergency stop is engaged.
    pub estop: Option<bool>,
}

//! What the tick sees of a frame or a block of sound: small integer summaries computed by `sense` off the tick.
//! They are recorded as inputs, and `replay --from-sensors` computes them again to the byte.

use super::{Nanos, SourceId, Stamp};
use serde::{Deserialize, Serialize};

/// Columns of the luma grid.
pub const GRID_COLS: usize = 16;
/// Rows of the luma grid.
pub const GRID_ROWS: usize = 12;
/// Frequency bands of [`AudioFeatures`].
pub const BANDS: usize = 8;

/// One value 0..=255 per cell, row-major.
pub type Grid = [[u8; GRID_COLS]; GRID_ROWS];

/// An object that grows in the picture, as motion alone shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Looming {
    /// Relative growth of the moving region's width, in thousandths per second; 0 when nothing grows. Its inverse is
    /// the time to contact (Lee 1976, tau).
    pub growth_permille_per_s: i32,
    /// Cells of the grid that the region covers.
    pub cells: u16,
    /// Bearing of its centre, positive to the right.
    pub bearing_mrad: i16,
}

/// Features of one camera frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CameraFeatures {
    /// Which camera.
    pub source: SourceId,
    /// The frame's sequence number.
    pub seq: u64,
    /// Start of exposure.
    pub captured: Nanos,
    /// How `captured` is known.
    pub stamp: Stamp,
    /// Mean luma per cell, 0..=255.
    pub luma: Grid,
    /// Mean absolute luma difference to the frame before beyond sensor noise, per cell, in quarters of a luma step,
    /// saturating.
    pub motion: Grid,
    /// Growth of a moving region.
    pub looming: Looming,
    /// Frames the device lost since the one before.
    pub lost: u16,
}

/// Features of one audio block. Levels and voice are those of the sound without the robot's own voice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioFeatures {
    /// Which microphone.
    pub source: SourceId,
    /// The block's sequence number.
    pub seq: u64,
    /// Instant of its first sample.
    pub captured: Nanos,
    /// How `captured` is known.
    pub stamp: Stamp,
    /// Level per band, in hundredths of a decibel below full scale (0 = full scale, negative below).
    pub band_cdb: [i16; BANDS],
    /// Level of the whole block, same unit.
    pub level_cdb: i16,
    /// Level as the microphone heard it, the robot's own voice included, same unit.
    pub heard_cdb: i16,
    /// Voice activity 0..=1000.
    pub voice_permille: u16,
    /// Share of the block explained by what the loudspeaker played, 0..=1000.
    pub echo_permille: u16,
    /// Blocks lost since the one before.
    pub lost: u16,
}

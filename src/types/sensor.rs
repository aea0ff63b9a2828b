//! Raw sensor payloads as `sense` hands them on: camera frames and blocks of microphone samples, each with the
//! instant it was captured. They flow to the lanes and the recorder; the tick itself sees only their features.

use super::Nanos;
use serde::{Deserialize, Serialize};

/// Most sources (cameras, microphones, status) a configuration may name.
pub const MAX_SOURCES: usize = 8;
/// Sample rate of everything the ear hears, in Hz.
pub const AUDIO_RATE_HZ: u32 = 16_000;
/// Samples in one audio block: 20 ms at 16 kHz.
pub const AUDIO_BLOCK: usize = 320;

/// Index of a source in the configuration's order: cameras, then microphones, then status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(pub u8);

/// What a source delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceKind {
    /// Frames.
    Camera,
    /// 16 kHz mono sound.
    Microphone,
    /// The robot's own values.
    Status,
}

/// How the capture instant of a payload is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Stamp {
    /// The device said it on CLOCK_MONOTONIC.
    Device,
    /// Only the arrival is known.
    #[default]
    Arrival,
}

/// Layout of a frame's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PixelFormat {
    /// Row-major, 3 bytes a pixel.
    #[default]
    Rgb8,
}

/// One decoded camera frame. `bytes` holds `height * width * 3` bytes, row-major RGB.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// Counts up from 0 per source; gaps are lost frames.
    pub seq: u64,
    /// Start of exposure.
    pub captured: Nanos,
    /// How `captured` is known.
    pub stamp: Stamp,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Layout of `bytes`.
    pub format: PixelFormat,
    /// The decoded picture.
    pub bytes: Vec<u8>,
    /// The compressed picture as captured, if it came compressed (JPEG); what the recorder writes.
    pub jpeg: Option<Vec<u8>>,
}

/// One block of 16 kHz mono sound, [`AUDIO_BLOCK`] samples.
#[derive(Debug, Clone, Copy)]
pub struct AudioBlock {
    /// Counts up from 0 per source; gaps are lost blocks.
    pub seq: u64,
    /// Instant of the first sample.
    pub captured: Nanos,
    /// How `captured` is known.
    pub stamp: Stamp,
    /// The samples as the microphone gave them.
    pub samples: [i16; AUDIO_BLOCK],
    /// What the loudspeaker played at the same instants: the echo reference; zero when silent.
    pub played: [i16; AUDIO_BLOCK],
}

//! Plain data that every stage shares: instants, sensor payloads, features, observations, jobs, decisions.
//! Nothing here reads a clock, allocates after construction or behaves beyond its invariants; lists and texts have
//! fixed capacity so that the tick can copy them freely. Integers carry their unit in the name; records made of
//! them are the same bytes on every machine.

mod decision;
mod features;
mod job;
mod observation;
mod sensor;
mod status;
mod tick;
mod time;

pub use decision::{Act, ActionId, ActionLine, BasedOn, Command, Decision, Name, UtteranceId, Why};
pub use features::{AudioFeatures, BANDS, CameraFeatures, GRID_COLS, GRID_ROWS, Grid, Looming};
pub use job::{Capability, Class, Job, JobId, JobInput, LaneEvent, Outcome, Output, Prompt};
pub use observation::{Detection, HeardWord, MAX_DETECTIONS, MAX_WORDS, Piece, Thing, Word};
pub use sensor::{
    AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, Frame, MAX_SOURCES, PixelFormat, SourceId, SourceKind, Stamp,
};
pub use status::Status;
pub use tick::{Inputs, Metabolic, Outputs, Salience, SourceHealth, Vitals, VoiceReport};
pub use time::Nanos;

/// Text of at most `N` bytes of UTF-8, kept inline so that the tick never allocates.
pub type Text<const N: usize> = arrayvec::ArrayString<N>;

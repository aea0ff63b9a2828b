//! The record: one MCAP file holds every input, decision and engine result of a run. `writer` and `thread` make it,
//! `reader` and `sensors` read it (and what others recorded), `verify`, `from_sensors` and `simulate` run it again.
//! Topics and schemas are documented in `docs/record.md`.

pub mod base64;
pub mod digest;
pub mod file;
pub mod foreign;
pub mod from_sensors;
pub mod message;
pub mod own;
pub mod pixels;
pub mod proto;
pub mod reader;
pub mod real;
pub mod sensors;
pub mod session;
pub mod simulate;
pub mod streams;
pub mod thread;
pub mod timebase;
pub mod verify;
pub mod views;
pub mod writer;

pub use digest::Digest;
pub use reader::{LogError, LogReader};

pub use sensors::{Mapping, Payload, SensorLog};
pub use session::SessionInfo;
pub use thread::{RecordHandle, RecordThread, SensorTap, TickTap};
pub use writer::{Limits, Recorder, Summary};

//! Sources: cameras, microphones, status, logs and synthetic scenes; and the features the tick sees of them. Devices and
//! logs flow in; features go to the tick (`feed`), payloads to the lanes (`store`) and the recorder.

pub mod assemble;
#[cfg(feature = "live")]
pub mod camera;
#[cfg(feature = "live")]
pub mod capture_ring;
#[cfg(feature = "live")]
pub mod devices;
pub mod echo;
pub mod features;
pub mod feed;
#[cfg(feature = "live")]
pub mod in_use;
pub mod looming;
#[cfg(feature = "live")]
pub mod microphone;
pub mod mjpeg;
pub mod played;
pub mod player;
pub mod reference;
pub mod resample;
pub mod scene;
pub mod sound;
#[cfg(feature = "live")]
pub mod sound_device;
pub mod spectrum;
pub mod status;
pub mod store;
pub mod vad;

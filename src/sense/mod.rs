//! Sources: cameras, microphones, status, logs and synthetic scenes; and the features the tick sees of them. Devices and
//! logs flow in; features go to the tick (`feed`), payloads to the lanes (`store`) and the recorder.

pub mod assemble;
pub mod echo;
pub mod features;
pub mod feed;
pub mod looming;
pub mod mjpeg;
pub mod played;
pub mod player;
pub mod resample;
pub mod scene;
pub mod sound;
pub mod spectrum;
pub mod status;
pub mod store;
pub mod vad;

//! Sources: cameras, microphones, status, logs and synthetic scenes; and the features the tick sees of them.

pub mod resample;

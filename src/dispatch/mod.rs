//! From wishes to work: `schedule` decides purely what runs, `executor` owns the lanes that run it.

pub mod want;

pub use want::{Admission, Verdict, Want};

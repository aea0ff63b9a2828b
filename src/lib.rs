//! SAGE-Thor: the real-time layer a robot's mind runs on. The path of the data is the path through the modules:
//! `sense` → `attend` → `dispatch` → (`block`, `engine`, `model`) → `act`, with `record` beside them. `core` composes the
//! pure parts into one step per tick; `robot` runs it with threads and devices.

#![warn(missing_docs)]

pub mod act;
pub mod assets;
pub mod attend;
pub mod block;
pub mod calibrate;
pub mod cli;
pub mod config;
pub mod core;
pub mod dispatch;
pub mod engine;
pub mod model;
pub mod observe;
pub mod plan;
pub mod record;
pub mod robot;
pub mod sense;
pub mod time;
pub mod types;
pub mod whole_file;

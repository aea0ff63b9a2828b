//! The synthetic world: what a small robot's camera would see, for demonstrations, tests and training of the eye. Scripts or seeds
//! flow in; 640x480 RGB pictures and the truth about them flow out. Pure: no file, thread or clock; time is an argument in seconds.

pub mod camera;
mod draw;
mod figure;
mod looks;
mod phrases;
mod play;
mod props;
pub mod random;
mod raster;
mod script;
mod still;
mod texture;
mod track;
mod truth;
mod world;

pub use draw::{FRAME_BYTES, render, render_with_truth};
pub use phrases::{Phrase, Phrases};
pub use play::timeline;
pub use raster::Extent;
pub use script::{SCENE_HZ, Scene};
pub use texture::Split;
pub use track::{Place, Track};
pub use truth::{Class, Truth};
pub use world::{Builder, Obstacle, ObstacleKind, Person, Raise, World};

//! From wishes to work: `schedule` decides purely what runs, `executor` owns the lanes that run it. Wants flow in from
//! the core, results flow back as lane events. `lane` and `work` are what live and virtual lanes share.

pub mod analysis;
pub mod demands;
pub mod executor;
pub mod lane;
pub mod load;
pub mod schedule;
pub mod tally;
pub mod virtual_lane;
pub mod want;
pub mod work;

pub use executor::{Executor, LaneHandle};
pub use schedule::{Schedule, lane_of};
pub use virtual_lane::VirtualLane;
pub use want::{Admission, Verdict, Want};

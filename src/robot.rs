//! The live loop: threads and rings around the pure core. Features, lane events, the voice's report and health flow in
//! over wait-free rings; commands to lanes, acts to the body and one record per tick flow out the same way.

pub mod engines;
pub mod inbox;
pub mod realtime;
pub mod thread;
pub mod tick;

pub use inbox::Inbox;
pub use realtime::{Claim, Claims};
pub use thread::{Robot, Stopped};
pub use tick::{Beats, RobotParts, TickCore, TickLoop, TickRecord, record_rings};

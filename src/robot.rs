//! The live loop: threads and rings around the pure core. Features, lane events, the voice's report and health flow in
//! over wait-free rings; commands to lanes, acts to the body and one record per tick flow out the same way.

pub mod engines;
pub mod inbox;
mod observer;
pub mod realtime;
pub mod session;
pub mod sources;
pub mod thread;
pub mod tick;

pub use inbox::Inbox;
pub use realtime::{Claim, Claims};
pub use thread::{Robot, Stopped};
pub use tick::{Beats, RobotParts, TickCore, TickLoop, TickRecord, record_rings};

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGUSR1: somebody releases a latched halt by hand.
static RELEASE: AtomicBool = AtomicBool::new(false);

/// Asks the running loop to release a latched halt.
pub fn request_release() {
    RELEASE.store(true, Ordering::Release);
}

/// Whether a release was asked for since the last call.
pub fn take_release_request() -> bool {
    RELEASE.swap(false, Ordering::AcqRel)
}

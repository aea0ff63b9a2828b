//! Clocks: the monotonic clock of the machine and a virtual one, behind one trait; the only place that reads time
//! for the loop. Instants flow out.

use crate::types::Nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that tells the time.
pub trait Clock: Send + Sync {
    /// Now, on CLOCK_MONOTONIC or a virtual equivalent.
    fn now(&self) -> Nanos;
}

/// CLOCK_MONOTONIC of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> Nanos {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid timespec that the call only writes; CLOCK_MONOTONIC always exists on Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        Nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }
}

/// A clock that stands until it is set: replay and simulation.
#[derive(Debug, Clone, Default)]
pub struct Virtual(Arc<AtomicU64>);

impl Virtual {
    /// Moves the clock to `now`; it never goes back.
    pub fn set(&self, now: Nanos) {
        self.0.fetch_max(now.0, Ordering::Relaxed);
    }
}

impl Clock for Virtual {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }
}

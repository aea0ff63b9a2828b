//! Clocks: the monotonic clock of the machine and a virtual one, behind one trait; the only place that reads time
//! for the loop; and the ticker that wakes it at k·T. Instants flow out.

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

/// One wake-up of a [`Ticker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// k, from 1.
    pub tick: u64,
    /// origin + k·T: the instant this tick stands for.
    pub due: Nanos,
    /// When the thread really woke.
    pub woke: Nanos,
    /// Ticks left out since the beat before, because it was too late for them.
    pub skipped: u32,
}

/// The grid origin + k·T, and which of its ticks was served last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    origin: Nanos,
    period: Nanos,
    last: u64,
}

impl Grid {
    /// Ticks at `origin + k * period`, k from 1. A period of 0 is taken as 1 ns.
    pub fn new(origin: Nanos, period: Nanos) -> Grid {
        Grid { origin, period: Nanos(period.0.max(1)), last: 0 }
    }

    /// The next tick's instant.
    pub fn next_due(&self) -> Nanos {
        self.due(self.last + 1)
    }

    /// Serves the newest tick that is due at `woke`; older ones that were not served are skipped, never caught up.
    /// Woken too early, it still serves the next tick.
    pub fn serve(&mut self, woke: Nanos) -> Beat {
        let newest = woke.since(self.origin).0 / self.period.0;
        let tick = newest.max(self.last + 1);
        let skipped = tick - self.last - 1;
        self.last = tick;
        Beat { tick, due: self.due(tick), woke, skipped: u32::try_from(skipped).unwrap_or(u32::MAX) }
    }

    fn due(&self, tick: u64) -> Nanos {
        self.origin.after(Nanos(tick.saturating_mul(self.period.0)))
    }
}

/// Wakes a thread at absolute instants of CLOCK_MONOTONIC, by `clock_nanosleep` with TIMER_ABSTIME: the period never
/// drifts, and an overrun skips ticks and counts them.
#[derive(Debug)]
pub struct Ticker {
    grid: Grid,
    spin: Nanos,
}

impl Ticker {
    /// Ticks at `origin + k * period`. The last `spin` of each wait is spent awake, which costs CPU and saves the
    /// wake-up latency.
    pub fn new(origin: Nanos, period: Nanos, spin: Nanos) -> Ticker {
        Ticker { grid: Grid::new(origin, period), spin }
    }

    /// Sleeps to the next tick. Signals do not end the sleep early.
    pub fn wait(&mut self) -> Beat {
        let due = self.grid.next_due();
        sleep_until(due.since(self.spin));
        let mut woke = Monotonic.now();
        while woke < due {
            std::hint::spin_loop();
            woke = Monotonic.now();
        }
        self.grid.serve(woke)
    }
}

/// Sleeps until the instant of CLOCK_MONOTONIC; returns at once if it is past.
pub fn sleep_until(instant: Nanos) {
    let until = libc::timespec {
        tv_sec: (instant.0 / 1_000_000_000) as libc::time_t,
        tv_nsec: (instant.0 % 1_000_000_000) as libc::c_long,
    };
    loop {
        // SAFETY: `until` is a valid timespec; a null remainder is allowed with TIMER_ABSTIME.
        let error =
            unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, std::ptr::null_mut()) };
        if error != libc::EINTR {
            return;
        }
    }
}

/// Unix time minus CLOCK_MONOTONIC, ns: what turns the session's instants into dates.
pub fn unix_offset_ns() -> i64 {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    unix.as_nanos() as i64 - Monotonic.now().0 as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Nanos = Nanos::from_ms(10);

    #[test]
    fn an_overrun_skips_ticks_and_counts_them_and_never_bursts() {
        let mut grid = Grid::new(Nanos(5), T);
        let at = |ms: u64| Nanos(5) + Nanos::from_ms(ms);
        assert_eq!(grid.serve(at(10)), Beat { tick: 1, due: at(10), woke: at(10), skipped: 0 });
        // The work of tick 1 takes until 47 ms: tick 4 is served late, 2 and 3 are gone.
        assert_eq!(grid.next_due(), at(20));
        assert_eq!(grid.serve(at(47)), Beat { tick: 4, due: at(40), woke: at(47), skipped: 2 });
        assert_eq!(grid.next_due(), at(50));
        assert_eq!(grid.serve(at(50)), Beat { tick: 5, due: at(50), woke: at(50), skipped: 0 });
    }

    #[test]
    fn no_tick_is_served_twice_or_before_its_turn_counts() {
        let mut grid = Grid::new(Nanos::ZERO, T);
        let ticks: Vec<u64> = [10, 10, 10, 35].map(|ms| grid.serve(Nanos::from_ms(ms)).tick).to_vec();
        assert_eq!(ticks, [1, 2, 3, 4]);
    }

    #[test]
    fn a_real_ticker_never_wakes_before_it_is_due() {
        let mut ticker = Ticker::new(Monotonic.now(), Nanos::from_us(500), Nanos::from_us(50));
        let mut served = 0;
        for _ in 0..20 {
            let beat = ticker.wait();
            assert!(beat.woke >= beat.due);
            assert!(beat.woke.since(beat.due) < Nanos::from_us(500), "later than a period: it should have skipped");
            served += 1 + u64::from(beat.skipped);
            assert_eq!(beat.tick, served);
        }
    }
}

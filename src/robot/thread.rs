//! The tick's thread: claims what real time it can, then serves ticks at k·T until it is told to stop. Parts flow in; the
//! core comes back at the end.

use super::realtime::{Claim, Claims};
use super::tick::{Beats, RobotParts, TickCore, TickLoop};
use crate::config::RealtimeConfig;
use crate::time::{Clock, Monotonic, Ticker};
use crate::types::Nanos;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// A running loop. Dropping it stops it.
pub struct Robot {
    stop: Arc<AtomicBool>,
    beats: Arc<Beats>,
    claims: Vec<Claim>,
    thread: Option<JoinHandle<Box<dyn TickCore>>>,
}

/// What is left of a loop that ended.
pub struct Stopped {
    /// The core as the last tick left it.
    pub core: Box<dyn TickCore>,
    /// The loop's counts.
    pub beats: Arc<Beats>,
}

impl Robot {
    /// Starts the tick thread with period `period`; tick k is at the start's instant + k·T.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(parts: RobotParts, period: Nanos, realtime: &RealtimeConfig) -> io::Result<Robot> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut body = TickLoop::new(parts);
        let beats = body.beats();
        let (tell, told) = mpsc::sync_channel(1);
        let (stopping, config) = (Arc::clone(&stop), realtime.clone());
        let thread = std::thread::Builder::new().name("tick".to_owned()).spawn(move || {
            let mut claims = Claims::make(&config);
            let _ = tell.send(std::mem::take(&mut claims.claims));
            let spin = Nanos::from_us(u64::from(config.spin_us));
            let mut ticker = Ticker::new(Monotonic.now(), period, spin);
            while !stopping.load(Ordering::Acquire) {
                body.serve(ticker.wait());
            }
            drop(claims);
            body.into_core()
        })?;
        let claims = told.recv().unwrap_or_default();
        Ok(Robot { stop, beats, claims, thread: Some(thread) })
    }

    /// The flag that ends the loop after its current tick; a signal handler may set it.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The loop's counts.
    pub fn beats(&self) -> Arc<Beats> {
        Arc::clone(&self.beats)
    }

    /// What was claimed of the machine, and how that went.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The loop still runs; `false` after it was told to stop, or after its core panicked.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the loop after its current tick. `None` if its core panicked.
    pub fn stop(mut self) -> Option<Stopped> {
        let core = self.halt()?;
        Some(Stopped { core, beats: Arc::clone(&self.beats) })
    }

    fn halt(&mut self) -> Option<Box<dyn TickCore>> {
        self.stop.store(true, Ordering::Release);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        self.halt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robot::inbox::Inbox;
    use crate::robot::tick::record_rings;
    use crate::types::{Act, Inputs, Outputs};

    struct Pulse;

    impl TickCore for Pulse {
        fn tick(&mut self, inputs: &Inputs, out: &mut Outputs) {
            out.act(Act::Heartbeat { at: inputs.now });
        }
    }

    #[test]
    fn a_running_loop_accounts_for_every_tick_and_stops_when_told() {
        let (acts, mut body) = rtrb::RingBuffer::new(64);
        let (records, mut recorder) = record_rings(32);
        let parts = RobotParts {
            core: Box::new(Pulse),
            inbox: Inbox::default(),
            lanes: Vec::new(),
            acts,
            actor: None,
            records,
            clock: Arc::new(Monotonic),
        };
        let realtime = RealtimeConfig { priority: 0, lock_memory: false, cpu: None, spin_us: 0 };
        let robot = Robot::start(parts, Nanos::from_ms(1), &realtime).expect("a thread");
        let (mut served, mut first) = (0, None);
        while served < 20 {
            let Ok(record) = recorder.full.pop() else {
                std::thread::yield_now();
                continue;
            };
            let inputs = &record.inputs;
            let (start, sum) = first.unwrap_or((inputs.now, inputs.tick));
            assert!(record.woke >= inputs.now);
            assert_eq!(inputs.now.since(start), Nanos::from_ms(inputs.tick - sum), "tick k stands for k·T");
            first = Some((start, sum));
            served += 1;
            recorder.free.push(record).expect("as many places as records");
        }
        assert!(robot.is_running());
        let stopped = robot.stop().expect("the core did not panic");
        let ticks = stopped.beats.ticks.load(Ordering::Relaxed);
        assert!(ticks >= 20);
        let heartbeats = std::iter::from_fn(|| body.pop().ok()).count() as u64;
        let dropped = stopped.beats.acts_dropped.load(Ordering::Relaxed);
        assert_eq!(heartbeats + dropped, ticks, "every act was sent or counted");
    }
}

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

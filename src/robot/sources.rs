//! Starts what delivers sensor data: the player of a timeline, or this robot's devices. Feeds flow in; threads run until
//! they are stopped.

use super::session::{RunError, Source, Watch};
use crate::act::body::Voice;
use crate::config::Config;
use crate::sense::feed::SourceFeed;
use crate::sense::played::PlayedSound;
use crate::sense::player;
use crate::time::Clock;
use crate::types::Nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Running sources.
pub struct Sources {
    stop: Arc<AtomicBool>,
    player: Option<JoinHandle<()>>,
}

impl Sources {
    /// The timeline has come to its end; devices never do.
    pub fn is_over(&self) -> bool {
        self.player.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Ends all threads.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        if let Some(player) = self.player {
            let _ = player.join();
        }
    }
}

/// Starts the source of a run; `begun` is the instant at which a timeline begins.
///
/// # Errors
/// Devices are asked for in a build without them, or the system has no thread left.
pub fn start(
    source: Source,
    mut feeds: Vec<SourceFeed>,
    config: &Config,
    played: &Arc<PlayedSound>,
    clock: Arc<dyn Clock>,
    begun: Nanos,
) -> Result<Sources, RunError> {
    let stop = Arc::new(AtomicBool::new(false));
    match source {
        Source::Timeline { payloads, origin } => {
            for feed in &mut feeds {
                feed.present(true);
            }
            let stopped = Arc::clone(&stop);
            let player = std::thread::Builder::new()
                .name("player".to_owned())
                .spawn(move || {
                    player::play(payloads, &mut feeds, clock.as_ref(), origin, begun, &stopped);
                })
                .map_err(|error| RunError::System { what: "the player's thread".to_owned(), error })?;
            Ok(Sources { stop, player: Some(player) })
        }
        Source::Devices => devices(feeds, config, played, clock, stop),
    }
}

/// Without the feature there are no devices to start.
#[cfg(not(feature = "live"))]
fn devices(
    _feeds: Vec<SourceFeed>,
    _config: &Config,
    _played: &Arc<PlayedSound>,
    _clock: Arc<dyn Clock>,
    _stop: Arc<AtomicBool>,
) -> Result<Sources, RunError> {
    Err(RunError::Unsupported(NO_LIVE.to_owned()))
}

/// What a build without devices says.
pub const NO_LIVE: &str = "this build has no cameras, microphones or loudspeakers; install libasound2-dev, pkg-config and \
                           libclang-dev, then build with: cargo build --release --features live";

/// The voice that can be heard.
///
/// # Errors
/// A build without sound, or no synthesiser.
#[cfg(not(feature = "live"))]
pub fn audible_voice(
    _config: &Config,
    _played: &Arc<PlayedSound>,
    _watch: &mut dyn Watch,
) -> Result<Box<dyn Voice>, RunError> {
    Err(RunError::Unsupported(NO_LIVE.to_owned()))
}

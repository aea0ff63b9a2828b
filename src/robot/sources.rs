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
    /// Threads of devices; each ends when it is dropped.
    devices: Vec<Box<dyn Send>>,
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
        drop(self.devices);
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
            Ok(Sources { stop, player: Some(player), devices: Vec::new() })
        }
        Source::Devices => Ok(Sources { stop, player: None, devices: devices(feeds, config, played, clock)? }),
    }
}

/// Starts a thread for each configured device and the status socket, in the order of the sources: cameras, microphones,
/// status. A device need not be there yet.
#[cfg(feature = "live")]
fn devices(
    feeds: Vec<SourceFeed>,
    config: &Config,
    played: &Arc<PlayedSound>,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Box<dyn Send>>, RunError> {
    use crate::sense::{camera::Camera, microphone::Microphone, status::StatusSocket};
    let thread = |what: &str, error| RunError::System { what: what.to_owned(), error };
    let (mut cameras, mut microphones) = (config.camera.iter(), config.microphone.iter());
    let mut devices: Vec<Box<dyn Send>> = Vec::new();
    for feed in feeds {
        if let Some(camera) = cameras.next() {
            let started = Camera::start(camera.clone(), feed, Arc::clone(&clock));
            devices.push(Box::new(started.map_err(|error| thread("a camera's thread", error))?));
        } else if let Some(microphone) = microphones.next() {
            let (heard, clock) = (Some(Arc::clone(played)), Arc::clone(&clock));
            let started = Microphone::start(microphone.clone(), feed, heard, clock);
            devices.push(Box::new(started.map_err(|error| thread("a microphone's thread", error))?));
        } else if !config.status.socket.is_empty() {
            let path = std::path::Path::new(&config.status.socket);
            let socket = StatusSocket::open(path, feed, Arc::clone(&clock)).map_err(RunError::Unsupported)?;
            devices.push(Box::new(socket));
        }
    }
    Ok(devices)
}

/// Without the feature there are no devices to start.
#[cfg(not(feature = "live"))]
fn devices(
    _feeds: Vec<SourceFeed>,
    _config: &Config,
    _played: &Arc<PlayedSound>,
    _clock: Arc<dyn Clock>,
) -> Result<Vec<Box<dyn Send>>, RunError> {
    Err(RunError::Unsupported(NO_LIVE.to_owned()))
}

/// What a build without devices says.
#[cfg(not(feature = "live"))]
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

/// The voice that can be heard.
///
/// # Errors
/// No synthesiser is installed.
#[cfg(feature = "live")]
pub fn audible_voice(
    config: &Config,
    played: &Arc<PlayedSound>,
    _watch: &mut dyn Watch,
) -> Result<Box<dyn Voice>, RunError> {
    let clock = Arc::new(crate::time::Monotonic);
    let voice = crate::act::mouth::EspeakVoice::start(&config.voice, Arc::clone(played), clock);
    Ok(Box::new(voice.map_err(RunError::Unsupported)?))
}

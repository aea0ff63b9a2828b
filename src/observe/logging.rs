//! Sets up `tracing`: human lines, JSON lines or journald, filtered by level. `[log]` flows in; events of all threads flow
//! to standard error or the journal.

use crate::config::LogConfig;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// Installs the subscriber for the whole process; a second call changes nothing. `RUST_LOG` wins over the level.
/// Returns a sentence if journald was asked for and is not there; human lines are used then.
pub fn install(config: &LogConfig) -> Option<String> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.level));
    let mut complaint = None;
    let human = || fmt::layer().with_writer(std::io::stderr).with_target(false).boxed();
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match config.format.as_str() {
        "json" => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        "journald" => match tracing_journald::layer() {
            Ok(layer) => layer.boxed(),
            Err(error) => {
                complaint = Some(format!("journald cannot be reached ({error}); logging to standard error"));
                human()
            }
        },
        _ => human(),
    };
    let _ = Registry::default().with(layer.with_filter(filter)).try_init();
    complaint
}

//! The robot's own values, by Unix datagram: one JSON object each, such as `{"battery_percent":80,"range_mm":1200}`.
//! Datagrams flow in; merged `Status` reports flow to the feed. What is no valid report is refused with a sentence, counted,
//! and logged at most once a second. `docs/status-and-actions.md` describes it for senders.

use super::feed::SourceFeed;
use crate::time::Clock;
use crate::types::{Nanos, Status};
use serde_json::Value;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest datagram that can be a report, bytes.
const LONGEST: usize = 1_024;
/// Refusals are logged at most this often.
const LOG_EVERY: Nanos = Nanos::from_s(1);
/// A look at the stop flag at least this often.
const NAP: Duration = Duration::from_millis(100);

/// Merges one datagram into the values known so far. A key that is absent keeps its value; `null` makes it unknown.
///
/// # Errors
/// A sentence that says what is wrong with the datagram; nothing is merged then.
pub fn merge(status: &Status, datagram: &[u8]) -> Result<Status, String> {
    if datagram.len() > LONGEST {
        return Err(format!("a status datagram may have {LONGEST} bytes"));
    }
    let value: Value =
        serde_json::from_slice(datagram).map_err(|why| format!("a status datagram must be one JSON object: {why}"))?;
    let Value::Object(entries) = value else {
        return Err("a status datagram must be one JSON object, such as {\"range_mm\":1200}".to_owned());
    };
    if entries.is_empty() {
        return Err("the status datagram says nothing".to_owned());
    }
    let mut merged = *status;
    for (key, value) in &entries {
        match key.as_str() {
            "battery_percent" => merged.battery_percent = whole(key, value, 100)?.map(|v| v as u8),
            "range_mm" => merged.range_mm = whole(key, value, u64::from(u32::MAX))?.map(|v| v as u32),
            "bumper" => merged.bumper = flag(key, value)?,
            "estop" => merged.estop = flag(key, value)?,
            _ => return Err(format!("unknown key {key:?}; known are battery_percent, range_mm, bumper, estop")),
        }
    }
    Ok(merged)
}

fn whole(key: &str, value: &Value, most: u64) -> Result<Option<u64>, String> {
    if value.is_null() {
        return Ok(None);
    }
    // A number such as 80.0 is fine, 80.5 is rounded, -1 and 101 are not.
    let number = value.as_f64().filter(|v| *v >= 0.0 && *v <= most as f64);
    match number {
        Some(number) => Ok(Some(libm::floor(number + 0.5) as u64)),
        None => Err(format!("{key} must be a number from 0 to {most} or null, not {value}")),
    }
}

fn flag(key: &str, value: &Value) -> Result<Option<bool>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        _ => Err(format!("{key} must be true, false or null, not {value}")),
    }
}

/// The thread that receives status datagrams.
pub struct StatusSocket {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<SourceFeed>>,
}

impl StatusSocket {
    /// Listens at `path`. A socket that a crashed run left there is replaced; any other file is not.
    ///
    /// # Errors
    /// One sentence: the path cannot be used, or no thread is left.
    pub fn open(path: &Path, feed: SourceFeed, clock: Arc<dyn Clock>) -> Result<StatusSocket, String> {
        let socket =
            bind(path).map_err(|why| format!("the status socket {} cannot be opened: {why}", path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicU64::new(0));
        let receiver = Receiver {
            socket,
            feed,
            clock,
            status: Status::default(),
            next_seq: 0,
            refused: Arc::clone(&refused),
            quiet_until: Nanos::ZERO,
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("status".to_owned())
            .spawn(move || receiver.run(&stopped))
            .map_err(|why| format!("no thread for the status socket: {why}"))?;
        Ok(StatusSocket { path: path.to_owned(), stop, refused, thread: Some(thread) })
    }

    /// Datagrams refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Stops listening, removes the socket and gives the feed back.
    pub fn close(mut self) -> Option<SourceFeed> {
        self.end()
    }

    fn end(&mut self) -> Option<SourceFeed> {
        self.stop.store(true, Ordering::Relaxed);
        let feed = self.thread.take().and_then(|thread| thread.join().ok());
        if feed.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
        feed
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind(path: &Path) -> std::io::Result<UnixDatagram> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        // Somebody may listen there: only a socket that nobody answers is a left-over.
        let probe = UnixDatagram::unbound()?;
        if probe.connect(path).is_ok() {
            return Err(std::io::Error::new(ErrorKind::AddrInUse, "another program listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let socket = UnixDatagram::bind(path)?;
    // Whoever is in the program's group may send, whatever the umask was.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    socket.set_read_timeout(Some(NAP))?;
    Ok(socket)
}

struct Receiver {
    socket: UnixDatagram,
    feed: SourceFeed,
    clock: Arc<dyn Clock>,
    status: Status,
    next_seq: u64,
    refused: Arc<AtomicU64>,
    quiet_until: Nanos,
}

impl Receiver {
    fn run(mut self, stop: &AtomicBool) -> SourceFeed {
        let mut buffer = [0u8; LONGEST + 1];
        while !stop.load(Ordering::Relaxed) {
            match self.socket.recv(&mut buffer) {
                Ok(length) => self.take(&buffer[..length]),
                Err(why)
                    if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(why) => {
                    tracing::error!(%why, "the status socket failed; no more status is taken");
                    self.feed.present(false);
                    break;
                }
            }
        }
        self.feed
    }

    fn take(&mut self, datagram: &[u8]) {
        let now = self.clock.now();
        match merge(&self.status, datagram) {
            Ok(merged) => {
                self.status = Status { seq: self.next_seq, captured: now, ..merged };
                self.next_seq += 1;
                self.feed.status(&self.status);
            }
            Err(why) => {
                let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                if now >= self.quiet_until {
                    self.quiet_until = now.after(LOG_EVERY);
                    tracing::warn!(refused, "status refused: {why}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::feed::{Intake, NoRecorder, connect};
    use super::super::store::SensorStore;
    use super::*;
    use crate::time::Virtual;
    use crate::types::{Inputs, SourceId, SourceKind};

    #[test]
    fn values_are_merged_and_null_is_unknown() {
        let first = merge(&Status::default(), br#"{"battery_percent":80.4,"range_mm":1200,"bumper":false}"#).unwrap();
        assert_eq!(
            (first.battery_percent, first.range_mm, first.bumper, first.estop),
            (Some(80), Some(1200), Some(false), None)
        );
        let second = merge(&first, br#"{"range_mm":null,"estop":true}"#).unwrap();
        assert_eq!((second.battery_percent, second.range_mm, second.estop), (Some(80), None, Some(true)));
    }

    #[test]
    fn bad_datagrams_are_refused_with_a_sentence_and_change_nothing() {
        for (datagram, said) in [
            (&b"hello"[..], "one JSON object"),
            (b"[1]", "one JSON object"),
            (b"{}", "says nothing"),
            (br#"{"battery_percent":101}"#, "from 0 to 100"),
            (br#"{"range_mm":-1}"#, "range_mm must be"),
            (br#"{"bumper":1}"#, "true, false or null"),
            (br#"{"range_mm":100,"rnge":5}"#, "unknown key \"rnge\""),
            (&[b' '; LONGEST + 1], "1024 bytes"),
        ] {
            let why = merge(&Status::default(), datagram).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn reports_arrive_and_bad_ones_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        let store = Arc::new(SensorStore::new(1));
        let (feed, ring) = connect(SourceId(0), SourceKind::Status, 0.0, store, Arc::new(NoRecorder));
        let clock = Virtual::default();
        clock.set(Nanos::from_s(7));
        let socket = StatusSocket::open(&path, feed, Arc::new(clock)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660, "the group may send");
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"nonsense", &path).unwrap();
        sender.send_to(br#"{"range_mm":900}"#, &path).unwrap();
        sender.send_to(br#"{"bumper":true}"#, &path).unwrap();
        let mut intake = Intake::new(vec![ring]);
        let mut inputs = Inputs::default();
        while inputs.status.is_none_or(|s| s.seq < 1) {
            intake.drain_into(&mut inputs);
            std::thread::yield_now();
        }
        let status = inputs.status.unwrap();
        assert_eq!((status.range_mm, status.bumper, status.captured), (Some(900), Some(true), Nanos::from_s(7)));
        assert_eq!(socket.refused(), 1);
        let again = StatusSocket::open(&path, socket.close().unwrap(), Arc::new(Virtual::default()));
        assert!(again.is_ok(), "the path is free again");
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}

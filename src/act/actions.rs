//! Action lines: what the body is told, as JSON datagrams. `Act`s of the tick flow in; lines flow out to a Unix datagram
//! socket and the log. `ActionLines` is the pure part (what to say when); `ActionSocket` is the wire.
//!
//! A line is one JSON object a datagram; `docs/status-and-actions.md` describes it for receivers. A latched halt is
//! repeated until it is released, for a receiver may miss a datagram or start late.

use crate::types::{Act, ActionId, BasedOn, Nanos};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// A latched halt is repeated this often.
pub const HALT_REPEAT: Nanos = Nanos::from_ms(100);
/// An unreachable receiver is tried again this often.
const RECONNECT: Nanos = Nanos::from_s(1);

/// Turns acts into lines and remembers what must be repeated.
#[derive(Debug, Clone)]
pub struct ActionLines {
    sources: Vec<String>,
    /// Validity of halts and heartbeats.
    valid: Nanos,
    halt: Option<(ActionId, Nanos, Nanos)>,
}

impl ActionLines {
    /// For a robot with these source names; `heartbeat` is its interval, after three of which receivers halt.
    pub fn new(sources: Vec<String>, heartbeat: Nanos) -> ActionLines {
        ActionLines { sources, valid: Nanos(heartbeat.0.saturating_mul(3)), halt: None }
    }

    /// The line for an act, if it concerns the body: actions, halts and heartbeats.
    pub fn accept(&mut self, now: Nanos, act: &Act) -> Option<Value> {
        match act {
            Act::Do { id, action, issued, valid_until, based_on, supersedes } => {
                let mut args = serde_json::Map::new();
                if !action.target.is_empty() {
                    args.insert("target".to_owned(), action.target.as_str().into());
                }
                if !action.direction.is_empty() {
                    args.insert("direction".to_owned(), action.direction.as_str().into());
                }
                Some(json!({
                    "id": id.0, "name": action.name.as_str(), "args": args,
                    "issued_ns": issued.0, "valid_until_ns": valid_until.0,
                    "based_on": based_on.iter().map(|b| self.based_on(b, *issued)).collect::<Vec<_>>(),
                    "supersedes": supersedes.map(|s| s.0),
                }))
            }
            Act::Halt { id, on, issued, cause } => {
                self.halt = on.then_some((*id, *cause, now.after(HALT_REPEAT)));
                Some(self.halt_line(*id, *on, *issued, *cause))
            }
            Act::Heartbeat { at } => Some(self.line(0, "heartbeat", *at)),
            Act::Say { .. } | Act::EndOfAnswer { .. } | Act::Silence => None,
        }
    }

    /// The latched halt once more, if its time has come.
    pub fn repeat(&mut self, now: Nanos) -> Option<Value> {
        let (id, cause, due) = self.halt?;
        if now < due {
            return None;
        }
        self.halt = Some((id, cause, now.after(HALT_REPEAT)));
        Some(self.halt_line(id, true, now, cause))
    }

    /// When the halt is to be repeated.
    pub fn next_repeat(&self) -> Option<Nanos> {
        self.halt.map(|h| h.2)
    }

    fn based_on(&self, input: &BasedOn, at: Nanos) -> Value {
        let name = self.sources.get(usize::from(input.source.0)).map_or("unknown", String::as_str);
        json!({ "source": name, "seq": input.seq, "age_ms": at.since(input.captured).as_ms() })
    }

    fn halt_line(&self, id: ActionId, on: bool, issued: Nanos, cause: Nanos) -> Value {
        let mut line = self.line(id.0, if on { "halt" } else { "release" }, issued);
        line["args"] = json!({ "cause_ns": cause.0 });
        line
    }

    fn line(&self, id: u32, name: &str, issued: Nanos) -> Value {
        json!({
            "id": id, "name": name, "args": {}, "issued_ns": issued.0,
            "valid_until_ns": issued.after(self.valid).0, "based_on": [], "supersedes": null,
        })
    }
}

/// Sends lines to a receiver that may come and go. Never blocks: what the receiver does not take is counted.
#[derive(Debug)]
pub struct ActionSocket {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    connected: bool,
    retry: Nanos,
    told: bool,
    /// Lines sent.
    pub sent: u64,
    /// Lines that no receiver took.
    pub lost: u64,
}

impl ActionSocket {
    /// A sender to the datagram socket at `path`; nobody needs to listen there yet.
    pub fn new(path: &Path) -> ActionSocket {
        let socket = UnixDatagram::unbound().ok().filter(|s| s.set_nonblocking(true).is_ok());
        ActionSocket {
            path: path.to_owned(),
            socket,
            connected: false,
            retry: Nanos::ZERO,
            told: false,
            sent: 0,
            lost: 0,
        }
    }

    /// Sends one line.
    pub fn send(&mut self, now: Nanos, line: &Value) {
        if !self.connected && now >= self.retry {
            self.retry = now.after(RECONNECT);
            self.connected = self.socket.as_ref().is_some_and(|s| s.connect(&self.path).is_ok());
        }
        let outcome = match &self.socket {
            Some(socket) if self.connected => socket.send(line.to_string().as_bytes()).map(|_| ()),
            _ => Err(ErrorKind::NotConnected.into()),
        };
        match outcome {
            Ok(()) => {
                self.sent += 1;
                if std::mem::take(&mut self.told) {
                    tracing::info!(path = %self.path.display(), "the receiver of action lines is there");
                }
            }
            Err(why) => {
                self.lost += 1;
                // A full receiver is still there; any other error means it has gone.
                self.connected &= why.kind() == ErrorKind::WouldBlock;
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(path = %self.path.display(), %why, "nobody takes action lines; trying again each second");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ActionLine, Name, SourceId};

    fn lines() -> ActionLines {
        ActionLines::new(vec!["front".to_owned(), "mic".to_owned()], Nanos::from_ms(100))
    }

    fn go(id: u32) -> Act {
        let based = BasedOn { source: SourceId(1), seq: 77, captured: Nanos::from_ms(1_880) };
        Act::Do {
            id: ActionId(id),
            action: ActionLine {
                name: Name::from("go").unwrap_or_default(),
                target: Name::from("charger").unwrap_or_default(),
                direction: Name::new(),
            },
            issued: Nanos::from_ms(2_000),
            valid_until: Nanos::from_ms(3_000),
            based_on: [based].into_iter().collect(),
            supersedes: Some(ActionId(4)),
        }
    }

    #[test]
    fn an_action_line_says_all_a_receiver_needs() {
        let line = lines().accept(Nanos::from_ms(2_001), &go(5));
        let expected = r#"{"id":5,"name":"go","args":{"target":"charger"},"issued_ns":2000000000,"valid_until_ns":3000000000,"based_on":[{"source":"mic","seq":77,"age_ms":120}],"supersedes":4}"#;
        assert_eq!(line.map(|l| l.to_string()).as_deref(), Some(expected));
    }

    #[test]
    fn halt_is_repeated_until_it_is_released() {
        let mut lines = lines();
        let halt = |on| Act::Halt { id: ActionId(9), on, issued: Nanos::from_ms(50), cause: Nanos::from_ms(20) };
        let first = lines.accept(Nanos::from_ms(50), &halt(true)).unwrap_or_default();
        assert_eq!((&first["name"], &first["args"]["cause_ns"]), (&json!("halt"), &json!(20_000_000)));
        let repeats = (51..=550).filter_map(|ms| lines.repeat(Nanos::from_ms(ms))).collect::<Vec<_>>();
        assert_eq!(repeats.len(), 5);
        assert!(repeats.iter().all(|l| l["id"] == 9 && l["name"] == "halt"));
        assert_eq!(repeats[4]["issued_ns"], 550_000_000);
        let released = lines.accept(Nanos::from_ms(560), &halt(false)).unwrap_or_default();
        assert_eq!(released["name"], "release");
        assert_eq!(lines.repeat(Nanos::from_s(9)), None);
    }

    #[test]
    fn words_are_no_business_of_the_body() {
        assert_eq!(lines().accept(Nanos::ZERO, &Act::Silence), None);
    }

    #[test]
    fn a_receiver_may_come_late_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("actions");
        let mut sender = ActionSocket::new(&path);
        let beat = json!({ "name": "heartbeat" });
        sender.send(Nanos::from_s(1), &beat);
        assert_eq!((sender.sent, sender.lost), (0, 1));
        let receive = |socket: &UnixDatagram| {
            let mut buffer = [0u8; 256];
            socket.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned()).unwrap()
        };
        let receiver = UnixDatagram::bind(&path).unwrap();
        sender.send(Nanos::from_s(3), &beat);
        assert_eq!(receive(&receiver), r#"{"name":"heartbeat"}"#);
        drop(receiver);
        std::fs::remove_file(&path).unwrap();
        sender.send(Nanos::from_s(4), &beat);
        let receiver = UnixDatagram::bind(&path).unwrap();
        sender.send(Nanos::from_s(6), &beat);
        assert_eq!(receive(&receiver), r#"{"name":"heartbeat"}"#);
        assert_eq!((sender.sent, sender.lost), (2, 2));
    }
}

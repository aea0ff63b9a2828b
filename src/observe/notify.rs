//! What the service manager is told (sd_notify): READY, STATUS, WATCHDOG, STOPPING. Counters and sentences flow in;
//! datagrams flow out to the socket named by `NOTIFY_SOCKET`. Without it nothing is sent.
//!
//! READY means: the engines are loaded and the loop has ticked ten times; a missing device shows in STATUS and does not hold
//! it back. The watchdog is petted only while the tick's counter moves, so a loop that hangs is restarted even if this
//! thread lives.

use crate::types::Nanos;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Ticks before READY.
const READY_TICKS: u64 = 10;

/// The line to the service manager.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Half the watchdog's interval, if it watches us.
    pet_every: Option<Nanos>,
    next_pet: Nanos,
    ticks_at_pet: u64,
    ready: bool,
    stopping: bool,
    status: String,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as systemd sets them.
    pub fn from_environment() -> Notify {
        let mine = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let usec = std::env::var("WATCHDOG_USEC").ok().filter(|_| mine).and_then(|text| text.parse().ok());
        Notify::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), usec)
    }

    /// A line to this socket (a path, or an abstract name after `@`), with this watchdog interval in microseconds.
    pub fn new(socket: Option<&OsStr>, watchdog_us: Option<u64>) -> Notify {
        let socket = socket.filter(|name| !name.is_empty()).and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
                _ => SocketAddr::from_pathname(name),
            };
            let unbound = UnixDatagram::unbound().and_then(|s| s.set_nonblocking(true).map(|()| s));
            match (address, unbound) {
                (Ok(address), Ok(unbound)) => Some((unbound, address)),
                (Err(why), _) | (_, Err(why)) => {
                    tracing::warn!(%why, "NOTIFY_SOCKET cannot be used; the service manager is told nothing");
                    None
                }
            }
        });
        let pet_every = watchdog_us.filter(|us| *us > 0 && socket.is_some()).map(|us| Nanos::from_us(us / 2));
        Notify { socket, pet_every, ..Notify::default() }
    }

    /// Somebody listens.
    pub fn is_listened_to(&self) -> bool {
        self.socket.is_some()
    }

    /// Call this often (a quarter of the watchdog's interval, or ten times a second): says what is due.
    ///
    /// `ticks` is the loop's counter, `missing` names the devices that do not deliver.
    pub fn update(&mut self, now: Nanos, engines_loaded: bool, ticks: u64, missing: &[&str]) {
        if self.socket.is_none() || self.stopping {
            return;
        }
        let status = if !engines_loaded {
            "loading engines".to_owned()
        } else if ticks < READY_TICKS {
            "starting the loop".to_owned()
        } else if missing.is_empty() {
            "running; all devices deliver".to_owned()
        } else {
            format!("running; missing: {}", missing.join(", "))
        };
        let mut message = String::new();
        if !self.ready && engines_loaded && ticks >= READY_TICKS {
            self.ready = true;
            message.push_str("READY=1\n");
        }
        if status != self.status {
            // A newline would end the assignment.
            message.push_str(&format!("STATUS={}\n", status.replace('\n', " ")));
            self.status = status;
        }
        if let Some(every) = self.pet_every
            && now >= self.next_pet
            && (ticks > self.ticks_at_pet || !self.ready)
        {
            self.next_pet = now.after(every);
            self.ticks_at_pet = ticks;
            message.push_str("WATCHDOG=1\n");
        }
        self.send(&message);
    }

    /// The program is going to end.
    pub fn stopping(&mut self, why: &str) {
        if !self.stopping {
            self.stopping = true;
            self.send(&format!("STOPPING=1\nSTATUS={}\n", why.replace('\n', " ")));
        }
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = self.socket.as_ref().filter(|_| !message.is_empty())
            && let Err(why) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!(%why, "the service manager could not be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(dir: &tempfile::TempDir) -> (UnixDatagram, std::path::PathBuf) {
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, path)
    }

    /// All that has arrived, one line each.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let (mut lines, mut buffer) = (Vec::new(), [0u8; 512]);
        while let Ok(length) = socket.recv(&mut buffer) {
            lines.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        lines
    }

    #[test]
    fn ready_comes_after_ten_ticks_whatever_devices_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = manager(&dir);
        let mut notify = Notify::new(Some(path.as_os_str()), None);
        notify.update(Nanos::ZERO, false, 0, &[]);
        assert_eq!(heard(&socket), ["STATUS=loading engines"]);
        notify.update(Nanos::ZERO, true, 9, &["front"]);
        assert_eq!(heard(&socket), ["STATUS=starting the loop"]);
        notify.update(Nanos::ZERO, true, 10, &["front", "mic"]);
        assert_eq!(heard(&socket), ["READY=1", "STATUS=running; missing: front, mic"]);
        notify.update(Nanos::ZERO, true, 11, &["front", "mic"]);
        assert!(heard(&socket).is_empty(), "nothing is said twice");
        notify.update(Nanos::ZERO, true, 12, &[]);
        assert_eq!(heard(&socket), ["STATUS=running; all devices deliver"]);
        notify.stopping("SIGTERM");
        notify.update(Nanos::ZERO, true, 13, &["mic"]);
        assert_eq!(heard(&socket), ["STOPPING=1", "STATUS=SIGTERM"]);
    }

    #[test]
    fn the_watchdog_is_petted_only_while_ticks_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = manager(&dir);
        let mut notify = Notify::new(Some(path.as_os_str()), Some(2_000_000));
        let pets = |lines: Vec<String>| lines.iter().filter(|l| *l == "WATCHDOG=1").count();
        for k in 0..100 {
            notify.update(Nanos::from_ms(100 * k), true, 10 * k, &[]);
        }
        let alive = pets(heard(&socket));
        assert!((9..=11).contains(&alive), "about one a second: {alive}");
        for k in 100..200 {
            notify.update(Nanos::from_ms(100 * k), true, 990, &[]);
        }
        assert!(pets(heard(&socket)) <= 1, "the loop hangs");
        notify.update(Nanos::from_s(30), true, 991, &[]);
        assert_eq!(pets(heard(&socket)), 1);
    }

    #[test]
    fn abstract_sockets_work_and_no_socket_is_silence() {
        let name = format!("sage-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut notify = Notify::new(Some(OsStr::new(&format!("@{name}"))), None);
        notify.update(Nanos::ZERO, true, 10, &[]);
        assert_eq!(heard(&socket)[0], "READY=1");
        let mut silent = Notify::new(None, Some(1_000));
        silent.update(Nanos::ZERO, true, 10, &[]);
        assert!(!silent.is_listened_to());
    }
}

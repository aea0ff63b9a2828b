//! What the loop claims of the machine: real-time priority, locked memory, no deep idle states, a CPU of its own, exact
//! timers. `[realtime]` flows in; a report flows out that says of each claim whether it was achieved, and if not, why and
//! what to do.

use crate::config::RealtimeConfig;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// How one claim went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What was claimed.
    pub what: String,
    /// It holds now.
    pub achieved: bool,
    /// One sentence.
    pub sentence: String,
}

/// All claims of one thread.
#[derive(Debug, Default)]
pub struct Claims {
    /// In the order they were made.
    pub claims: Vec<Claim>,
    /// Holds the CPU out of deep idle states for as long as it is open.
    dma_latency: Option<File>,
}

impl Claims {
    /// Makes the calling thread the tick's thread, as far as the system allows. Nothing here is fatal.
    pub fn make(config: &RealtimeConfig) -> Claims {
        let mut claims = Claims::default();
        if config.lock_memory {
            claims.note("locked memory", lock_memory(), "raise LimitMEMLOCK (ulimit -l) or grant CAP_IPC_LOCK");
        }
        if let Some(cpu) = config.cpu {
            claims.note(&format!("CPU {cpu}"), pin(cpu), "name a CPU that is online and allowed for this process");
        }
        claims.note("timer slack 1 ns", timer_slack(), "the kernel's default of 50 µs stays");
        if config.priority > 0 {
            let what = format!("SCHED_FIFO priority {}", config.priority);
            claims.note(&what, fifo(config.priority), "raise LimitRTPRIO (ulimit -r) or grant CAP_SYS_NICE");
            let opened = open_dma_latency().map(|file| claims.dma_latency = Some(file));
            claims.note("no deep idle states", opened, "run as root or make /dev/cpu_dma_latency writable");
        }
        claims
    }

    /// Every claim was achieved.
    pub fn all_achieved(&self) -> bool {
        self.claims.iter().all(|claim| claim.achieved)
    }

    fn note(&mut self, what: &str, result: io::Result<()>, remedy: &str) {
        let sentence = match &result {
            Ok(()) => format!("{what}: achieved."),
            Err(error) => format!("{what}: refused ({error}); {remedy}."),
        };
        self.claims.push(Claim { what: what.to_owned(), achieved: result.is_ok(), sentence });
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Locks what is mapped, and what will be if nothing limits that: under a limit, a later allocation would fail instead.
fn lock_memory() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that the call only writes.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) })?;
    let unlimited = limit.rlim_cur == libc::RLIM_INFINITY || may_lock_all();
    let flags = if unlimited { libc::MCL_CURRENT | libc::MCL_FUTURE } else { libc::MCL_CURRENT };
    // SAFETY: mlockall takes no pointers; it only changes how this process's pages are kept.
    check(unsafe { libc::mlockall(flags) })
}

/// Whether the process has CAP_IPC_LOCK, which lifts the limit.
fn may_lock_all() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|caps| caps & CAP_IPC_LOCK != 0)
}

fn pin(cpu: u16) -> io::Result<()> {
    if usize::from(cpu) >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: cpu_set_t is plain data for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index was checked against CPU_SETSIZE above.
    unsafe { libc::CPU_SET(usize::from(cpu), &mut set) };
    // SAFETY: `set` is valid for the size given; 0 means the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) })
}

fn timer_slack() -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes one number and no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) })
}

fn fifo(priority: u8) -> io::Result<()> {
    let wanted = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: `wanted` is a valid sched_param; 0 means the calling thread. New threads start with ordinary scheduling.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &wanted) })
}

fn open_dma_latency() -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open("/dev/cpu_dma_latency")?;
    file.write_all(&0i32.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_cpu_is_refused_with_a_sentence_that_says_what_to_do() {
        let config = RealtimeConfig { priority: 0, lock_memory: false, cpu: Some(60_000), spin_us: 0 };
        let claims = Claims::make(&config);
        let cpu = claims.claims.iter().find(|claim| claim.what == "CPU 60000").expect("the claim is reported");
        assert!(!cpu.achieved && !claims.all_achieved());
        assert!(cpu.sentence.contains("refused") && cpu.sentence.contains("online"), "{}", cpu.sentence);
        assert!(claims.claims.iter().any(|claim| claim.what.starts_with("timer slack") && claim.achieved));
    }
}

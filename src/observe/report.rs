//! The report of a run: what `report.json` holds and the table people read. A finished `Tally` flows in; JSON and lines
//! flow out.

use super::Quantiles;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// Entries that lists in a report keep.
const KEPT: usize = 1_000;

/// A map with a fixed order of keys.
pub type Sorted<V> = BTreeMap<String, V>;

/// One line of a list: when, how old its input was, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since the first tick.
    pub t_s: f64,
    /// Age of what it rests on, ms.
    pub age_ms: u64,
    /// What.
    pub text: String,
}

/// The last 1,000 entries and how many there were.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EntryList {
    /// All of them, also those no longer kept.
    pub total: u64,
    /// The newest, oldest first.
    pub last: VecDeque<Entry>,
}

impl EntryList {
    /// Appends an entry; the oldest goes when there are more than 1,000.
    pub fn push(&mut self, mut entry: Entry) {
        entry.t_s = (entry.t_s * 1e3).round() / 1e3;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(entry);
        self.total += 1;
    }

    /// The newest entry.
    pub fn last(&self) -> Option<&Entry> {
        self.last.back()
    }
}

/// Jobs of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClassCounts {
    /// In time.
    pub kept: u64,
    /// Late, failed or expired.
    pub missed: u64,
    /// Wanted but never sent.
    pub shed: u64,
}

/// Reaction times, ms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Reactions {
    /// End of the spoken "stop" to silence and halt.
    pub stop: Quantiles,
    /// Capture of what shows a hazard to halt.
    pub hazard: Quantiles,
    /// End of an utterance to the first word of the reply.
    pub reply: Quantiles,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Ticks per second asked for.
    pub rate_hz: u32,
    /// First to last tick.
    pub seconds: f64,
    /// Ticks that ran.
    pub ticks: u64,
    /// Ticks that were skipped.
    pub ticks_missed: u64,
    /// Wake-up lateness.
    pub lateness_us: Quantiles,
    /// Wake-up to last command.
    pub tick_work_us: Quantiles,
    /// Reaction times.
    pub reaction_ms: Reactions,
    /// Per class; kept + missed are all jobs that were not superseded or shed.
    pub deadlines: Sorted<ClassCounts>,
    /// Times a job waited while another ran between two of its steps.
    pub preemptions: u64,
    /// Jobs replaced by newer ones before they started.
    pub superseded: u64,
    /// Jobs whose deadline passed before they started.
    pub expired: u64,
    /// Results that came too late and were not used.
    pub late_results: u64,
    /// Cancel to the lane being free.
    pub cancel_to_idle_us: Quantiles,
    /// Seconds per metabolic state.
    pub states: Sorted<f64>,
    /// Utterances.
    pub heard: EntryList,
    /// Changes of what the eye reports.
    pub seen: EntryList,
    /// Answers, cut where they were interrupted.
    pub said: EntryList,
    /// Actions, halts and refusals.
    pub actions: EntryList,
    /// BLAKE3 over all decisions.
    pub digest: String,
    /// BLAKE3 over the core's configuration.
    pub config_hash: String,
}

impl Report {
    /// The table that ends a run.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<22}{value}");
        };
        let spread = |q: &Quantiles, unit: &str| match q.n {
            0 => "none".to_owned(),
            n => format!("p50 {:.1}, p99 {:.1}, max {:.1} {unit} (n {n})", q.p50, q.p99, q.max),
        };
        row("ticks", format!("{} at {} Hz, {} missed", self.ticks, self.rate_hz, self.ticks_missed));
        row("lateness", spread(&self.lateness_us, "µs"));
        row("tick work", spread(&self.tick_work_us, "µs"));
        row("\"stop\" to halt", spread(&self.reaction_ms.stop, "ms"));
        row("hazard to halt", spread(&self.reaction_ms.hazard, "ms"));
        row("utterance to reply", spread(&self.reaction_ms.reply, "ms"));
        row("cancel to idle", spread(&self.cancel_to_idle_us, "µs"));
        for (class, counts) in &self.deadlines {
            row(
                &format!("deadlines {class}"),
                format!("{} kept, {} missed, {} shed", counts.kept, counts.missed, counts.shed),
            );
        }
        row(
            "preemptions",
            format!(
                "{} ({} superseded, {} expired, {} late results)",
                self.preemptions, self.superseded, self.expired, self.late_results
            ),
        );
        let states: Vec<String> = self.states.iter().map(|(name, s)| format!("{name} {s:.1} s")).collect();
        row("states", states.join(", "));
        row(
            "totals",
            format!(
                "{} heard, {} seen, {} said, {} actions",
                self.heard.total, self.seen.total, self.said.total, self.actions.total
            ),
        );
        row("digest", self.digest.clone());
        out
    }
}

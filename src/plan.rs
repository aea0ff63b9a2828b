//! Admission: does everything that a configuration names fit into the device's memory, and does every deadline hold?
//! A configuration, a device and a profile of step costs flow in; a table and a yes or no with its reasons flow out, before
//! anything is loaded. What is counted here is read from file headers, never from loaded networks.

mod memory;

pub use memory::{EngineMemory, engines};

use crate::config::Config;
use crate::dispatch::analysis::{Analysis, Finding};
use crate::dispatch::demands::{Assumptions, analyse_lanes, missing};
use crate::engine::profile::Profile;
use crate::types::{Capability, Class};
use serde::Serialize;
use std::fmt;

/// A machine that engines are to run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Memory that programs can get, bytes.
    pub memory_bytes: u64,
    /// Part of it that is kept for the system, the file cache and other programs, bytes.
    pub reserve_bytes: u64,
}

impl Device {
    /// Names that [`Device::named`] knows.
    pub const NAMES: [&'static str; 3] = ["this", "thor", "h200"];

    /// The device of that name. `this` reads the machine's memory from the system.
    pub fn named(name: &str) -> Option<Device> {
        let (memory_bytes, reserve_bytes) = match name {
            // Jetson AGX Thor: 128 GB of unified memory, of which its system shows 122 GB; the desktop-less system and the
            // CUDA context take about 4.
            "thor" => (122_000_000_000, 8_000_000_000),
            // NVIDIA H200: 141 GB of its own.
            "h200" => (141_000_000_000, 4_000_000_000),
            "this" => {
                let memory = this_machine_bytes()?;
                (memory, memory / 8)
            }
            _ => return None,
        };
        Some(Device { name: name.to_owned(), memory_bytes, reserve_bytes })
    }
}

/// `MemTotal` of Linux.
fn this_machine_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What a plan found.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Where it is to run.
    pub device: Device,
    /// What each network holds.
    pub engines: Vec<EngineMemory>,
    /// Step costs that the times rest on.
    pub profile: String,
    /// One analysis per lane.
    pub lanes: Vec<Analysis>,
    /// Capabilities without known step costs.
    pub unknown: Vec<Capability>,
    /// What a reader should know before trusting the figures.
    pub notes: Vec<String>,
}

impl Plan {
    /// Works out memory and times.
    ///
    /// # Errors
    /// One sentence: a network's files cannot be read.
    pub fn of(config: &Config, device: Device, profile: &Profile) -> Result<Plan, String> {
        let core = config.core();
        let mut notes = Vec::new();
        let own_mind = !config.engines.mind.as_os_str().is_empty();
        if own_mind && config.plan.profile.is_empty() {
            notes.push(format!(
                "step costs are those of {}, not of the configured mind; measure them and name the profile in [plan]",
                profile.name
            ));
        }
        let assumed: &Assumptions = &config.plan.assume;
        let engines = engines(config)?;
        notes.extend(engines.iter().filter_map(|engine| engine.note.clone()));
        Ok(Plan {
            device,
            engines,
            profile: profile.name.clone(),
            lanes: analyse_lanes(&core, profile, assumed),
            unknown: missing(&core, profile),
            notes,
        })
    }

    /// Memory held when everything is loaded, the reserve included, bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.engines.iter().map(EngineMemory::total).fold(self.device.reserve_bytes, u64::saturating_add)
    }

    /// The most that is held at any time: while a network that is copied in is loaded, its weights lie in memory twice.
    pub fn peak_bytes(&self) -> u64 {
        let twice = self.engines.iter().filter(|engine| engine.copied).map(|engine| engine.weights_bytes).max();
        self.resident_bytes().saturating_add(twice.unwrap_or(0))
    }

    /// Why the answer is no; empty for yes.
    pub fn refusals(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let (resident, peak, memory) = (self.resident_bytes(), self.peak_bytes(), self.device.memory_bytes);
        let name = &self.device.name;
        if resident > memory {
            let over = gigabytes(resident - memory);
            reasons.push(format!(
                "memory: {} are needed and {name} has {}, {over} too few; take a smaller or quantised model",
                gigabytes(resident),
                gigabytes(memory)
            ));
        } else if peak > memory {
            reasons.push(format!(
                "memory: all would fit once loaded ({}), but while its largest copied network is loaded {} are needed and \
                 {name} has {}; load it from mapped files, or first and alone",
                gigabytes(resident),
                gigabytes(peak),
                gigabytes(memory)
            ));
        }
        for capability in &self.unknown {
            reasons.push(format!(
                "time: profile {} has no step costs of {capability:?}; `sage bench engines --write FILE` measures them",
                self.profile
            ));
        }
        for (lane, analysis) in self.lanes.iter().enumerate() {
            // Background work has no promise to keep: it is shed first.
            let promised = |finding: &&Finding| !finding.holds() && finding.demand.class != Class::Background;
            for finding in analysis.findings.iter().filter(promised) {
                let worst = finding.response.map_or("has no bound".to_owned(), |response| {
                    format!("can come after {:.1} ms", response.0 as f64 / 1e6)
                });
                reasons.push(format!(
                    "time: {:?} on lane {lane} {worst}, its deadline is {:.1} ms",
                    finding.demand.capability,
                    finding.demand.deadline.0 as f64 / 1e6
                ));
            }
        }
        reasons
    }

    /// Whether the configuration is admitted.
    pub fn admits(&self) -> bool {
        self.refusals().is_empty()
    }
}

/// Bytes for people.
fn gigabytes(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        1..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory on {}:", self.device.name)?;
        writeln!(f, "  {:<20} {:>10} {:>10} {:>12} {:>10}", "", "weights", "KV", "activations", "total")?;
        for engine in &self.engines {
            writeln!(
                f,
                "  {:<20} {:>10} {:>10} {:>12} {:>10}",
                engine.name,
                gigabytes(engine.weights_bytes),
                gigabytes(engine.kv_bytes),
                gigabytes(engine.activation_bytes),
                gigabytes(engine.total())
            )?;
        }
        writeln!(f, "  {:<20} {:>45}", "reserve", gigabytes(self.device.reserve_bytes))?;
        let memory = gigabytes(self.device.memory_bytes);
        writeln!(f, "  {:<20} {:>45}  of {memory}", "needed", gigabytes(self.resident_bytes()))?;
        if self.peak_bytes() > self.resident_bytes() {
            writeln!(f, "  {:<20} {:>45}  of {memory}", "while loading", gigabytes(self.peak_bytes()))?;
        }
        for (lane, analysis) in self.lanes.iter().enumerate() {
            write!(f, "time on lane {lane}, costs of {}: {analysis}", self.profile)?;
        }
        let shed = |lane: &Analysis| lane.findings.iter().any(|f| !f.holds() && f.demand.class == Class::Background);
        if self.lanes.iter().any(shed) {
            writeln!(f, "note: background work can be late; it is shed first and is no reason for a no")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let reasons = self.refusals();
        if reasons.is_empty() {
            return writeln!(f, "yes: it fits and holds under these inputs");
        }
        writeln!(f, "no:")?;
        reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))
    }
}

#[cfg(test)]
mod tests;

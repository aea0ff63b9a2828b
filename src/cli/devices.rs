//! `sage devices`: lists cameras, microphones and loudspeakers, with the names to write in `sage.toml`.

use super::Verdict;
use serde_json::json;

/// Options of `sage devices`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// One line per device: kind, name for the configuration, what it calls itself, what it offers.
struct Entry {
    kind: &'static str,
    device: String,
    name: String,
    offers: String,
}

/// Lists the devices.
///
/// # Errors
/// Without the feature `live`: one sentence that says how to get it.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let entries = list()?;
    if args.json {
        let devices: Vec<_> = entries
            .iter()
            .map(|e| json!({ "kind": e.kind, "device": e.device, "name": e.name, "offers": e.offers }))
            .collect();
        println!("{}", json!({ "devices": devices }));
        return Ok(Verdict::Good);
    }
    if entries.is_empty() {
        println!("no camera, microphone or loudspeaker was found");
    }
    let width = entries.iter().map(|e| e.device.len()).max().unwrap_or(0);
    for entry in &entries {
        println!("{:<11}  {:<width$}  {} ({})", entry.kind, entry.device, entry.name, entry.offers);
    }
    Ok(Verdict::Good)
}

#[cfg(feature = "live")]
#[allow(clippy::unnecessary_wraps)] // as without the feature
fn list() -> anyhow::Result<Vec<Entry>> {
    let listed = crate::sense::devices::list();
    Ok(listed.into_iter().map(|l| Entry { kind: l.kind, device: l.device, name: l.name, offers: l.offers }).collect())
}

#[cfg(not(feature = "live"))]
fn list() -> anyhow::Result<Vec<Entry>> {
    Err(super::BadInput(crate::robot::sources::NO_LIVE.to_owned()).into())
}

//! `sage plan`: memory and response times against a device, before anything is loaded. A configuration flows in; a table, a yes
//! or a no with its reasons flow out. `sage run` asks the same question and refuses what is refused here.

use super::replay::find_profile;
use super::{BadInput, Verdict};
use crate::config::Config;
use crate::plan::{Device, Plan};
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;

/// The profile of the networks that ship.
const EMBEDDED: &str = "embedded-cpu";

/// Arguments of `sage plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; `sage config --default` prints one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// thor, h200 or this (the machine it runs on); default: what [plan] says.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Step costs: a profile's name or file; default: what [plan] says.
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The configuration, a network's files, the profile or the device's name cannot be used.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let mut config = Config::load(&args.config)?;
    if let Some(device) = &args.device {
        config.plan.device.clone_from(device);
    }
    if let Some(profile) = &args.profile {
        config.plan.profile.clone_from(profile);
    }
    let plan = plan_of(&config)?;
    let mut out = io::stdout().lock();
    if args.json {
        let answer = json!({
            "admitted": plan.admits(), "reasons": plan.refusals(), "resident_bytes": plan.resident_bytes(),
            "peak_bytes": plan.peak_bytes(), "plan": plan,
        });
        writeln!(out, "{answer}")?;
    } else {
        write!(out, "{plan}")?;
    }
    Ok(if plan.admits() { Verdict::Good } else { Verdict::CheckFailed })
}

fn plan_of(config: &Config) -> anyhow::Result<Plan> {
    let name = &config.plan.device;
    let Some(mut device) = Device::named(name) else {
        return Err(BadInput(format!("no device \"{name}\"; there are {}", Device::NAMES.join(", "))).into());
    };
    if config.plan.reserve_bytes > 0 {
        device.reserve_bytes = config.plan.reserve_bytes;
    }
    let profile = if config.plan.profile.is_empty() { EMBEDDED } else { &config.plan.profile };
    let profile = find_profile(profile)?;
    Ok(Plan::of(config, device, &profile).map_err(BadInput)?)
}

/// Refuses a configuration that a plan refuses.
///
/// # Errors
/// `BadInput` with every reason.
pub fn admit(config: &Config) -> anyhow::Result<()> {
    let reasons = plan_of(config)?.refusals();
    if reasons.is_empty() {
        return Ok(());
    }
    let text = format!("refused, `sage plan` shows the table: {}", reasons.join("; "));
    Err(BadInput(text).into())
}

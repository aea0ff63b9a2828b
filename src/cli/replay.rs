//! `sage replay`: runs a log again, to verify it or to simulate it, and prints what came of it.

use super::{BadInput, Verdict};
use crate::config::Config;
use crate::core::Core;
use crate::dispatch::virtual_lane::Faults;
use crate::engine::profile::Profile;
use crate::observe::{Report, Tally, Timing};
use crate::record::from_sensors::{FeatureReport, compare};
use crate::record::real::RealExtractors;
use crate::record::simulate::{Plan, Recording, config_of, simulate, with_sources_of};
use crate::record::verify::{Options, VerifyReport, session_of, verify};
use crate::record::{Limits, LogError, Mapping, Recorder, SensorLog, SessionInfo};
use crate::robot::engines::{LoadKind, load};
use crate::time::Virtual;
use crate::types::Nanos;
use anyhow::Context;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Name and text of the default profile.
const EMBEDDED: (&str, &str) = ("embedded-cpu", include_str!("../../engines/profiles/embedded-cpu.toml"));

/// Arguments of `sage replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The log: an MCAP file, or a folder of them.
    log: PathBuf,
    /// Run attention and scheduling again over the recorded features and results, and compare every decision. This is
    /// what happens without any choice.
    #[arg(long, conflicts_with = "simulate")]
    verify: bool,
    /// Also compute the features again from the recorded pixels and samples, and compare them to the byte.
    #[arg(long, conflicts_with = "simulate")]
    from_sensors: bool,
    /// Begin at the first keyframe at or after this tick.
    #[arg(long, value_name = "TICK", conflicts_with = "simulate")]
    from_tick: Option<u64>,
    /// Run the engines again on the log's frames and sound, under a virtual clock. Takes logs of others too.
    #[arg(long)]
    simulate: bool,
    /// Step costs for --simulate: a name under engines/profiles, or a TOML file.
    #[arg(long, value_name = "NAME|FILE", default_value = "embedded-cpu", requires = "simulate")]
    profile: String,
    /// Let step costs vary within the profile, from this seed.
    #[arg(long, value_name = "N", requires = "simulate")]
    seed: Option<u64>,
    /// Topic of a camera, for logs of others; may be given several times.
    #[arg(long, value_name = "TOPIC", requires = "simulate")]
    camera: Vec<String>,
    /// Topic of a microphone, for logs of others; may be given several times.
    #[arg(long, value_name = "TOPIC", requires = "simulate")]
    mic: Vec<String>,
    /// Configuration for --simulate; default: the recorded one, or the default one for logs of others.
    #[arg(long, value_name = "FILE", requires = "simulate")]
    config: Option<PathBuf>,
    /// Kernels of the engines: auto or scalar. Scalar gives the same digest on every machine.
    #[arg(long, value_name = "SET", value_parser = ["auto", "scalar"], requires = "simulate")]
    kernels: Option<String>,
    /// End the simulation after this much of the log, seconds.
    #[arg(long, value_name = "S", requires = "simulate")]
    seconds: Option<f64>,
    /// Also record the simulation: a file, or a folder that gets one.
    #[arg(long, value_name = "FILE|DIR", requires = "simulate")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of lines for people.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// `BadInput` for a file that is no log, or not one that can be replayed this way.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    if args.simulate { run_simulation(args) } else { run_verification(args) }
}

fn bad(error: LogError) -> anyhow::Error {
    BadInput(error.to_string()).into()
}

fn run_verification(args: &Args) -> anyhow::Result<Verdict> {
    let session = session_of(&args.log).map_err(bad)?;
    let mut tally = Tally::new(session.core.clone());
    let begun = Instant::now();
    let found = verify::<Core>(&args.log, Options { from_tick: args.from_tick }, &mut |inputs, outputs, woke, work| {
        let timing = Timing { lateness: woke.since(inputs.now), work };
        tally.tick(inputs, outputs, Some(timing));
    })
    .map_err(bad)?;
    let seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let features = match args.from_sensors {
        true => Some(compare(&args.log, RealExtractors::new).map_err(bad)?),
        false => None,
    };
    let features_seconds = begun.elapsed().as_secs_f64();
    let report = tally.report(found.digest.hex());
    let good = found.good() && features.as_ref().is_none_or(FeatureReport::good);
    let speed = speed(found.log_time, seconds);
    let mut out = io::stdout().lock();
    if args.json {
        let mut object = object(&report)?;
        object["mode"] = json!("verify");
        object["speed"] = json!(speed);
        object["mismatches"] = json!(found.mismatches + features.as_ref().map_or(0, |features| features.mismatches));
        object["first_mismatch"] = first(&found);
        object["incomplete_from"] = json!(found.incomplete_from);
        object["recorded_digest"] = json!(found.recorded_digest.map(|digest| digest.hex()));
        object["warnings"] = json!(found.warnings);
        if let Some(features) = &features {
            object["from_sensors"] = json!({
                "compared": features.compared, "unchecked": features.unchecked, "mismatches": features.mismatches,
                "incomplete_from": features.incomplete_from, "speed": self::speed(found.log_time, features_seconds),
                "first_mismatch": features.first.as_ref().map(|first| json!({
                    "tick": first.tick, "source": first.source, "seq": first.seq,
                    "recorded": first.recorded, "computed": first.computed,
                })),
            });
        }
        writeln!(out, "{object}")?;
    } else {
        print_verification(&mut out, &args.log, &found, speed)?;
        if let Some(features) = &features {
            print_features(&mut out, features, self::speed(found.log_time, features_seconds))?;
        }
    }
    Ok(if good { Verdict::Good } else { Verdict::CheckFailed })
}

/// How many times faster than real time, to one decimal.
fn speed(time: Nanos, seconds: f64) -> f64 {
    (time.as_s() / seconds.max(1e-9) * 10.0).round() / 10.0
}

fn object(report: &Report) -> anyhow::Result<Value> {
    serde_json::to_value(report).context("the report cannot be written as JSON")
}

fn first(found: &VerifyReport) -> Value {
    match found.first.first() {
        Some(first) => json!({ "tick": first.tick, "recorded": first.recorded, "replayed": first.replayed }),
        None => Value::Null,
    }
}

fn print_verification(out: &mut impl Write, log: &Path, found: &VerifyReport, speed: f64) -> io::Result<()> {
    for warning in &found.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let (from, to) = found.span.unwrap_or_default();
    let seconds = found.log_time.as_s();
    writeln!(
        out,
        "{}: {} ticks run again ({from} to {to}, {seconds:.1} s), {speed} x real time",
        log.display(),
        found.ticks
    )?;
    if found.unreached > 0 {
        writeln!(out, "{} ticks lie before the first keyframe and were not run", found.unreached)?;
    }
    for tick in &found.incomplete_from {
        writeln!(out, "incomplete from tick {tick} to the next keyframe: the recorder had to drop ticks")?;
    }
    for (n, mismatch) in found.first.iter().enumerate() {
        let which = if n == 0 { "first difference" } else { "also" };
        writeln!(out, "{which} in tick {}", mismatch.tick)?;
        writeln!(out, "  recorded: {}", mismatch.recorded)?;
        writeln!(out, "  replayed: {}", mismatch.replayed)?;
    }
    let same = match found.recorded_digest {
        Some(recorded) if recorded == found.digest => ", as in the live run",
        Some(_) => ", not that of the live run",
        None => "",
    };
    writeln!(out, "digest {}{same}", found.digest.hex())?;
    writeln!(out, "{}", if found.good() { "every decision is the same" } else { "decisions differ" })
}

fn print_features(out: &mut impl Write, found: &FeatureReport, speed: f64) -> io::Result<()> {
    for warning in &found.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(out, "{} payloads: features computed again and compared, {speed} x real time", found.compared)?;
    if let Some(tick) = found.incomplete_from {
        let n = found.unchecked;
        writeln!(
            out,
            "{n} features from tick {tick} on could not be compared: frames or sound before them are not in this log"
        )?;
    }
    if let Some(first) = &found.first {
        let tick = first.tick.map_or("no tick".to_owned(), |tick| format!("tick {tick}"));
        writeln!(out, "first difference in {tick}: payload {} of source {}", first.seq, first.source.0)?;
        writeln!(out, "  recorded: {}", first.recorded)?;
        writeln!(out, "  computed: {}", first.computed)?;
    }
    writeln!(out, "{}", if found.good() { "every feature is the same" } else { "features differ" })
}

fn run_simulation(args: &Args) -> anyhow::Result<Verdict> {
    let base = match &args.config {
        Some(file) => Config::load(file)?,
        None => Config::default(),
    };
    let mapping = Mapping { cameras: args.camera.clone(), mics: args.mic.clone() };
    let log = SensorLog::open(&args.log, &mapping).map_err(bad)?;
    let mut config = match args.config {
        Some(_) => with_sources_of(&log, base),
        None => config_of(&log, &base),
    };
    if let Some(kernels) = &args.kernels {
        config.engines.kernels.clone_from(kernels);
    }
    let profile = find_profile(&args.profile)?;
    let engines = load(&config.engines, LoadKind::Counted)?.engines;
    let mut tally = Tally::new(config.core());
    let limit = args.seconds.map(|seconds| Nanos((seconds.max(0.0) * 1e9) as u64));
    let plan = Plan { config, profile, seed: args.seed, faults: Faults::default(), limit };
    let recording = match &args.out {
        Some(path) => Some(recording(path, &plan, log.session())?),
        None => None,
    };
    let begun = Instant::now();
    let result = simulate(log, &plan, engines, recording, &mut |inputs, outputs| tally.tick(inputs, outputs, None))?;
    let speed = speed(result.time, begun.elapsed().as_secs_f64());
    let report = tally.report(result.digest.hex());
    let mut out = io::stdout().lock();
    if args.json {
        let mut object = object(&report)?;
        object["mode"] = json!("simulate");
        object["speed"] = json!(speed);
        object["mismatches"] = json!(0);
        object["profile"] = json!(plan.profile.name);
        object["seed"] = json!(plan.seed);
        object["notes"] = json!(result.notes);
        writeln!(out, "{object}")?;
    } else {
        for note in &result.notes {
            writeln!(out, "{note}")?;
        }
        let seconds = result.time.as_s();
        writeln!(
            out,
            "{}: {seconds:.1} s simulated at {speed} x real time, profile {}",
            args.log.display(),
            plan.profile.name
        )?;
        write!(out, "{}", report.table())?;
    }
    Ok(Verdict::Good)
}

/// A recorder for the simulation, on the Unix time of the log if that is known.
fn recording(path: &Path, plan: &Plan, of: Option<&SessionInfo>) -> anyhow::Result<Recording> {
    let clock = Virtual::default();
    let begun_unix = of.map_or(0, |session| session.unix(session.started) as i64);
    let session = SessionInfo {
        config: serde_json::to_value(&plan.config)?,
        seed: plan.seed.unwrap_or(0),
        ..SessionInfo::new(plan.config.core(), begun_unix, Nanos::ZERO)
    };
    let recorder = Recorder::create(path, session, Limits::default(), Arc::new(clock.clone()))
        .with_context(|| format!("the recording {}", path.display()))?;
    Ok(Recording { recorder, clock })
}

/// A profile by name or file.
pub(super) fn find_profile(name: &str) -> anyhow::Result<Profile> {
    let folder = crate::assets::root().join("engines/profiles");
    let direct = PathBuf::from(name);
    let file = if direct.is_file() { direct } else { folder.join(format!("{name}.toml")) };
    let read = std::fs::read_to_string(&file);
    // The default one is also built in, for a program that lies alone.
    let Ok(text) = read.or_else(|error| if name == EMBEDDED.0 { Ok(EMBEDDED.1.to_owned()) } else { Err(error) }) else {
        let mut known: Vec<String> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
            .collect();
        known.sort();
        let text = format!("profile {name}: no such profile; there are {}; a TOML file works too", known.join(", "));
        return Err(BadInput(text).into());
    };
    toml::from_str(&text).map_err(|error| BadInput(format!("{}: {error}", file.display())).into())
}

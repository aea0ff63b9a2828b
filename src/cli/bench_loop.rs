//! `sage bench loop` and `sage bench lateness`: what the loop costs, on the demo's scene. The scene is simulated once; its
//! ticks are then run again and again.

use super::bench::LoopArgs;
use super::language_model::resident_bytes;
use super::{BadInput, Verdict};
use crate::assets::scene_file;
use crate::config::{Config, CoreConfig, RealtimeConfig};
use crate::core::Core;
use crate::engine::profile::Profile;
use crate::observe::{Histogram, Tally};
use crate::record::simulate::{Plan, Simulated, config_of, simulate};
use crate::record::{Mapping, SensorLog};
use crate::robot::Claims;
use crate::robot::engines::{self, LoadKind};
use crate::sense::features::CameraFeatureExtractor;
use crate::time::{Clock, Monotonic, Ticker};
use crate::types::{Inputs, Nanos, Outputs, SourceId};
use anyhow::Context;
use std::path::Path;
use std::time::Instant;

/// Parts of the bench.
const PARTS: [&str; 6] = ["tick", "features", "growth", "verify", "simulate", "overload"];

/// Runs the parts asked for.
pub fn run(args: &LoopArgs) -> anyhow::Result<Verdict> {
    if let Some(unknown) = args.parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(BadInput(format!("no part \"{unknown}\"; there are {}", PARTS.join(", "))).into());
    }
    let wanted = |part: &str| args.parts.is_empty() || args.parts.iter().any(|asked| asked == part);
    let scene = scene_file("demo");
    if wanted("features") {
        features(&scene)?;
    }
    if wanted("simulate") {
        for (name, hz) in [("the eye on every frame", 0.0), ("the eye at 5 Hz", 5.0)] {
            let mut config = config_of(&open(&scene)?, &Config::default());
            (config.schedule.see_hz, config.schedule.see_crisis_hz) = (hz, hz);
            let begun = Instant::now();
            let done = simulated(&scene, config, args.seconds, &mut |_, _| {})?;
            let speed = done.time.as_s() / begun.elapsed().as_secs_f64();
            println!("simulate, {name}: {speed:.1} x real time, digest {}", &done.digest.hex()[..16]);
        }
    }
    if wanted("overload") {
        overload(&scene, args.seconds)?;
    }
    if ["tick", "growth", "verify"].into_iter().any(wanted) {
        let config = config_of(&open(&scene)?, &Config::default());
        let core = config.core();
        let mut ticks = Vec::new();
        simulated(&scene, config, args.seconds, &mut |inputs, _| ticks.push(inputs.clone()))?;
        if wanted("tick") {
            tick(&core, &ticks);
        }
        if wanted("verify") {
            let begun = Instant::now();
            let (mut again, mut out) = (Core::new(core.clone()), Outputs::default());
            ticks.iter().for_each(|inputs| again.tick(inputs, &mut out));
            let span = ticks.last().map_or(0.0, |last| last.now.as_s());
            println!(
                "decisions again (verify without the file): {:.0} x real time",
                span / begun.elapsed().as_secs_f64()
            );
        }
        if wanted("growth") {
            growth(&core, &ticks, args.ticks);
        }
    }
    Ok(Verdict::Good)
}

fn open(scene: &Path) -> anyhow::Result<SensorLog> {
    Ok(SensorLog::open(scene, &Mapping::default()).map_err(|error| BadInput(error.to_string()))?)
}

fn simulated(
    scene: &Path,
    config: Config,
    seconds: f64,
    observer: &mut dyn FnMut(&Inputs, &Outputs),
) -> anyhow::Result<Simulated> {
    let loaded = engines::load(&config.engines, LoadKind::Counted)?;
    let file = crate::assets::root().join("engines/profiles/embedded-cpu.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let profile: Profile = toml::from_str(&text).with_context(|| format!("{} is no profile", file.display()))?;
    let limit = Some(Nanos((seconds * 1e9) as u64));
    let plan = Plan { config, profile, seed: Some(1), faults: Default::default(), limit };
    Ok(simulate(open(scene)?, &plan, loaded.engines, None, observer)?)
}

/// Cost of a tick, features in and decisions out, over ticks with a new frame.
fn tick(config: &CoreConfig, ticks: &[Inputs]) {
    let mut framed = Histogram::default();
    for _ in 0..5 {
        let (mut core, mut out) = (Core::new(config.clone()), Outputs::default());
        for inputs in ticks {
            let begun = Instant::now();
            core.tick(inputs, &mut out);
            if !inputs.camera.is_empty() {
                framed.add(Nanos(begun.elapsed().as_nanos() as u64));
            }
        }
    }
    let q = framed.quantiles(1e3);
    println!("tick with a new frame: p50 {:.1}, p99 {:.1}, max {:.1} µs (n {})", q.p50, q.p99, q.max, q.n);
}

/// Cost of a frame's features, decoding apart.
fn features(scene: &Path) -> anyhow::Result<()> {
    let mut extractor = CameraFeatureExtractor::new(SourceId(0), 640, 480, 86.5);
    let mut all = Histogram::default();
    for payload in open(scene)?.take(2_000) {
        if let crate::record::Payload::Frame(_, frame) = payload {
            let begun = Instant::now();
            std::hint::black_box(extractor.extract(&frame));
            all.add(Nanos(begun.elapsed().as_nanos() as u64));
        }
    }
    let q = all.quantiles(1e3);
    println!("features of a 640 x 480 frame: p50 {:.0}, p99 {:.0}, max {:.0} µs (n {})", q.p50, q.p99, q.max, q.n);
    Ok(())
}

/// The last 10^5 ticks against ticks 10^4 to 10^5: the scene repeated, its instants moved on.
fn growth(config: &CoreConfig, ticks: &[Inputs], count: u64) {
    let (mut core, mut out) = (Core::new(config.clone()), Outputs::default());
    let day = ticks.last().map_or(1, |last| last.tick + 1);
    let period = config.period().0;
    let (mut early, mut late) = (0_u64, 0_u64);
    let resident = resident_bytes();
    let mut inputs = Inputs::default();
    for tick in 0..count {
        let moved = tick / day * day;
        inputs.clone_from(&ticks[(tick % day) as usize]);
        inputs.tick += moved;
        let later = Nanos(moved * period);
        inputs.now += later;
        inputs.camera.iter_mut().for_each(|features| features.captured += later);
        inputs.audio.iter_mut().for_each(|features| features.captured += later);
        if let Some(status) = &mut inputs.status {
            status.captured += later;
        }
        // Results name jobs of the first day; later days have none of them and must ignore them.
        let begun = Instant::now();
        core.tick(&inputs, &mut out);
        let took = begun.elapsed().as_nanos() as u64;
        if (10_000..100_000).contains(&tick) {
            early += took;
        }
        if tick >= count.saturating_sub(100_000) {
            late += took;
        }
    }
    let per = |total: u64, n: u64| total as f64 / n.max(1) as f64;
    let early = per(early, count.min(100_000).saturating_sub(10_000));
    let ratio = per(late, count.min(100_000)) / early.max(1.0);
    let grown = resident_bytes().saturating_sub(resident) / 1024;
    println!("growth over {count} ticks: last 10^5 / ticks 10^4 to 10^5 = {ratio:.3}, memory + {grown} KiB");
}

/// Offered synthetic load of twice the lane's capacity, simulated.
fn overload(scene: &Path, seconds: f64) -> anyhow::Result<()> {
    let mut config = config_of(&open(scene)?, &Config::default());
    config.schedule.load_ms_per_s = 2_000.0;
    let mut tally = Tally::new(config.core());
    let done = simulated(scene, config, seconds, &mut |inputs, outputs| tally.tick(inputs, outputs, None))?;
    let report = tally.report(done.digest.hex());
    println!("overload, 2 x offered, simulated: {} ticks, {} missed", report.ticks, report.ticks_missed);
    for (class, counts) in &report.deadlines {
        println!("  {class}: {} kept, {} missed, {} shed", counts.kept, counts.missed, counts.shed);
    }
    Ok(())
}

/// Wake-up lateness of the ticker with nothing to do.
pub fn lateness(rate_hz: u32, seconds: f64, priority: u8) -> anyhow::Result<Verdict> {
    let claims = Claims::make(&RealtimeConfig { priority, ..RealtimeConfig::default() });
    for claim in claims.claims.iter().filter(|claim| !claim.achieved) {
        eprintln!("{}", claim.sentence);
    }
    let period = Nanos(1_000_000_000 / u64::from(rate_hz.max(1)));
    let mut ticker = Ticker::new(Monotonic.now(), period, Nanos::ZERO);
    let (mut all, mut skipped) = (Histogram::default(), 0);
    for _ in 0..(seconds * f64::from(rate_hz)) as u64 {
        let beat = ticker.wait();
        all.add(beat.woke.since(beat.due));
        skipped += beat.skipped;
    }
    let q = all.quantiles(1e3);
    println!(
        "lateness at {rate_hz} Hz: p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} µs (n {}, {skipped} skipped)",
        q.p50, q.p99, q.p999, q.max, q.n
    );
    Ok(Verdict::Good)
}

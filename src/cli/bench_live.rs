//! `sage bench live`: whether a model that is busy costs the tick anything. The demo's scene plays again and again in real time,
//! by turns without engines and with engines under synthetic load; what both did is printed side by side.

use super::{BadInput, Verdict, demo, show};
use crate::assets::scene_file;
use crate::config::{Config, CoreConfig};
use crate::observe::{Report, Tally, Timing};
use crate::record::simulate::with_sources_of;
use crate::record::{Mapping, SensorLog};
use crate::robot::session::{self, Setup, Source, Watch};
use crate::robot::{Claim, TickRecord, request_release};
use crate::sense::feed::Payload;
use crate::types::Nanos;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A latched halt is released this often, so that the next "stop" can be measured too.
const RELEASE_EVERY: Nanos = Nanos::from_s(10);
/// Silence between two showings of the scene.
const PAUSE: Nanos = Nanos::from_s(3);

/// Arguments of `sage bench live`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each run takes, seconds.
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    seconds: f64,
    /// Pairs of runs: without engines, then with.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u32,
    /// Synthetic load offered, milliseconds of lane time per second; 2000 is twice a lane.
    #[arg(long, value_name = "MS", default_value_t = 2_000.0)]
    load: f32,
    /// Ticks per second.
    #[arg(long, value_name = "HZ", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let stop = show::stop_on_signals()?;
    let scene = scene_file("demo");
    for round in 1..=args.rounds {
        for engines in [false, true] {
            let report = one(args, &scene, engines, &stop)?;
            println!("round {round}, {}", if engines { "engines and load" } else { "no engines" });
            println!("{}", report.table());
            if stop.load(Ordering::Relaxed) {
                return Ok(Verdict::Good);
            }
        }
    }
    Ok(Verdict::Good)
}

fn one(args: &Args, scene: &Path, engines: bool, stop: &Arc<AtomicBool>) -> anyhow::Result<Report> {
    let log = SensorLog::open(scene, &Mapping::default()).map_err(|error| BadInput(error.to_string()))?;
    let mut config = with_sources_of(&log, Config::default());
    config.tick.rate_hz = args.rate;
    config.schedule.load_ms_per_s = if engines { args.load } else { 0.0 };
    let showing = Showing {
        scene: scene.to_owned(),
        log: Some(log),
        origin: None,
        begun: Nanos::ZERO,
        newest: Nanos::ZERO,
        first: [0; 2],
        next: [0; 2],
    };
    let setup = Setup {
        config,
        source: Source::Timeline { payloads: Box::new(showing), origin: Nanos::ZERO },
        engines,
        record: None,
        limit: Some(Nanos((args.seconds.max(1.0) * 1e9) as u64)),
        stop: Arc::clone(stop),
        seed: 0,
    };
    Ok(session::run(setup, &mut Releasing(Nanos::ZERO)).map_err(demo::refused)?.report)
}

/// The scene from time 0 on, over and over.
struct Showing {
    scene: PathBuf,
    log: Option<SensorLog>,
    /// The log's first instant.
    origin: Option<Nanos>,
    /// When this showing began.
    begun: Nanos,
    newest: Nanos,
    /// Sequence numbers of frames and blocks: where this showing's begin, and the next one's.
    first: [u64; 2],
    next: [u64; 2],
}

impl Iterator for Showing {
    type Item = (Nanos, Payload);

    fn next(&mut self) -> Option<Self::Item> {
        let mut next = self.log.as_mut()?.next_due();
        if next.is_none() {
            self.begun = self.newest.after(PAUSE);
            self.first = self.next;
            self.log = SensorLog::open(&self.scene, &Mapping::default()).ok();
            next = self.log.as_mut()?.next_due();
        }
        let (due, payload) = next?;
        let origin = *self.origin.get_or_insert(due);
        let begun = self.begun;
        let moved = |at: Nanos| begun.after(at.since(origin));
        self.newest = moved(due);
        let mut payload = Payload::from(payload);
        match &mut payload {
            Payload::Frame(_, frame) => {
                (frame.captured, frame.seq) = (moved(frame.captured), self.first[0] + frame.seq);
                self.next[0] = frame.seq + 1;
            }
            Payload::Sound(_, block) => {
                (block.captured, block.seq) = (moved(block.captured), self.first[1] + block.seq);
                self.next[1] = block.seq + 1;
            }
            Payload::Status(status) => status.captured = moved(status.captured),
        }
        Some((self.newest, payload))
    }
}

/// Watches nothing, but releases a halt now and then.
struct Releasing(Nanos);

impl Watch for Releasing {
    fn started(&mut self, _: &CoreConfig, claims: &[Claim], _: &[String]) {
        claims.iter().filter(|claim| !claim.achieved).for_each(|claim| eprintln!("{}", claim.sentence));
    }

    fn tick(&mut self, record: &TickRecord, _: Timing) {
        if record.inputs.now.since(self.0) >= RELEASE_EVERY {
            self.0 = record.inputs.now;
            request_release();
        }
    }

    fn refresh(&mut self, _: &mut Tally) {}

    fn note(&mut self, line: &str) {
        eprintln!("{line}");
    }
}

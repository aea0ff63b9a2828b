//! `sage bench engines`: what one step of each engine costs here, on the demo's scene. Step costs flow out as lines and, if
//! asked for, as a profile for simulations and plans.

use super::show::write_whole;
use super::{BadInput, Verdict};
use crate::assets::scene_file;
use crate::config::EnginesConfig;
use crate::engine::profile::{Profile, StepCost};
use crate::engine::{CancelToken, Engine, Progress, SensorReader, StepSink, step};
use crate::observe::Histogram;
use crate::record::{Mapping, Payload, SensorLog};
use crate::robot::engines::{self, LoadKind};
use crate::sense::store::SensorStore;
use crate::types::{Capability, Class, Job, JobId, JobInput, Nanos, Prompt, SourceId};
use anyhow::Context;
use std::path::Path;
use std::time::Instant;

/// What the mind is asked: a short answer and the longest.
const QUESTIONS: [&str; 3] = ["what do you see", "tell me your story", "give me the full report"];
/// The scene it is asked about.
const SCENE: &str = "scene: person left 1.8 m raising hand; obstacle none; charger right 3.0 m; battery 63 %";

struct Cost {
    steps: Histogram,
    most: u32,
}

/// Measures and prints.
pub fn run(write: Option<&Path>) -> anyhow::Result<Verdict> {
    let loaded = engines::load(&EnginesConfig::default(), LoadKind::Counted)?;
    let mut profile = Profile { name: "embedded-cpu".to_owned(), steps: Vec::new() };
    for mut engine in loaded.engines {
        if engine.capability() == Capability::Load {
            continue;
        }
        println!("{}", engine.describe());
        let cost = measure(engine.as_mut())?;
        let q = cost.steps.quantiles(1e3);
        println!(
            "  step p50 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0} µs; at most {} steps",
            q.p50, q.p99, q.p999, q.max, cost.most
        );
        profile.steps.push(StepCost {
            capability: engine.capability(),
            p50_us: q.p50.round().max(1.0) as f32,
            p999_us: q.p999.round().max(1.0) as f32,
            steps_max: cost.most,
        });
    }
    if let Some(file) = write {
        let text = toml::to_string(&profile).context("the profile cannot be written as TOML")?;
        let head = "# Step costs of the embedded networks, measured by: sage bench engines --write FILE\n";
        write_whole(file, format!("{head}{text}").as_bytes())?;
    }
    Ok(Verdict::Good)
}

fn measure(engine: &mut dyn Engine) -> anyhow::Result<Cost> {
    let mut cost = Cost { steps: Histogram::default(), most: 0 };
    let store = SensorStore::with_room(3, 16, 200);
    match engine.capability() {
        Capability::Reason => {
            for question in QUESTIONS {
                let prompt = Prompt::from(&format!("{SCENE}\n{question}")).unwrap_or_default();
                run_job(engine, &store, 0, JobInput::Ask { prompt, max_tokens: 400 }, &mut cost)?;
            }
        }
        Capability::Hear | Capability::See => {
            let scene = scene_file("demo");
            let log = SensorLog::open(&scene, &Mapping::default()).map_err(|error| BadInput(error.to_string()))?;
            for payload in log.take(3_000) {
                match payload {
                    Payload::Frame(source, frame) if engine.capability() == Capability::See => {
                        let seq = store.put_frame(source, frame).seq;
                        run_job(engine, &store, source.0, JobInput::Frame { seq }, &mut cost)?;
                    }
                    Payload::Audio(source, block) if engine.capability() == Capability::Hear => {
                        store.put_sound(source, &block);
                        // Two blocks a job, as the loop sends them.
                        if block.seq % 2 == 1 {
                            run_job(engine, &store, source.0, JobInput::Sound { upto_seq: block.seq }, &mut cost)?;
                        }
                    }
                    _ => {}
                }
            }
        }
        _ => (0..1_000).try_for_each(|_| run_job(engine, &store, 0, JobInput::None, &mut cost))?,
    }
    Ok(cost)
}

fn run_job(
    engine: &mut dyn Engine,
    sensors: &dyn SensorReader,
    source: u8,
    input: JobInput,
    cost: &mut Cost,
) -> anyhow::Result<()> {
    let job = Job {
        id: JobId(1),
        capability: engine.capability(),
        source: SourceId(source),
        generation: 1,
        class: Class::Background,
        input,
        created: Nanos::ZERO,
        deadline: Nanos::NEVER,
        fresh_until: Nanos::NEVER,
        credit_words: u16::MAX,
        based_on: Default::default(),
    };
    let mut session = engine.open(&job, sensors)?;
    let (cancel, mut sink) = (CancelToken::default(), StepSink::default());
    let mut steps = 0;
    loop {
        let begun = Instant::now();
        let progress = step(session.as_mut(), &cancel, &mut sink)?;
        cost.steps.add(Nanos(begun.elapsed().as_nanos() as u64));
        steps += 1;
        sink.products.clear();
        if progress == Progress::Done {
            break;
        }
    }
    cost.most = cost.most.max(steps);
    Ok(())
}

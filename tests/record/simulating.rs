//! The real core and the real features: a scene is recorded, simulated, recorded again, verified and searched for changes.

use crate::fake::OFFSET_NS;
use crate::mutate::{change_inputs, rewrite};
use crate::stub;
use sage::config::{CameraConfig, Config, MicrophoneConfig};
use sage::core::Core;
use sage::dispatch::virtual_lane::Faults;
use sage::record::from_sensors::compare;
use sage::record::real::RealExtractors;
use sage::record::simulate::{Plan, Recording, Simulated, config_of, simulate};
use sage::record::verify::{Options, VerifyReport, verify};
use sage::record::{Limits, Mapping, Recorder, SensorLog, SessionInfo};
use sage::sense::feed::Payload;
use sage::sense::scene::{Scene, timeline};
use sage::time::Virtual;
use sage::types::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECONDS: u64 = 14;

/// A session of `config` that begins at zero.
fn recorder(path: &Path, config: &Config, clock: &Virtual) -> Recorder {
    let session = SessionInfo {
        config: serde_json::to_value(config).unwrap(),
        ..SessionInfo::new(config.core(), OFFSET_NS, Nanos::ZERO)
    };
    Recorder::create(path, session, Limits::default(), Arc::new(clock.clone())).unwrap()
}

/// A log of the first seconds of a scene: only sensors, no ticks.
fn scene(dir: &Path) -> PathBuf {
    let config = Config {
        camera: vec![CameraConfig { fov_deg: 86.5, ..CameraConfig::default() }],
        microphone: vec![MicrophoneConfig::default()],
        ..Config::default()
    };
    let path = dir.join("scene.mcap");
    let clock = Virtual::default();
    let mut recorder = recorder(&path, &config, &clock);
    for (due, payload) in timeline(Scene::named("busy").unwrap()) {
        if due > Nanos::from_s(SECONDS) {
            break;
        }
        clock.set(due);
        match payload {
            Payload::Frame(source, frame) => recorder.frame(source, &frame),
            Payload::Sound(source, block) => recorder.audio(source, &block),
            Payload::Status(status) => recorder.status(&status),
        }
        recorder.poll();
    }
    recorder.close();
    path
}

fn run(scene: &Path, seed: Option<u64>, out: Option<&Path>) -> Simulated {
    let log = SensorLog::open(scene, &Mapping::default()).unwrap();
    let config = config_of(&log, &Config::default());
    assert_eq!(config.camera[0].fov_deg, 86.5, "the recorded configuration is used");
    let recording = out.map(|path| {
        let clock = Virtual::default();
        Recording { recorder: recorder(path, &config, &clock), clock }
    });
    let plan = Plan { config, profile: stub::profile(), seed, faults: Faults::default(), limit: None };
    simulate(log, &plan, stub::engines(), recording, &mut |_, _| {}).unwrap()
}

fn replay(path: &Path) -> VerifyReport {
    verify::<Core>(path, Options::default(), &mut |_, _, _, _| {}).unwrap()
}

#[test]
fn a_scene_simulates_verifies_and_every_change_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let scene = scene(dir.path());
    let log = dir.path().join("run.mcap");
    let first = run(&scene, Some(7), Some(&log));
    assert_eq!(first.notes, [] as [String; 0]);
    assert_eq!(first, run(&scene, Some(7), None), "the same seed gives the same run, recorded or not");
    assert_ne!(first.digest, run(&scene, Some(8), None).digest, "another seed another");
    assert!(first.time > Nanos::from_s(SECONDS), "{first:?}");

    let report = replay(&log);
    assert!(report.good(), "{:?}", report.first);
    assert_eq!((report.ticks, report.digest), (first.ticks, first.digest));
    assert_eq!(report.recorded_digest, Some(first.digest));
    assert!(report.keyframes >= 1);
    let late = verify::<Core>(&log, Options { from_tick: Some(1) }, &mut |_, _, _, _| {}).unwrap();
    assert!(late.good() && late.span.unwrap().0 == 1_000 && late.digest == first.digest, "{:?}", late.first);
    let features = compare(&log, RealExtractors::new).unwrap();
    assert!(features.good() && features.unchecked == 0, "{features:?}");
    assert!(features.compared > SECONDS * 55, "{}", features.compared);

    a_later_result_is_found(&log, &dir.path().join("later.mcap"));
    a_changed_configuration_is_found(&log, &dir.path().join("config.mcap"));
}

fn a_later_result_is_found(log: &Path, changed: &Path) {
    // The first result that more than a hundred ticks came before moves one tick on.
    let (mut moved, mut at) = (None, None);
    let change = |message: &mut sage::record::reader::Message| {
        if message.channel.topic == "/tick" && message.sequence > 100 {
            change_inputs(message, |inputs| match (&at, moved.take()) {
                (None, _) => {
                    let done = |event: &LaneEvent| matches!(event, LaneEvent::Done { .. });
                    if let Some(i) = inputs.events.iter().position(done) {
                        moved = Some(inputs.events.remove(i));
                        at = Some(inputs.tick);
                    }
                }
                (Some(_), Some(event)) => inputs.events.insert(0, event),
                _ => {}
            });
        }
        true
    };
    rewrite(log, changed, change, |_, _| {});
    let report = replay(changed);
    assert!(!report.good());
    assert_eq!(Some(report.first[0].tick), at, "{:?}", report.first);
}

fn a_changed_configuration_is_found(log: &Path, changed: &Path) {
    rewrite(
        log,
        changed,
        |_| true,
        |name, map| {
            if name == "session" {
                let mut core: sage::config::CoreConfig = serde_json::from_str(&map["core"]).unwrap();
                core.schedule.hear_every_ms += 20;
                map.insert("core".to_owned(), serde_json::to_string(&core).unwrap());
                map.insert("config_hash".to_owned(), core.hash());
            }
        },
    );
    let report = replay(changed);
    assert!(!report.good());
    // The state's hash begins with the configuration's, but a keyframe opens the log: what differs first is a decision.
    let first = &report.first[0];
    assert!(first.tick < 100 && first.recorded != first.replayed, "{first:?}");
}

//! A replay agrees with the run, and finds every change at its tick.

use crate::fake::*;
use crate::mutate::{change_inputs, rewrite};
use sage::record::Limits;
use sage::record::from_sensors::compare;
use sage::record::proto::{CompressedImage, RawAudio, RawImage};
use sage::record::verify::{Options, VerifyReport, verify};
use std::path::Path;

fn replay(path: &Path, options: Options) -> VerifyReport {
    verify::<FakeCore>(path, options, &mut |_, _, _, _| {}).unwrap()
}

fn recorded(plan: &Plan) -> (tempfile::TempDir, std::path::PathBuf, Made) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    let made = record(&path, plan);
    (dir, path, made)
}

#[test]
fn the_digest_of_the_live_run_comes_out_again() {
    let (_dir, path, made) = recorded(&Plan::default());
    let mut seen = 0;
    let report = verify::<FakeCore>(&path, Options::default(), &mut |inputs, _, woke, work| {
        assert_eq!((inputs.tick, (woke - inputs.now).0, work.0), (seen, 40_000, 15_000));
        seen += 1;
    })
    .unwrap();
    assert!(report.good(), "{:?}", report.first);
    assert_eq!((report.ticks, report.span, seen), (400, Some((0, 399)), 400));
    assert_eq!(report.digest, made.digest);
    assert_eq!(report.recorded_digest, Some(made.digest));
    assert_eq!(report.keyframes, 3); // the one at tick 0 starts the core, three are compared
    assert!(report.incomplete_from.is_empty() && report.warnings.is_empty());
}

#[test]
fn it_works_from_any_keyframe() {
    let (_dir, path, made) = recorded(&Plan::default());
    for (from, first) in [(1, 100), (100, 100), (101, 200), (300, 300)] {
        let report = replay(&path, Options { from_tick: Some(from) });
        assert!(report.good(), "{:?}", report.first);
        assert_eq!(report.span, Some((first, 399)));
        assert_eq!(report.digest, made.digest);
    }
}

#[test]
fn each_file_of_a_rotated_recording_verifies_alone_and_all_together() {
    let limits = Limits { max_bytes: 60_000, ..Limits::default() };
    let (dir, _, made) = recorded(&Plan { limits, ..Plan::default() });
    assert!(made.summary.files.len() >= 3, "{:?}", made.summary.files);
    let (mut ticks, mut end) = (0, 0);
    for file in &made.summary.files {
        let report = replay(file, Options::default());
        assert!(report.good(), "{:?}", report.first);
        assert_eq!(report.span.unwrap().0, end);
        (ticks, end) = (ticks + report.ticks, report.span.unwrap().1 + 1);
    }
    assert_eq!(ticks, 400);
    let all = replay(dir.path(), Options::default());
    assert!(all.good() && all.ticks == 400 && all.incomplete_from.is_empty(), "{all:?}");
    assert_eq!(all.digest, made.digest);
}

#[test]
fn a_disk_that_refuses_a_file_costs_what_falls_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    // The second file cannot be made: a folder is in its place. Nobody removes it, so the rest is lost, and said.
    std::fs::create_dir(dir.path().join("run-001.mcap")).unwrap();
    let limits = Limits { max_bytes: 60_000, ..Limits::default() };
    let made = record(&path, &Plan { limits, ..Plan::default() });
    assert!(made.summary.stopped.as_ref().is_some_and(|why| why.contains("directory")), "{:?}", made.summary.stopped);
    assert_eq!(made.summary.ticks + made.summary.lost["/tick"], 400);
    let report = replay(&path, Options::default());
    assert!(report.good(), "{:?}", report.first);
    assert_eq!(report.ticks, made.summary.ticks);
}

#[test]
fn a_log_that_a_crash_left_verifies_up_to_its_end() {
    let (_dir, path, made) = recorded(&Plan { close: false, ..Plan::default() });
    let report = replay(&path, Options::default());
    assert!(report.good(), "{:?}", report.first);
    // At most the last second was not on its way to the disk.
    assert!(report.ticks >= 300 && report.ticks <= made.summary.ticks, "{}", report.ticks);
    assert_eq!(report.recorded_digest, None);
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

#[test]
fn a_result_that_came_one_tick_later_is_found_at_its_tick() {
    let (dir, path, _) = recorded(&Plan::default());
    let changed = dir.path().join("changed.mcap");
    let mut moved = None;
    let change = |message: &mut sage::record::reader::Message| {
        if message.channel.topic == "/tick" {
            match message.sequence {
                132 => change_inputs(message, |inputs| moved = inputs.events.pop()),
                133 => change_inputs(message, |inputs| inputs.events.extend(moved.take())),
                _ => {}
            }
        }
        true
    };
    rewrite(&path, &changed, change, |_, _| {});
    let report = replay(&changed, Options::default());
    assert!(!report.good());
    let first = &report.first[0];
    assert_eq!(first.tick, 132);
    assert!(first.recorded.contains("\"job\":132") && !first.replayed.contains("\"job\":132"), "{first:?}");
    assert_eq!(report.mismatches, 1, "from the next keyframe on all is well again");
}

#[test]
fn one_changed_configuration_value_is_found() {
    let (dir, path, _) = recorded(&Plan::default());
    let changed = dir.path().join("changed.mcap");
    // With this threshold more blocks attract attention: the first is the block of tick 11, level -988 cdB against -990.
    let change = |hash_too: bool| {
        move |name: &str, map: &mut std::collections::BTreeMap<String, String>| {
            if name == "session" {
                let mut core: sage::config::CoreConfig = serde_json::from_str(&map["core"]).unwrap();
                core.gate.halt_range_mm = 990;
                map.insert("core".to_owned(), serde_json::to_string(&core).unwrap());
                if hash_too {
                    map.insert("config_hash".to_owned(), core.hash());
                }
            }
        }
    };
    rewrite(&path, &changed, |_| true, change(false));
    let report = replay(&changed, Options::default());
    assert!(report.first[0].replayed.contains("configuration"), "{:?}", report.first);
    rewrite(&path, &changed, |m| m.channel.topic != "/keyframe", change(true));
    let report = replay(&changed, Options::default());
    assert_eq!(report.mismatches, 1);
    let quiet_block = FakeExtractorsLevel::first_between(-990, -350);
    assert_eq!(report.first[0].tick, quiet_block, "{:?}", report.first);
}

/// Which tick first takes in a block whose level lies between the two thresholds.
struct FakeExtractorsLevel;

impl FakeExtractorsLevel {
    fn first_between(low: i16, high: i16) -> u64 {
        use sage::record::from_sensors::Extractors;
        let level = |n| FakeExtractors::default().audio(MIC, &block(n)).level_cdb;
        (0..200).find(|n| level(*n) > low && level(*n) <= high).unwrap() * 2 + 1
    }
}

#[test]
fn lost_ticks_make_a_log_incomplete_not_wrong() {
    let (_dir, path, _) = recorded(&Plan { lose: 150..153, ..Plan::default() });
    let report = replay(&path, Options::default());
    assert_eq!(report.mismatches, 0, "{:?}", report.first);
    assert_eq!(report.incomplete_from, [150]);
    // 0 to 149, and from the next keyframe to the end.
    assert_eq!((report.ticks, report.span), (350, Some((0, 399))));
}

#[test]
fn features_come_out_of_pixels_and_samples_again() {
    for jpeg in [true, false] {
        let (_dir, path, _) = recorded(&Plan { jpeg, ..Plan::default() });
        let report = compare(&path, |_| FakeExtractors::default()).unwrap();
        assert!(report.good(), "{:?}", report.first);
        assert_eq!((report.compared, report.unchecked), (240, 0));
    }
}

#[test]
fn one_changed_sensor_byte_is_found_at_the_tick_that_took_it_in() {
    use prost::Message as _;
    for jpeg in [true, false] {
        let (dir, path, _) = recorded(&Plan { jpeg, ..Plan::default() });
        let changed = dir.path().join("changed.mcap");
        // One bit of one pixel, too little to move any mean; or one byte of the JPEG.
        let change_frame = |message: &mut sage::record::reader::Message| {
            if message.channel.topic == "/camera/front" && message.sequence == 17 {
                if jpeg {
                    let mut image = CompressedImage::decode(message.data.as_slice()).unwrap();
                    let middle = image.data.len() * 2 / 3;
                    image.data[middle] ^= 1;
                    message.data = image.encode_to_vec();
                } else {
                    let mut image = RawImage::decode(message.data.as_slice()).unwrap();
                    image.data[100] ^= 1;
                    message.data = image.encode_to_vec();
                }
            }
            true
        };
        rewrite(&path, &changed, change_frame, |_, _| {});
        let report = compare(&changed, |_| FakeExtractors::default()).unwrap();
        assert_eq!(report.first.as_ref().unwrap().tick, Some(173), "{:?}", report.first);
    }
    let (dir, path, _) = recorded(&Plan::default());
    for topic in ["/mic/mic", "/played/mic"] {
        let changed = dir.path().join("changed.mcap");
        let change_sample = |message: &mut sage::record::reader::Message| {
            if message.channel.topic == topic && message.sequence == 88 {
                let mut audio = RawAudio::decode(message.data.as_slice()).unwrap();
                audio.data[600] ^= 1;
                message.data = audio.encode_to_vec();
            }
            true
        };
        rewrite(&path, &changed, change_sample, |_, _| {});
        let report = compare(&changed, |_| FakeExtractors::default()).unwrap();
        assert_eq!(report.first.as_ref().unwrap().tick, Some(177), "{topic}: {:?}", report.first);
        assert_eq!(report.mismatches, 1);
    }
}

#[test]
fn raw_sensors_that_were_not_recorded_are_counted_as_unchecked() {
    let (dir, path, _) = recorded(&Plan::default());
    let changed = dir.path().join("changed.mcap");
    let drop_frame = |m: &mut sage::record::reader::Message| m.channel.topic != "/camera/front" || m.sequence != 20;
    rewrite(&path, &changed, drop_frame, |_, _| {});
    let report = compare(&changed, |_| FakeExtractors::default()).unwrap();
    assert_eq!(report.mismatches, 0, "{:?}", report.first);
    assert_eq!(report.incomplete_from, Some(203));
    assert!(report.unchecked >= 1 && report.compared >= 200);
}

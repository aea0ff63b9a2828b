//! What a recording holds.

use crate::fake::*;
use sage::record::reader::{Item, LogReader};
use sage::record::{Limits, Mapping, Payload, RecordThread, Recorder, SensorLog, SessionInfo};
use sage::time::Virtual;
use sage::types::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Messages per topic.
fn topics(path: &std::path::Path) -> BTreeMap<String, u64> {
    let mut reader = LogReader::open(path).unwrap();
    let mut topics = BTreeMap::new();
    while let Some(item) = reader.next_item() {
        if let Item::Message(message) = item {
            *topics.entry(message.channel.topic.clone()).or_default() += 1;
        }
    }
    assert_eq!(reader.warnings(), [] as [String; 0]);
    topics
}

#[test]
fn every_payload_comes_back_to_the_byte_and_the_nanosecond() {
    let dir = tempfile::tempdir().unwrap();
    for jpeg in [true, false] {
        let path = dir.path().join(format!("run-{jpeg}.mcap"));
        record(&path, &Plan { jpeg, ..Plan::default() });
        let (mut frames, mut blocks, mut reports, mut last) = (0, 0, 0, Nanos::ZERO);
        let mut log = SensorLog::open(&path, &Mapping::default()).unwrap();
        while let Some((due, payload)) = log.next_due() {
            assert!(due >= last, "payloads come in order of delivery");
            last = due;
            let waited = due - payload.captured();
            assert!(waited <= Nanos::from_ms(30), "as long as the live run waited: {waited:?}");
            match payload {
                Payload::Frame(source, back) => {
                    let live = frame(frames, jpeg);
                    assert_eq!(source, CAMERA);
                    assert_eq!((back.seq, back.captured, back.stamp), (live.seq, live.captured, live.stamp));
                    assert!(back.bytes == live.bytes && back.jpeg == live.jpeg);
                    frames += 1;
                }
                Payload::Audio(source, back) => {
                    let live = block(blocks);
                    assert_eq!(source, MIC);
                    assert_eq!((back.seq, back.captured, back.stamp), (live.seq, live.captured, live.stamp));
                    assert!(back.samples == live.samples && back.played == live.played);
                    blocks += 1;
                }
                Payload::Status(status) => {
                    assert_eq!(status.battery_percent, Some(80));
                    reports += 1;
                }
            }
        }
        assert_eq!((frames, blocks, reports), (40, 200, 4));
    }
}

#[test]
fn the_mcap_library_reads_it_with_index_and_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    let made = record(&path, &Plan::default());
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(made.summary.bytes, bytes.len() as u64);
    let summary = mcap::Summary::read(&bytes).unwrap().expect("a summary");
    assert!(
        summary.chunk_indexes.iter().all(|chunk| chunk.uncompressed_size <= 70_000 && chunk.compression.is_empty())
    );
    assert!(summary.chunk_indexes.len() > 3);
    let by_topic: BTreeMap<_, _> =
        summary.channels.values().map(|c| (c.topic.clone(), c.schema.as_ref().unwrap().clone())).collect();
    assert_eq!(by_topic["/camera/front"].name, "foxglove.CompressedImage");
    assert_eq!(by_topic["/mic/mic"].name, "foxglove.RawAudio");
    assert_eq!(by_topic["/decision"].encoding, "jsonschema");
    let schema: serde_json::Value = serde_json::from_slice(&by_topic["/decision"].data).unwrap();
    assert_eq!(schema["type"], "object");
    assert!(by_topic.values().all(|schema| !schema.data.is_empty()));
    for message in mcap::MessageStream::new(&bytes).unwrap() {
        let message = message.unwrap();
        if message.channel.topic == "/camera/front" {
            // Capture is publish_time, recording is log_time, both Unix.
            let live = frame(u64::from(message.sequence), true);
            assert_eq!(message.publish_time as i64, live.captured.0 as i64 + OFFSET_NS);
            assert!(message.log_time as i64 >= START.0 as i64 + OFFSET_NS);
        }
    }
}

#[test]
fn topics_that_people_look_at_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    record(&path, &Plan::default());
    let topics = topics(&path);
    assert_eq!(topics["/tick"], 400);
    assert_eq!(topics["/camera/front"], 40);
    assert_eq!(topics["/features/front"], 40);
    assert_eq!(topics["/features/mic"], 200);
    assert_eq!(topics["/played/mic"], 50);
    assert_eq!(topics["/result"], 16);
    assert_eq!(topics["/keyframe"], 4);
    assert_eq!(topics["/state"], 40); // ten a second
    assert!(topics["/decision"] > 16);
}

#[test]
fn a_full_disk_costs_raw_sensors_and_no_decision() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    let limits = Limits { keep_free_bytes: u64::MAX, ..Limits::default() };
    let made = record(&path, &Plan { limits, ..Plan::default() });
    let topics = topics(&path);
    assert_eq!(topics["/tick"], 400);
    // The first second is recorded before the disk is looked at.
    assert!(topics["/camera/front"] <= 11, "{topics:?}");
    assert_eq!(topics["/camera/front"] + made.summary.lost["/camera/front"], 40);
    assert!(topics.contains_key("/gap") && topics.contains_key("/log"));
}

#[test]
fn raw_false_records_features_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    let made = record(&path, &Plan { limits: Limits { raw: false, ..Limits::default() }, ..Plan::default() });
    let topics = topics(&path);
    assert!(!topics.contains_key("/camera/front") && topics["/features/front"] == 40);
    assert!(made.summary.lost.is_empty(), "what was not asked for is not lost");
    let error = SensorLog::open(&path, &Mapping::default()).err().unwrap().to_string();
    assert!(error.contains("raw = false"), "{error}");
}

#[test]
fn the_thread_records_what_it_is_given_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    let session = SessionInfo::new(config(), OFFSET_NS, START);
    let clock = Arc::new(Virtual::default());
    let recorder = Recorder::create(&path, session, Limits::default(), clock).unwrap();
    let mut handle = RecordThread::start(recorder).unwrap();
    handle.tick.keyframe(0, b"state");
    for tick in 0..5_000 {
        let inputs = Inputs { tick, now: Nanos(tick * 1_000_000), ..Inputs::default() };
        assert!(handle.tick.tick(&inputs, &Outputs::default(), inputs.now, Nanos(1)));
        if tick % 100 == 0 {
            handle.sensors.audio(MIC, &block(tick / 100));
        }
    }
    let summary = handle.thread.close();
    assert_eq!(summary.ticks, 5_000);
    assert!(summary.lost.is_empty(), "{:?}", summary.lost);
    let mut reader = LogReader::open(&path).unwrap().only(|channel| channel.topic == "/tick");
    let mut expected = 0;
    while let Some(item) = reader.next_item() {
        if let Item::Message(message) = item {
            assert_eq!(message.sequence, expected);
            expected += 1;
        }
    }
    assert_eq!(expected, 5_000);
    assert_eq!(topics(&path)["/mic/mic"], 50);
}

//! Logs that other programs recorded.

use mcap::records::MessageHeader;
use prost::Message as _;
use sage::record::proto::{CompressedImage, RawAudio, RawImage, Timestamp};
use sage::record::{Mapping, Payload, SensorLog};
use sage::types::*;
use std::path::{Path, PathBuf};

/// A log in the making.
struct Log {
    path: PathBuf,
    writer: mcap::Writer<std::io::BufWriter<std::fs::File>>,
}

impl Log {
    fn new(dir: &Path, compression: Option<mcap::Compression>) -> Log {
        let path = dir.join("foreign.mcap");
        let file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        let writer = mcap::WriteOptions::new().compression(compression).chunk_size(Some(40_000)).create(file).unwrap();
        Log { path, writer }
    }

    fn put(&mut self, topic: &str, schema: &str, encoding: &str, times: (u64, u64), data: &[u8]) {
        let schema_id = if schema.is_empty() { 0 } else { self.writer.add_schema(schema, encoding, b"x").unwrap() };
        let channel_id = self.writer.add_channel(schema_id, topic, encoding, &Default::default()).unwrap();
        let header = MessageHeader { channel_id, sequence: 0, log_time: times.0, publish_time: times.1 };
        self.writer.write_to_known_channel(&header, data).unwrap();
    }

    fn done(mut self) -> PathBuf {
        self.writer.finish().unwrap();
        self.path
    }
}

const UNIX: u64 = 1_750_000_000_000_000_000;

fn cdr_image(at: u64, shade: u8) -> Vec<u8> {
    let mut body = vec![0, 1, 0, 0];
    for word in [(at / 1_000_000_000) as u32, (at % 1_000_000_000) as u32, 4] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.extend_from_slice(b"cam\0");
    for word in [4u32, 6, 6] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.extend_from_slice(b"mono8\0\0\0\0\0\0\0"); // text, padding, is_bigendian, padding
    body.truncate(4 + 12 + 4 + 12 + 6 + 1 + 1);
    body.extend_from_slice(&6u32.to_le_bytes());
    body.extend_from_slice(&24u32.to_le_bytes());
    body.extend_from_slice(&[shade; 24]);
    body
}

fn audio(at: u64, rate_hz: u32, channels: u32, frames: usize) -> Vec<u8> {
    let data = (0..frames * channels as usize).flat_map(|i| ((i % 100) as i16).to_le_bytes()).collect();
    let timestamp = Some(Timestamp::from_unix(at));
    let format = "pcm-s16".to_owned();
    RawAudio { timestamp, data, format, sample_rate: rate_hz, number_of_channels: channels }.encode_to_vec()
}

struct Read {
    frames: Vec<Frame>,
    blocks: Vec<AudioBlock>,
    notes: Vec<String>,
}

fn read(path: &Path, mapping: &Mapping) -> Read {
    let mut log = SensorLog::open(path, mapping).unwrap();
    let (mut frames, mut blocks) = (Vec::new(), Vec::new());
    for payload in log.by_ref() {
        match payload {
            Payload::Frame(_, frame) => frames.push(frame),
            Payload::Audio(_, block) => blocks.push(block),
            Payload::Status(_) => {}
        }
    }
    Read { frames, blocks, notes: log.notes() }
}

fn interval_ms(frames: &[Frame]) -> f64 {
    (frames.last().unwrap().captured - frames[0].captured).0 as f64 / 1e6 / (frames.len() - 1) as f64
}

#[test]
fn ros_images_and_foxglove_sound_in_any_chunk_compression() {
    for compression in [None, Some(mcap::Compression::Lz4), Some(mcap::Compression::Zstd)] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), compression);
        for i in 0..50u64 {
            let at = UNIX + i * 100_000_000;
            log.put("/cam/image_raw", "sensor_msgs/msg/Image", "cdr", (at + 9_000_000, at), &cdr_image(at, i as u8));
            log.put("/imu", "sensor_msgs/msg/Imu", "cdr", (at, at), &[0; 40]);
            log.put("/odd", "", "whatever", (at, at), b"?");
            log.put("/audio", "foxglove.RawAudio", "protobuf", (at, at), &audio(at, 48_000, 2, 4_800));
        }
        let read = read(&log.done(), &Mapping::default());
        assert_eq!(read.frames.len(), 50);
        assert_eq!(read.frames[7].bytes, [7; 72]);
        assert_eq!((read.frames[0].width, read.frames[0].height), (6, 4));
        assert_eq!((read.frames[0].captured, read.frames[1].captured), (Nanos::from_s(1), Nanos::from_ms(1_100)));
        // 5 s of sound: 250 blocks, less what the filter still holds.
        assert_eq!(read.blocks.len(), 249);
        assert_eq!(read.blocks[100].captured, Nanos::from_s(3));
        assert!(read.blocks.iter().zip(0..).all(|(block, n)| block.seq == n));
        assert_eq!(read.notes.len(), 2, "{:?}", read.notes);
        assert!(read.notes[0].contains("/cam/image_raw") && read.notes[0].contains("guess"));
        assert!(read.notes[1].contains("/audio"));
    }
}

#[test]
fn topics_are_taken_as_asked_and_wrong_ones_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), None);
    for i in 0..20u64 {
        let at = UNIX + i * 50_000_000;
        for (topic, shade) in [("/a", 1), ("/b", 2), ("/depth/image", 3)] {
            log.put(topic, "sensor_msgs/msg/Image", "cdr", (at, at), &cdr_image(at, shade));
        }
    }
    let path = log.done();
    let guessed = read(&path, &Mapping::default());
    assert_eq!(guessed.frames[0].bytes[0], 1);
    assert!(guessed.notes[0].contains("2 others"), "{:?}", guessed.notes);
    let asked = read(&path, &Mapping { cameras: vec!["/b".to_owned()], mics: vec![] });
    assert_eq!((asked.frames[0].bytes[0], asked.notes.len()), (2, 0));
    let wrong = SensorLog::open(&path, &Mapping { cameras: vec![], mics: vec!["/ear".to_owned()] });
    let text = wrong.err().unwrap().to_string();
    assert!(text.contains("--mic /ear") && text.contains("/depth/image"), "{text}");
}

#[test]
fn foxglove_protobuf_and_json_pictures() {
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, 90).encode(&[200; 48], 4, 4, jpeg_encoder::ColorType::Rgb).unwrap();
    let timestamp = Some(Timestamp::from_unix(UNIX));
    let frame_id = "cam".to_owned();
    let compressed =
        CompressedImage { timestamp, frame_id: frame_id.clone(), data: jpeg.clone(), format: "jpeg".into() };
    let raw = RawImage {
        timestamp,
        frame_id,
        width: 2,
        height: 1,
        encoding: "bgr8".into(),
        step: 6,
        data: vec![1, 2, 3, 4, 5, 6],
    };
    let json = serde_json::json!({
        "timestamp": {"sec": UNIX / 1_000_000_000, "nsec": 0}, "frame_id": "cam", "format": "jpeg",
        "data": sage::record::base64::encode(&jpeg),
    });
    for (schema, encoding, data, first) in [
        ("foxglove.CompressedImage", "protobuf", compressed.encode_to_vec(), 200),
        ("foxglove.RawImage", "protobuf", raw.encode_to_vec(), 3),
        ("foxglove.CompressedImage", "json", json.to_string().into_bytes(), 200),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), None);
        for i in 0..5u64 {
            // The stamp inside stands still, so the log's own time counts.
            log.put("/cam", schema, encoding, (UNIX + i * 40_000_000, UNIX + i * 40_000_000), &data);
        }
        let read = read(&log.done(), &Mapping::default());
        assert_eq!(read.frames.len(), 5, "{schema} {encoding}: {:?}", read.notes);
        assert!(read.frames[0].bytes[0].abs_diff(first) < 4);
        assert_eq!(interval_ms(&read.frames), 40.0);
    }
}

#[test]
fn strange_times() {
    // What the log says, the interval it should be read with, a word of the note.
    type Case<'a> = (&'a dyn Fn(u64) -> u64, std::ops::RangeInclusive<f64>, &'a str);
    let cases: [Case; 6] = [
        (&|i| i * 100_000_000, 100.0..=100.0, ""),
        (&|i| 1_750_000_000_000_000 + i * 100_000, 100.0..=100.0, "microseconds"),
        (&|i| 1_750_000_000_000 + i * 100, 100.0..=100.0, "milliseconds"),
        (&|i| 1_750_000_000 + i / 10, 80.0..=110.0, "seconds"),
        (&|i| UNIX + i * 10, 100.0..=100.0, "10 a second"),
        (&|_| 0, 100.0..=100.0, "10 a second"),
    ];
    for (time, interval, word) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), None);
        for i in 0..50u64 {
            log.put("/cam", "sensor_msgs/msg/Image", "cdr", (time(i), time(i)), &cdr_image(0, i as u8));
        }
        let read = read(&log.done(), &Mapping::default());
        assert_eq!(read.frames.len(), 50, "{word}");
        assert!(read.frames.windows(2).all(|pair| pair[0].captured < pair[1].captured), "{word}");
        assert!(interval.contains(&interval_ms(&read.frames)), "{word}: {}", interval_ms(&read.frames));
        assert_eq!(read.frames[0].captured, Nanos::from_s(1), "{word}");
        assert!(read.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", read.notes);
    }
}

#[test]
fn a_night_in_the_middle_is_cut_short_and_messages_packed_one_by_one_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), None);
    for i in 0..20u64 {
        let at = UNIX + i * 100_000_000 + if i >= 10 { 8 * 3_600_000_000_000 } else { 0 };
        let packed = zstd::stream::encode_all(&cdr_image(at, 9)[..], 1).unwrap();
        log.put("/cam", "sensor_msgs/msg/Image", "cdr", (at, at), &packed);
    }
    let read = read(&log.done(), &Mapping::default());
    assert_eq!(read.frames.len(), 20, "{:?}", read.notes);
    assert!((read.frames[19].captured - read.frames[0].captured) < Nanos::from_s(5));
}

#[test]
fn logs_without_anything_for_a_sense_are_refused_with_what_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), None);
    log.put("/imu", "sensor_msgs/msg/Imu", "cdr", (UNIX, UNIX), &[0; 8]);
    let text = SensorLog::open(&log.done(), &Mapping::default()).err().unwrap().to_string();
    assert!(text.contains("/imu (sensor_msgs/msg/Imu, cdr)"), "{text}");
    let empty = Log::new(dir.path(), None).done();
    let text = SensorLog::open(&empty, &Mapping::default()).err().unwrap().to_string();
    assert!(text.contains("nothing at all"), "{text}");
}

#[test]
fn pictures_that_cannot_be_read_are_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), None);
    for i in 0..20u64 {
        let at = UNIX + i * 100_000_000;
        let image = CompressedImage {
            timestamp: Some(Timestamp::from_unix(at)),
            frame_id: String::new(),
            data: b"\x89PNG....".to_vec(),
            format: "png".to_owned(),
        };
        log.put("/cam", "foxglove.CompressedImage", "protobuf", (at, at), &image.encode_to_vec());
    }
    let read = read(&log.done(), &Mapping::default());
    assert!(read.frames.is_empty());
    let about: Vec<_> = read.notes.iter().filter(|note| note.contains("png")).collect();
    assert_eq!(about.len(), 1, "{:?}", read.notes);
}

//! Cut, damaged and foreign files.

use crate::fake::*;
use sage::record::reader::{Item, LogError, LogReader};
use sage::record::verify::{Options, verify};
use std::path::Path;

/// Number of messages, and warnings.
fn read(path: &Path) -> (u64, Vec<String>) {
    let mut reader = LogReader::open(path).unwrap();
    let mut messages = 0;
    while let Some(item) = reader.next_item() {
        messages += u64::from(matches!(item, Item::Message(_)));
    }
    (messages, reader.warnings().to_vec())
}

/// Begin of every record of the file, those in chunks too.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let mut at = 8;
    while at + 9 <= bytes.len() - 8 {
        found.push(at);
        let (op, len) = (bytes[at], long(at + 1));
        if op == 6 {
            let mut inner = at + 9 + 8 + 8 + 8 + 4 + 4 + 8; // the compression is "", so its text is empty
            while inner < at + 9 + len {
                found.push(inner);
                inner += 9 + long(inner + 1);
            }
        }
        at += 9 + len;
    }
    found
}

#[test]
fn cut_anywhere_it_is_readable_up_to_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    record(&path, &Plan { ticks: 120, ..Plan::default() });
    let bytes = std::fs::read(&path).unwrap();
    let (all, warnings) = read(&path);
    assert_eq!(warnings, [] as [String; 0]);
    let cut = dir.path().join("cut.mcap");
    let mut boundaries = boundaries(&bytes);
    let exact = boundaries.len();
    // And in the middle of records: every 997th byte.
    boundaries.extend((9..bytes.len()).step_by(997));
    let mut before = 0;
    for (i, at) in boundaries.into_iter().enumerate() {
        std::fs::write(&cut, &bytes[..at]).unwrap();
        let (messages, warnings) = read(&cut);
        assert!(messages <= all);
        if i < exact {
            assert!(messages >= before, "a longer piece holds no less: {messages} after {before} at byte {at}");
            assert!(messages <= before + 1);
            before = messages;
        }
        if messages < all {
            assert_eq!(warnings.len(), 1, "cut at {at}: {warnings:?}");
        }
    }
    assert_eq!(before, all);
}

#[test]
fn a_cut_recording_still_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    record(&path, &Plan::default());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() * 6 / 10]).unwrap();
    let report = verify::<FakeCore>(&path, Options::default(), &mut |_, _, _, _| {}).unwrap();
    assert!(report.good(), "{:?}", report.first);
    assert!(report.ticks > 150 && report.ticks < 300, "{}", report.ticks);
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

#[test]
fn random_damage_never_panics_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    record(&path, &Plan { ticks: 100, ..Plan::default() });
    let bytes = std::fs::read(&path).unwrap();
    let (all, _) = read(&path);
    let hurt = dir.path().join("hurt.mcap");
    let data_ends = bytes.len() * 8 / 10;
    let mut random = 12_345u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        let at = 8 + next() % (data_ends - 8);
        for byte in damaged[at..].iter_mut().take(1 + next() % 40) {
            *byte = next() as u8;
        }
        std::fs::write(&hurt, &damaged).unwrap();
        let (messages, warnings) = read(&hurt);
        assert!(messages <= all + 5);
        if messages < all {
            assert!(!warnings.is_empty(), "{messages} of {all} messages, damage at byte {at}, and not a word");
        }
        let _ = verify::<FakeCore>(&hurt, Options::default(), &mut |_, _, _, _| {});
    }
    // Pure noise behind the mark.
    let noise: Vec<u8> = mcap::MAGIC.iter().copied().chain((0..10_000).map(|_| next() as u8)).collect();
    std::fs::write(&hurt, noise).unwrap();
    assert!(!read(&hurt).1.is_empty());
}

#[test]
fn damage_in_compressed_chunks_never_panics_either() {
    use sage::record::{Mapping, SensorLog};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    record(&path, &Plan { ticks: 100, ..Plan::default() });
    let hurt = dir.path().join("hurt.mcap");
    let mut random = 99u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    for compression in [mcap::Compression::Zstd, mcap::Compression::Lz4] {
        let packed = dir.path().join("packed.mcap");
        let options = mcap::WriteOptions::new().compression(Some(compression)).chunk_size(Some(20_000));
        crate::mutate::rewrite_with(options, &path, &packed, |_| true, |_, _| {});
        let (all, warnings) = read(&packed);
        assert!(all > 200 && warnings.is_empty(), "{all} {warnings:?}");
        let bytes = std::fs::read(&packed).unwrap();
        for _ in 0..200 {
            let mut damaged = bytes.clone();
            let at = 8 + next() % (bytes.len() * 8 / 10);
            for byte in damaged[at..].iter_mut().take(1 + next() % 8) {
                *byte = next() as u8;
            }
            std::fs::write(&hurt, &damaged).unwrap();
            let (messages, warnings) = read(&hurt);
            assert!(
                messages >= all || !warnings.is_empty(),
                "{messages} of {all}, damage at byte {at}, and not a word"
            );
            if let Ok(log) = SensorLog::open(&hurt, &Mapping::default()) {
                log.for_each(drop);
            }
        }
    }
}

#[test]
fn a_packed_chunk_that_promises_too_much_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.mcap");
    // A message of 32 TiB, and a chunk of 4 EiB, as their lengths say.
    for (uncompressed, record) in [(1u64 << 46, 1u64 << 45), (1 << 62, 30), (1_000, 1 << 45)] {
        let mut records = vec![5u8];
        records.extend_from_slice(&record.to_le_bytes());
        records.extend_from_slice(&[0; 500]);
        let packed = zstd::stream::encode_all(&records[..], 1).unwrap();
        let mut chunk = [0u64.to_le_bytes(), 9u64.to_le_bytes(), uncompressed.to_le_bytes()].concat();
        chunk.extend_from_slice(&[0; 4]);
        chunk.extend_from_slice(&4u32.to_le_bytes());
        chunk.extend_from_slice(b"zstd");
        chunk.extend_from_slice(&(packed.len() as u64).to_le_bytes());
        chunk.extend_from_slice(&packed);
        let mut bytes = mcap::MAGIC.to_vec();
        bytes.push(6);
        bytes.extend_from_slice(&(chunk.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&chunk);
        std::fs::write(&path, bytes).unwrap();
        let (messages, warnings) = read(&path);
        assert_eq!(messages, 0);
        assert!(warnings.iter().any(|warning| warning.contains("chunk at byte 8")), "{warnings:?}");
    }
}

#[test]
fn a_hole_in_the_middle_costs_only_what_it_covers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.mcap");
    record(&path, &Plan::default());
    let mut bytes = std::fs::read(&path).unwrap();
    let (all, _) = read(&path);
    let middle = bytes.len() * 4 / 10;
    bytes[middle..middle + 3_000].fill(0xEE);
    std::fs::write(&path, bytes).unwrap();
    let (messages, warnings) = read(&path);
    assert!(messages > all * 7 / 10, "{messages} of {all}: {warnings:?}");
    assert!(!warnings.is_empty());
}

#[test]
fn other_files_get_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content, says) in [
        ("empty", &b""[..], "empty"),
        ("bag", b"#ROSBAG V2.0\n rest of it", "ROS 1 bag"),
        ("db3", b"SQLite format 3\0 and more", "SQLite"),
        ("picture", b"\xFF\xD8\xFF\xE0 and so on ....", "JPEG"),
        ("text", b"just some words, nothing else", "text"),
        ("short", b"\x89MCAP", "mark"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = LogReader::open(&path).err().expect(name);
        assert!(matches!(error, LogError::Format { .. }));
        let text = error.to_string();
        assert!(text.contains(says) && !text.contains('\n'), "{text}");
    }
    let text = LogReader::open(dir.path()).err().unwrap().to_string();
    assert!(text.contains("folder"), "{text}");
    let text = LogReader::open(&dir.path().join("nothing here")).err().unwrap().to_string();
    assert!(text.contains("nothing here"), "{text}");
}

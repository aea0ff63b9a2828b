//! What a reader of logs hands out: channels, messages, metadata; and why a file cannot be read at all, in one sentence.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a log cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no MCAP file.
    #[error("{path} is not an MCAP log{looks}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it looks like, and what to do.
        looks: String,
    },
    /// It is MCAP, but does not hold what is needed.
    #[error("{path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is missing, and what to do.
        why: String,
    },
}

/// A channel with its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its number in the file.
    pub id: u16,
    /// Its topic.
    pub topic: String,
    /// protobuf, json, cdr, ros1 ...
    pub encoding: String,
    /// Name of the schema; empty if it has none.
    pub schema: String,
    /// Key and value pairs.
    pub metadata: BTreeMap<String, String>,
}

/// One thing read.
#[derive(Debug)]
pub enum Item {
    /// A message.
    Message(Message),
    /// A metadata record.
    Metadata {
        /// Its name.
        name: String,
        /// Its content.
        map: BTreeMap<String, String>,
    },
}

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its channel.
    pub channel: Arc<Channel>,
    /// Its number.
    pub sequence: u32,
    /// Recording instant, ns.
    pub log_ns: u64,
    /// Publishing instant, ns.
    pub publish_ns: u64,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// What a file that is no MCAP seems to be.
pub(super) fn looks_like(head: &[u8]) -> String {
    let known: [(&[u8], &str); 9] = [
        (b"#ROSBAG", ": it is a ROS 1 bag; `mcap convert` makes an MCAP of it"),
        (b"SQLite format 3", ": it is a ROS 2 bag in SQLite; `mcap convert` makes an MCAP of it"),
        (b"RIFF", ": it is a RIFF file (WAV or AVI)"),
        (b"\xFF\xD8\xFF", ": it is a JPEG picture"),
        (b"\x89PNG", ": it is a PNG picture"),
        (b"\x1F\x8B", ": it is compressed with gzip; unpack it first"),
        (b"\x28\xB5\x2F\xFD", ": it is compressed with zstd; unpack it first"),
        (b"PK\x03\x04", ": it is a ZIP archive"),
        (b"\x1A\x45\xDF\xA3", ": it is a Matroska video"),
    ];
    if head.is_empty() {
        return ": it is empty".to_owned();
    }
    match known.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, looks)) => (*looks).to_owned(),
        None if head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
            ": it is text".to_owned()
        }
        None => ": it does not begin with MCAP's mark".to_owned(),
    }
}

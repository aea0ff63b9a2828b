//! The protobuf messages of a log: Foxglove's image, audio and log schemas as published, and `sage.Tick`. Values flow in
//! and bytes out, and back; with them a descriptor that lets any reader decode the messages without our files.

use prost::Message;

/// google.protobuf.Timestamp: Unix time.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timestamp {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds within the second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    pub fn from_unix(unix_ns: u64) -> Timestamp {
        Timestamp { seconds: (unix_ns / 1_000_000_000) as i64, nanos: (unix_ns % 1_000_000_000) as i32 }
    }

    /// Nanoseconds since 1970; 0 for an instant before.
    pub fn unix_ns(&self) -> u64 {
        let ns = i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos);
        u64::try_from(ns).unwrap_or(0)
    }
}

/// foxglove.CompressedImage.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CompressedImage {
    /// Capture.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// Frame of reference.
    #[prost(string, tag = "4")]
    pub frame_id: String,
    /// The compressed picture.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    /// jpeg, png, webp, avif.
    #[prost(string, tag = "3")]
    pub format: String,
}

/// foxglove.RawImage.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RawImage {
    /// Capture.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// Frame of reference.
    #[prost(string, tag = "7")]
    pub frame_id: String,
    /// Pixels in a row.
    #[prost(fixed32, tag = "2")]
    pub width: u32,
    /// Rows.
    #[prost(fixed32, tag = "3")]
    pub height: u32,
    /// rgb8, bgr8, mono8, yuyv ...
    #[prost(string, tag = "4")]
    pub encoding: String,
    /// Bytes from one row to the next.
    #[prost(fixed32, tag = "5")]
    pub step: u32,
    /// The pixels.
    #[prost(bytes = "vec", tag = "6")]
    pub data: Vec<u8>,
}

/// foxglove.RawAudio.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RawAudio {
    /// Instant of the first sample.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// Samples, channels interleaved.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    /// pcm-s16.
    #[prost(string, tag = "3")]
    pub format: String,
    /// In Hz.
    #[prost(fixed32, tag = "4")]
    pub sample_rate: u32,
    /// Channels.
    #[prost(fixed32, tag = "5")]
    pub number_of_channels: u32,
}

/// foxglove.Log.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LogLine {
    /// When it was said.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// 0 unknown, 1 debug, 2 info, 3 warning, 4 error, 5 fatal.
    #[prost(int32, tag = "2")]
    pub level: i32,
    /// The text.
    #[prost(string, tag = "3")]
    pub message: String,
    /// Who says it.
    #[prost(string, tag = "4")]
    pub name: String,
    /// Source file.
    #[prost(string, tag = "5")]
    pub file: String,
    /// Source line.
    #[prost(fixed32, tag = "6")]
    pub line: u32,
}

/// sage.Tick: one tick exactly as the core saw it, and what came out.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Tick {
    /// k·T.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// k.
    #[prost(uint64, tag = "2")]
    pub tick: u64,
    /// k·T on the session's monotonic clock.
    #[prost(uint64, tag = "3")]
    pub now_ns: u64,
    /// Ticks skipped since the one before.
    #[prost(uint32, tag = "4")]
    pub skipped: u32,
    /// When the tick really woke, monotonic.
    #[prost(uint64, tag = "5")]
    pub woke_ns: u64,
    /// How long its work took.
    #[prost(uint64, tag = "6")]
    pub work_ns: u64,
    /// Metabolic state after it.
    #[prost(string, tag = "7")]
    pub state: String,
    /// Hash of the core's state after it.
    #[prost(bytes = "vec", tag = "8")]
    pub state_hash: Vec<u8>,
    /// Tick records that the recorder lost just before this one.
    #[prost(uint32, tag = "9")]
    pub lost_before: u32,
    /// postcard of `types::Inputs`.
    #[prost(bytes = "vec", tag = "10")]
    pub inputs: Vec<u8>,
    /// postcard of (tick, decisions, commands, acts): what the digest is computed over.
    #[prost(bytes = "vec", tag = "11")]
    pub decided: Vec<u8>,
}

/// Kinds of protobuf fields that our descriptors use, with their numbers in descriptor.proto.
#[derive(Clone, Copy)]
enum Kind {
    Int64 = 3,
    Uint64 = 4,
    Int32 = 5,
    Fixed32 = 7,
    Str = 9,
    Time = 11,
    Bytes = 12,
    Uint32 = 13,
    Level = 14,
}

#[derive(Clone, PartialEq, Message)]
struct FieldDescriptor {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int32, optional, tag = "3")]
    number: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    label: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    kind: Option<i32>,
    #[prost(string, optional, tag = "6")]
    type_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct EnumValue {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int32, optional, tag = "2")]
    number: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct EnumDescriptor {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    value: Vec<EnumValue>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageDescriptor {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    field: Vec<FieldDescriptor>,
    #[prost(message, repeated, tag = "4")]
    enum_type: Vec<EnumDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct FileDescriptor {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    package: Option<String>,
    #[prost(string, repeated, tag = "3")]
    dependency: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    message_type: Vec<MessageDescriptor>,
    #[prost(string, optional, tag = "12")]
    syntax: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct FileDescriptorSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<FileDescriptor>,
}

/// One message with its fields: name, number, kind.
type Shape = (&'static str, &'static str, &'static [(&'static str, i32, Kind)]);

const SHAPES: [Shape; 5] = [
    (
        "foxglove",
        "CompressedImage",
        &[("timestamp", 1, Kind::Time), ("frame_id", 4, Kind::Str), ("data", 2, Kind::Bytes), ("format", 3, Kind::Str)],
    ),
    (
        "foxglove",
        "RawImage",
        &[
            ("timestamp", 1, Kind::Time),
            ("frame_id", 7, Kind::Str),
            ("width", 2, Kind::Fixed32),
            ("height", 3, Kind::Fixed32),
            ("encoding", 4, Kind::Str),
            ("step", 5, Kind::Fixed32),
            ("data", 6, Kind::Bytes),
        ],
    ),
    (
        "foxglove",
        "RawAudio",
        &[
            ("timestamp", 1, Kind::Time),
            ("data", 2, Kind::Bytes),
            ("format", 3, Kind::Str),
            ("sample_rate", 4, Kind::Fixed32),
            ("number_of_channels", 5, Kind::Fixed32),
        ],
    ),
    (
        "foxglove",
        "Log",
        &[
            ("timestamp", 1, Kind::Time),
            ("level", 2, Kind::Level),
            ("message", 3, Kind::Str),
            ("name", 4, Kind::Str),
            ("file", 5, Kind::Str),
            ("line", 6, Kind::Fixed32),
        ],
    ),
    (
        "sage",
        "Tick",
        &[
            ("timestamp", 1, Kind::Time),
            ("tick", 2, Kind::Uint64),
            ("now_ns", 3, Kind::Uint64),
            ("skipped", 4, Kind::Uint32),
            ("woke_ns", 5, Kind::Uint64),
            ("work_ns", 6, Kind::Uint64),
            ("state", 7, Kind::Str),
            ("state_hash", 8, Kind::Bytes),
            ("lost_before", 9, Kind::Uint32),
            ("inputs", 10, Kind::Bytes),
            ("decided", 11, Kind::Bytes),
        ],
    ),
];

const LEVELS: [&str; 6] = ["UNKNOWN", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL"];

fn field(name: &str, number: i32, kind: Kind) -> FieldDescriptor {
    let type_name = match kind {
        Kind::Time => Some(".google.protobuf.Timestamp".to_owned()),
        Kind::Level => Some(".foxglove.Log.Level".to_owned()),
        _ => None,
    };
    FieldDescriptor {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(1),
        kind: Some(kind as i32),
        type_name,
    }
}

fn file(path: &str, package: &str, needs: &[&str], message: MessageDescriptor) -> FileDescriptor {
    FileDescriptor {
        name: Some(path.to_owned()),
        package: Some(package.to_owned()),
        dependency: needs.iter().map(|need| (*need).to_owned()).collect(),
        message_type: vec![message],
        syntax: Some("proto3".to_owned()),
    }
}

/// The serialised FileDescriptorSet of `full_name` (such as `foxglove.RawAudio`), as an MCAP protobuf schema holds it;
/// empty for a name that is not ours.
pub fn descriptor_set(full_name: &str) -> Vec<u8> {
    let Some(&(package, name, fields)) = SHAPES.iter().find(|shape| full_name == format!("{}.{}", shape.0, shape.1))
    else {
        return Vec::new();
    };
    let timestamp = MessageDescriptor {
        name: Some("Timestamp".to_owned()),
        field: vec![field("seconds", 1, Kind::Int64), field("nanos", 2, Kind::Int32)],
        enum_type: Vec::new(),
    };
    let levels = LEVELS
        .iter()
        .zip(0..)
        .map(|(level, number)| EnumValue { name: Some((*level).to_owned()), number: Some(number) });
    let message = MessageDescriptor {
        name: Some(name.to_owned()),
        field: fields.iter().map(|&(name, number, kind)| field(name, number, kind)).collect(),
        enum_type: if name == "Log" {
            vec![EnumDescriptor { name: Some("Level".to_owned()), value: levels.collect() }]
        } else {
            Vec::new()
        },
    };
    const TIME_FILE: &str = "google/protobuf/timestamp.proto";
    let set = FileDescriptorSet {
        file: vec![
            file(TIME_FILE, "google.protobuf", &[], timestamp),
            file(&format!("{package}/{name}.proto"), package, &[TIME_FILE], message),
        ],
    };
    set.encode_to_vec()
}

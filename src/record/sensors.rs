//! The sensor payloads of a log, in order of delivery, ready for the senses: frames decoded to RGB, sound as blocks of
//! 16 kHz mono, the robot's values. Works on our own logs to the nanosecond and on others' through `foreign` and
//! `timebase`. A path and a choice of topics flow in; `Payload`s and sentences about what was done flow out.

use super::foreign::{self, Form};
use super::own::{OwnDecoder, Played};
use super::reader::{Channel, Item, LogError, LogReader};
use super::session::{SESSION, SessionInfo};
use super::streams::ForeignStreams;
use super::timebase::Stamps;
use crate::sense::feed;
use crate::types::{AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, Frame, MAX_SOURCES, Nanos, SourceId, SourceKind, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Messages of each stream that are looked at before the time base is chosen.
const LOOK_AT: usize = 300;
/// After this many messages no further streams are waited for.
const LOOK_ENOUGH: usize = 20_000;
/// Payloads are put in order of delivery within this span.
const ORDER_WITHIN: Nanos = Nanos::from_s(2);

/// A payload came at most this long after it was there; later ones waited for the disk, not for the device.
const LONGEST_DELIVERY: Nanos = Nanos::from_ms(200);
/// Length of one block of sound.
const BLOCK: Nanos = Nanos(1_000_000_000 * AUDIO_BLOCK as u64 / AUDIO_RATE_HZ as u64);

/// Which topics to use; empty: guess.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Topics of cameras.
    pub cameras: Vec<String>,
    /// Topics of microphones.
    pub mics: Vec<String>,
}

/// One thing a sense delivered.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // short-lived, handed on at once
pub enum Payload {
    /// A frame.
    Frame(SourceId, Frame),
    /// A block of sound.
    Audio(SourceId, AudioBlock),
    /// The robot's own values.
    Status(Status),
}

impl Payload {
    /// When it was captured.
    pub fn captured(&self) -> Nanos {
        match self {
            Payload::Frame(_, frame) => frame.captured,
            Payload::Audio(_, block) => block.captured,
            Payload::Status(status) => status.captured,
        }
    }
}

#[allow(clippy::large_enum_variant)] // one per log
enum Decoder {
    Own(OwnDecoder),
    Foreign(Box<ForeignStreams>),
}

/// The sensors of a log. An iterator over payloads in order of delivery.
pub struct SensorLog {
    reader: LogReader,
    decoder: Decoder,
    sources: Vec<(SourceKind, String)>,
    session: Option<SessionInfo>,
    notes: Vec<String>,
    waiting: BTreeMap<(Nanos, u64), Payload>,
    count: u64,
    newest: Nanos,
    ended: bool,
}

/// What a first look at a log found.
struct Look {
    session: Option<SessionInfo>,
    channels: Vec<Arc<Channel>>,
    stamps: BTreeMap<String, (SourceKind, Stamps)>,
    has_raw: bool,
}

impl SensorLog {
    /// Opens a log and decides which topics and which clock to use.
    ///
    /// # Errors
    /// `LogError`, with `Content` for a log that holds nothing for any sense.
    pub fn open(path: &Path, mapping: &Mapping) -> Result<SensorLog, LogError> {
        let look = Look::at(path)?;
        let reader = LogReader::open(path)?;
        let content = |why: String| LogError::Content { path: path.to_owned(), why };
        if let Some(session) = look.session.filter(|_| mapping == &Mapping::default()) {
            if !look.has_raw {
                let why = "this recording holds no frames and no sound, only features (it was made with raw = false)";
                return Err(content(why.to_owned()));
            }
            let sources = session.core.sources.clone();
            let decoder = Decoder::Own(OwnDecoder::new(session.clone()));
            return Ok(SensorLog::new(reader.only(OwnDecoder::wants), decoder, sources, Some(session), Vec::new()));
        }
        let mut notes = Vec::new();
        let chosen = choose(&look.channels, mapping, &mut notes).map_err(content)?;
        let sources: Vec<_> = chosen.iter().map(|(kind, topic)| (*kind, topic.clone())).collect();
        let stamps: Vec<_> = sources
            .iter()
            .filter(|source| source.0 != SourceKind::Status)
            .filter_map(|(_, topic)| look.stamps.get(topic).cloned())
            .collect();
        let streams = ForeignStreams::new(&sources, &stamps, &mut notes);
        let topics: BTreeSet<String> = sources.iter().map(|source| source.1.clone()).collect();
        let reader = reader.only(move |channel| topics.contains(&channel.topic));
        Ok(SensorLog::new(reader, Decoder::Foreign(Box::new(streams)), sources, None, notes))
    }

    fn new(
        reader: LogReader,
        decoder: Decoder,
        sources: Vec<(SourceKind, String)>,
        session: Option<SessionInfo>,
        notes: Vec<String>,
    ) -> SensorLog {
        SensorLog {
            reader,
            decoder,
            sources,
            session,
            notes,
            waiting: BTreeMap::new(),
            count: 0,
            newest: Nanos::ZERO,
            ended: false,
        }
    }

    /// Kind and name of each source; a payload's `SourceId` is an index into this list.
    pub fn sources(&self) -> &[(SourceKind, String)] {
        &self.sources
    }

    /// The run that wrote the log, if it is one of ours.
    pub fn session(&self) -> Option<&SessionInfo> {
        self.session.as_ref()
    }

    /// What was guessed, corrected or could not be read so far, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend_from_slice(self.reader.warnings());
        if let Decoder::Foreign(streams) = &self.decoder {
            notes.extend_from_slice(streams.notes());
        }
        notes
    }

    /// `written` is the recording instant, if it is on the clock of the captures.
    fn hold(&mut self, payload: Payload, written: Option<Nanos>) {
        let earliest = match &payload {
            Payload::Audio(..) => payload.captured() + BLOCK,
            Payload::Frame(..) | Payload::Status(_) => payload.captured(),
        };
        let due = written.map_or(earliest, |written| written.clamp(earliest, earliest + LONGEST_DELIVERY));
        self.newest = self.newest.max(due);
        self.count += 1;
        self.waiting.insert((due, self.count), payload);
    }

    /// The next payload with the instant at which its source delivered it: as recorded on our own logs, on others' when
    /// its last sample was there.
    pub fn next_due(&mut self) -> Option<(Nanos, Payload)> {
        loop {
            let first = self.waiting.keys().next().copied();
            let ready = first.is_some_and(|(due, _)| self.ended || self.newest.since(due) > ORDER_WITHIN);
            if ready {
                return self.waiting.pop_first().map(|((due, _), payload)| (due, payload));
            }
            if self.ended {
                return None;
            }
            self.read_one();
        }
    }

    fn read_one(&mut self) {
        match self.reader.next_item() {
            None => {
                self.ended = true;
            }
            Some(Item::Metadata { .. }) => {}
            Some(Item::Message(message)) => match &mut self.decoder {
                Decoder::Own(own) => match own.message(&message) {
                    Some(Ok(payload)) => {
                        let written = own.instant(message.log_ns);
                        self.hold(payload, Some(written));
                    }
                    Some(Err(damage)) if self.notes.len() < 20 => self.notes.push(damage.to_string()),
                    Some(Err(_)) | None => {}
                },
                Decoder::Foreign(streams) => {
                    let mut list = Vec::new();
                    streams.message(&message, &mut |payload| list.push(payload));
                    list.into_iter().for_each(|payload| self.hold(payload, None));
                }
            },
        }
    }
}

impl Iterator for SensorLog {
    type Item = Payload;

    fn next(&mut self) -> Option<Payload> {
        self.next_due().map(|(_, payload)| payload)
    }
}

impl From<Payload> for feed::Payload {
    fn from(payload: Payload) -> feed::Payload {
        match payload {
            Payload::Frame(source, frame) => feed::Payload::Frame(source, frame),
            Payload::Audio(source, block) => feed::Payload::Sound(source, block),
            Payload::Status(status) => feed::Payload::Status(status),
        }
    }
}

impl Look {
    fn at(path: &Path) -> Result<Look, LogError> {
        let mut reader = LogReader::open(path)?.only(|channel| Form::of(channel).is_some());
        let mut look = Look { session: None, channels: Vec::new(), stamps: BTreeMap::new(), has_raw: false };
        let mut looked = 0;
        while let Some(item) = reader.next_item() {
            let message = match item {
                Item::Metadata { name, map } if name == SESSION => {
                    if look.session.is_none() {
                        match SessionInfo::from_metadata(&map) {
                            Ok((session, _)) => look.session = Some(session),
                            Err(why) => return Err(LogError::Content { path: path.to_owned(), why }),
                        }
                    }
                    continue;
                }
                Item::Metadata { .. } => continue,
                Item::Message(message) => message,
            };
            let Some(form) = Form::of(&message.channel) else { continue };
            if look.session.is_some() {
                // One raw message of our own is all there is to know.
                if OwnDecoder::group(&message.channel.topic).is_some_and(|group| group != Played::GROUP) {
                    look.has_raw = true;
                    break;
                }
                continue;
            }
            let entry = look.stamps.entry(message.channel.topic.clone());
            let (_, stamps) = entry.or_insert_with(|| (form.kind(), Stamps::default()));
            looked += 1;
            if stamps.log.len() < LOOK_AT {
                stamps.header.push(foreign::decode(form, &message.data).ok().and_then(|(stamp, _)| stamp));
                stamps.publish.push(message.publish_ns);
                stamps.log.push(message.log_ns);
            } else if looked > LOOK_ENOUGH && look.stamps.values().all(|(_, stamps)| stamps.log.len() >= LOOK_AT) {
                break;
            }
        }
        look.channels = reader.channels().cloned().collect();
        Ok(look)
    }
}

/// Picks the topics: those asked for, else the likeliest camera and microphone, and every status topic.
fn choose(
    channels: &[Arc<Channel>],
    mapping: &Mapping,
    notes: &mut Vec<String>,
) -> Result<Vec<(SourceKind, String)>, String> {
    let usable = |kind: SourceKind| {
        let mut topics: Vec<&Channel> = Vec::new();
        for channel in channels {
            let fits = Form::of(channel).is_some_and(|form| form.kind() == kind);
            if fits && topics.iter().all(|known| known.topic != channel.topic) {
                topics.push(channel);
            }
        }
        topics
    };
    let described = || {
        let list: Vec<String> = channels
            .iter()
            .map(|channel| {
                let schema = if channel.schema.is_empty() { "no schema" } else { &channel.schema };
                format!("{} ({schema}, {})", channel.topic, channel.encoding)
            })
            .collect();
        if list.is_empty() { "nothing at all".to_owned() } else { list.join(", ") }
    };
    let mut chosen = Vec::new();
    for (kind, asked, word) in
        [(SourceKind::Camera, &mapping.cameras, "camera"), (SourceKind::Microphone, &mapping.mics, "mic")]
    {
        let mut topics = usable(kind);
        for topic in asked {
            if topics.iter().all(|channel| channel.topic != *topic) {
                return Err(format!("--{word} {topic}: no such topic that can be read; the log has {}", described()));
            }
            chosen.push((kind, topic.clone()));
        }
        if asked.is_empty() && !topics.is_empty() {
            topics.sort_by_key(|channel| (unlikely(&channel.topic), channel.topic.clone()));
            let topic = topics[0].topic.clone();
            let others = match topics.len() {
                1 => String::new(),
                n => format!("; {} others, choose with --{word}", n - 1),
            };
            notes.push(format!("{word}: {topic} ({}), by guess{others}", topics[0].schema));
            chosen.push((kind, topic));
        }
    }
    if chosen.is_empty() {
        return Err(format!("the log holds no camera or microphone topic that can be read; it has {}", described()));
    }
    chosen.truncate(MAX_SOURCES - 1);
    // One status source, always last, as in a configuration.
    let status = usable(SourceKind::Status).first().map_or("status".to_owned(), |channel| channel.topic.clone());
    chosen.push((SourceKind::Status, status));
    Ok(chosen)
}

/// Depth pictures and masks come after ordinary ones.
fn unlikely(topic: &str) -> bool {
    ["depth", "disparity", "mask", "thermal", "segment", "annot"].iter().any(|word| topic.to_lowercase().contains(word))
}

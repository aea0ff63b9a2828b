//! `replay --from-sensors`: computes the features again from the recorded pixels and samples and compares them, to the byte,
//! with what the ticks took in. A log flows in; a report flows out that names the first tick whose features differ.
//! Payloads also carry a hash, so that a change too small for any feature is found.

use super::own::OwnDecoder;
use super::proto;
use super::reader::{Item, LogError, LogReader, Message};
use super::sensors::Payload;
use super::session::{SESSION, SessionInfo};
use super::verify::files_of;
use crate::types::{AudioBlock, AudioFeatures, CameraFeatures, Frame, Inputs, SourceId};
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::Path;

/// After a gap in the recording an extractor's memory differs from the live one's. Features count again after this many
/// in a row agree.
const SETTLED: u32 = 50;

/// Computes features as the live loop does.
pub trait Extractors {
    /// Features of the next frame of a camera.
    fn camera(&mut self, source: SourceId, frame: &Frame) -> CameraFeatures;
    /// Features of the next block of a microphone.
    fn audio(&mut self, source: SourceId, block: &AudioBlock) -> AudioFeatures;
}

/// One payload whose features or bytes differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureMismatch {
    /// The tick that took the features in; `None` if none did.
    pub tick: Option<u64>,
    /// The source.
    pub source: SourceId,
    /// The payload.
    pub seq: u64,
    /// What the log says.
    pub recorded: String,
    /// What comes out now.
    pub computed: String,
}

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub struct FeatureReport {
    /// Payloads whose features were compared.
    pub compared: u64,
    /// Features in ticks without a recorded payload, or behind a gap: they could not be compared.
    pub unchecked: u64,
    /// The first tick with such features.
    pub incomplete_from: Option<u64>,
    /// Payloads that differ.
    pub mismatches: u64,
    /// The first of them by tick.
    pub first: Option<FeatureMismatch>,
    /// What could not be read.
    pub warnings: Vec<String>,
}

impl FeatureReport {
    /// Nothing differed of what could be compared.
    pub fn good(&self) -> bool {
        self.mismatches == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::large_enum_variant)] // short-lived
enum Features {
    Camera(CameraFeatures),
    Audio(AudioFeatures),
}

impl Features {
    fn lost(&self) -> u64 {
        match self {
            Features::Camera(features) => u64::from(features.lost),
            Features::Audio(features) => u64::from(features.lost),
        }
    }
}

type Key = (SourceId, u64);

#[derive(Default)]
struct Source {
    last: Option<u64>,
    /// Agreements since the last gap; `None`: there was no gap.
    settling: Option<u32>,
}

/// Compares a log, or all logs of a folder in order. `make` builds the extractors of a session.
///
/// # Errors
/// `LogError` for a file that is no log of ours.
pub fn compare<E: Extractors>(path: &Path, make: impl Fn(&SessionInfo) -> E) -> Result<FeatureReport, LogError> {
    let files = files_of(path)?;
    let mut pass = Pass { report: FeatureReport::default(), in_ticks: BTreeMap::new(), hashes: BTreeMap::new() };
    // Features reach their tick after the payload reaches the file or before: the ticks are collected first.
    for file in &files {
        pass.collect(file)?;
    }
    let mut state: Option<(String, OwnDecoder, E)> = None;
    let mut sources: BTreeMap<SourceId, Source> = BTreeMap::new();
    for file in &files {
        let mut reader = LogReader::open(file)?.only(OwnDecoder::wants);
        while let Some(item) = reader.next_item() {
            match item {
                Item::Metadata { name, map } if name == SESSION => {
                    let (session, _) = SessionInfo::from_metadata(&map)
                        .map_err(|why| LogError::Content { path: file.clone(), why })?;
                    if state.as_ref().is_none_or(|(id, ..)| *id != session.id()) {
                        let extractors = make(&session);
                        sources.clear();
                        state = Some((session.id(), OwnDecoder::new(session), extractors));
                    }
                }
                Item::Metadata { .. } => {}
                Item::Message(message) => {
                    if let Some((session, decoder, extractors)) = &mut state {
                        pass.payload(session, decoder.message(&message), extractors, &mut sources);
                    }
                }
            }
        }
        for warning in reader.warnings() {
            pass.report.warnings.push(format!("{}: {warning}", file.display()));
        }
    }
    if pass.report.compared + pass.report.unchecked + pass.report.mismatches == 0 {
        let why = "the log holds no recorded frames or sound to compare (raw = false, or not one of ours)".to_owned();
        return Err(LogError::Content { path: path.to_owned(), why });
    }
    Ok(pass.finish())
}

struct Pass {
    report: FeatureReport,
    /// Features as ticks took them in, by session, with the tick.
    in_ticks: BTreeMap<(String, Key), (u64, Features)>,
    hashes: BTreeMap<(String, Key), String>,
}

impl Pass {
    fn collect(&mut self, path: &Path) -> Result<(), LogError> {
        let mut reader = LogReader::open(path)?.only(|channel| matches!(channel.topic.as_str(), "/tick" | "/sensor"));
        let mut session = String::new();
        while let Some(item) = reader.next_item() {
            match item {
                Item::Metadata { name, map } if name == SESSION => session = map.get("id").cloned().unwrap_or_default(),
                Item::Metadata { .. } => {}
                Item::Message(message) if message.channel.topic == "/tick" => self.tick(&session, &message),
                Item::Message(message) => {
                    if let Some((key, hash)) = parse_hash(&message.data) {
                        self.hashes.insert((session.clone(), key), hash);
                    }
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self, session: &str, message: &Message) {
        let Ok(tick) = proto::Tick::decode(message.data.as_slice()) else { return };
        let Ok(inputs) = postcard::from_bytes::<Inputs>(&tick.inputs) else { return };
        let mut add = |source, seq, features| {
            self.in_ticks.insert((session.to_owned(), (source, seq)), (inputs.tick, features));
        };
        for features in &inputs.camera {
            add(features.source, features.seq, Features::Camera(*features));
        }
        for features in &inputs.audio {
            add(features.source, features.seq, Features::Audio(*features));
        }
    }

    fn payload<E: Extractors>(
        &mut self,
        session: &str,
        decoded: Option<Result<Payload, super::own::Damage>>,
        extractors: &mut E,
        sources: &mut BTreeMap<SourceId, Source>,
    ) {
        let (key, computed, hash) = match decoded {
            None | Some(Ok(Payload::Status(_))) => return,
            Some(Err(damage)) => {
                let key = (damage.source, damage.seq);
                let tick = self.in_ticks.remove(&(session.to_owned(), key)).map(|(tick, _)| tick);
                sources.entry(damage.source).or_default().settling = Some(0);
                return self.differ(tick, key, "a payload that could be read".to_owned(), damage.why);
            }
            Some(Ok(payload)) => {
                let hash = OwnDecoder::payload_hash(&payload);
                match payload {
                    Payload::Frame(source, frame) => {
                        ((source, frame.seq), Features::Camera(extractors.camera(source, &frame)), hash)
                    }
                    Payload::Audio(source, block) => {
                        ((source, block.seq), Features::Audio(extractors.audio(source, &block)), hash)
                    }
                    Payload::Status(_) => return,
                }
            }
        };
        let full_key = (session.to_owned(), key);
        let recorded = self.in_ticks.remove(&full_key);
        let source = sources.entry(key.0).or_default();
        let begins_late = source.last.is_none() && key.1 > 0;
        let gap = source.last.is_some_and(|last| {
            // Lost before the device handed it over: the live extractor never saw it either.
            let missing = key.1.saturating_sub(last + 1);
            missing > 0 && recorded.as_ref().is_none_or(|(_, features)| features.lost() != missing)
        });
        if begins_late || gap {
            source.settling = Some(0);
        }
        source.last = Some(key.1);
        let tick = recorded.as_ref().map(|(tick, _)| *tick);
        if let (Some(known), Some(now)) = (self.hashes.remove(&full_key), &hash)
            && known != *now
        {
            return self.differ(
                tick,
                key,
                format!("payload with BLAKE3 {known}"),
                format!("payload with BLAKE3 {now}"),
            );
        }
        let Some((tick, recorded)) = recorded else { return };
        match (recorded == computed, &mut source.settling) {
            (true, Some(agreed)) => {
                *agreed += 1;
                if *agreed >= SETTLED {
                    source.settling = None;
                }
                self.unchecked(tick);
            }
            (false, Some(agreed)) => {
                *agreed = 0;
                self.unchecked(tick);
            }
            (true, None) => self.report.compared += 1,
            (false, None) => self.differ(Some(tick), key, format!("{recorded:?}"), format!("{computed:?}")),
        }
    }

    fn unchecked(&mut self, tick: u64) {
        self.report.unchecked += 1;
        self.report.incomplete_from = Some(self.report.incomplete_from.map_or(tick, |first| first.min(tick)));
    }

    fn differ(&mut self, tick: Option<u64>, key: Key, recorded: String, computed: String) {
        self.report.mismatches += 1;
        let earlier = match (&self.report.first, tick) {
            (None, _) => true,
            (Some(first), Some(tick)) => first.tick.is_none_or(|known| tick < known),
            (Some(_), None) => false,
        };
        if earlier {
            self.report.first = Some(FeatureMismatch { tick, source: key.0, seq: key.1, recorded, computed });
        }
    }

    /// Features left over have no payload in the log.
    fn finish(mut self) -> FeatureReport {
        for (tick, _) in std::mem::take(&mut self.in_ticks).into_values() {
            self.unchecked(tick);
        }
        self.report
    }
}

fn parse_hash(data: &[u8]) -> Option<(Key, String)> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let source = SourceId(u8::try_from(value["source"].as_u64()?).ok()?);
    Some(((source, value["seq"].as_u64()?), value["blake3"].as_str()?.to_owned()))
}

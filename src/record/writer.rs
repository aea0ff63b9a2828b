//! The recorder: turns what happens into messages of a log, file after file. Frames, sound, ticks, keyframes and log
//! lines flow in; MCAP files flow out. It never fails outward: a full disk costs raw sensors first, then files, and
//! what was lost is counted and written down.

use super::digest::{Digest, decided_bytes};
use super::file::{LogFile, Times};
use super::proto::{CompressedImage, LogLine, RawAudio, RawImage, Tick, Timestamp};
use super::session::{END, SESSION, SessionInfo, file_stamp};
use super::{base64, views};
use crate::time::Clock;
use crate::types::{AUDIO_RATE_HZ, AudioBlock, Frame, Inputs, Nanos, Outputs, SourceId, SourceKind, Stamp, Status};
use prost::Message;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A sync follows the one before after this span.
const SYNC_EVERY: Nanos = Nanos::from_s(1);
/// Salience and budget are written this often, and when the state changes.
const VITALS_EVERY: Nanos = Nanos::from_ms(100);
/// After the disk refused a write, a new file is tried at the first keyframe after this span.
const RETRY_AFTER: Nanos = Nanos::from_s(5);

/// What the recorder may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Record frames and sound, not only features.
    pub raw: bool,
    /// A new file begins at the first keyframe after this size, bytes; 0: never.
    pub max_bytes: u64,
    /// With less than this free on the disk, frames and sound are no longer recorded, bytes.
    pub keep_free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { raw: true, max_bytes: 0, keep_free_bytes: 0 }
    }
}

/// Severity of a log line, as foxglove.Log numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For developers.
    Debug = 1,
    /// Ordinary.
    Info = 2,
    /// Something is wrong, the loop goes on.
    Warning = 3,
    /// Something failed.
    Error = 4,
}

/// What became of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// Bytes in them.
    pub bytes: u64,
    /// Ticks recorded.
    pub ticks: u64,
    /// Digest of the recorded ticks; that of the run if none was lost.
    pub digest: Digest,
    /// What was dropped, by kind.
    pub lost: BTreeMap<String, u64>,
    /// Why the recording stopped early, if it did.
    pub stopped: Option<String>,
}

/// Writes a run. Not for the tick's thread: see `thread`.
pub struct Recorder {
    session: SessionInfo,
    limits: Limits,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    stem: String,
    extension: String,
    named: bool,
    part: u32,
    file: Option<LogFile>,
    failed_at: Nanos,
    synced: Nanos,
    raw_allowed: bool,
    summary: Summary,
    unsaid: BTreeMap<String, u64>,
    lost_ticks: u32,
    vitals_at: Nanos,
    state: &'static str,
    scratch: Vec<u8>,
}

impl Recorder {
    /// Begins a recording in the file `path`, or in a new file in the folder `path`. Later files of a rotated recording
    /// get a number before their extension.
    ///
    /// # Errors
    /// When the first file cannot be created.
    pub fn create(path: &Path, session: SessionInfo, limits: Limits, clock: Arc<dyn Clock>) -> io::Result<Recorder> {
        let named = !path.is_dir() && !path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (dir, stem) = if named {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (path.parent().unwrap_or(Path::new("")).to_owned(), stem)
        } else {
            let stem = format!("sage-{}-{}", file_stamp(session.unix(session.started)), &session.id()[..4]);
            (path.to_owned(), stem)
        };
        let given = path.extension().filter(|_| named);
        let extension = given.map_or("mcap".to_owned(), |extension| extension.to_string_lossy().into_owned());
        if !dir.as_os_str().is_empty() {
            std::fs::create_dir_all(&dir)?;
        }
        let mut recorder = Recorder {
            session,
            limits,
            clock,
            dir,
            stem,
            extension,
            named,
            part: 0,
            file: None,
            failed_at: Nanos::ZERO,
            synced: Nanos::ZERO,
            raw_allowed: limits.raw,
            summary: Summary::default(),
            unsaid: BTreeMap::new(),
            lost_ticks: 0,
            vitals_at: Nanos::ZERO,
            state: "",
            scratch: Vec::new(),
        };
        recorder.open_part()?;
        Ok(recorder)
    }

    fn open_part(&mut self) -> io::Result<()> {
        let name = match (self.named, self.part) {
            (true, 0) => format!("{}.{}", self.stem, self.extension),
            (_, part) => format!("{}-{part:03}.{}", self.stem, self.extension),
        };
        let mut file = LogFile::create(&self.dir.join(name))?;
        file.metadata(SESSION, self.session.to_metadata(self.part))?;
        self.summary.files.push(file.path().to_owned());
        self.file = Some(file);
        self.part += 1;
        self.synced = self.clock.now();
        self.vitals_at = Nanos::ZERO;
        self.state = "";
        Ok(())
    }

    /// Runs `write` on the open file; if the disk refuses, gives the file up at its last whole record.
    fn with_file(&mut self, what: &str, write: impl FnOnce(&mut LogFile) -> io::Result<()>) -> bool {
        let Some(file) = self.file.as_mut() else {
            self.count(what, 1);
            return false;
        };
        let Err(error) = write(file) else { return true };
        let text = format!("{}: {error}; the recording stops here and is readable up to here", file.path().display());
        tracing::error!("{text}");
        self.summary.stopped = Some(text);
        self.failed_at = self.clock.now();
        if let Some(file) = self.file.take() {
            self.summary.bytes += file.bytes();
            file.abandon();
        }
        self.count(what, 1);
        false
    }

    fn put(&mut self, topic: &str, schema: &str, source: Option<(SourceId, Stamp)>, at: At, data: &[u8]) -> bool {
        let log_ns = self.session.unix(self.clock.now());
        let times = Times { log_ns, publish_ns: self.session.unix(at.captured), sequence: at.sequence };
        self.with_file(topic, |file| file.message(topic, schema, source, times, data))
    }

    fn count(&mut self, what: &str, n: u64) {
        if what == "/tick" {
            self.lost_ticks = self.lost_ticks.saturating_add(n.min(u64::from(u32::MAX)) as u32);
        }
        for counts in [&mut self.summary.lost, &mut self.unsaid] {
            *counts.entry(what.to_owned()).or_default() += n;
        }
    }

    /// `n` messages of topic `what` (such as `/tick`) were dropped before they came here.
    pub fn lost(&mut self, what: &str, n: u64) {
        if n > 0 {
            self.count(what, n);
        }
    }

    /// Name of a source in topics.
    fn topic(&self, group: &str, source: SourceId) -> String {
        match self.session.core.sources.get(usize::from(source.0)) {
            Some((_, name)) => format!("/{group}/{name}"),
            None => format!("/{group}/{}", source.0),
        }
    }

    fn raw_dropped(&mut self, topic: &str) -> bool {
        if self.limits.raw && !self.raw_allowed {
            self.count(topic, 1);
        }
        !self.raw_allowed
    }

    fn payload_hash(&mut self, source: SourceId, at: At, parts: &[&[u8]]) {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        let hash = hasher.finalize().to_hex();
        let view = json!({ "source": source, "seq": at.sequence, "blake3": &hash[..32] }).to_string();
        self.put("/sensor", "sage.Sensor", None, at, view.as_bytes());
    }

    /// Records a frame: its JPEG if it came as one, else its pixels.
    pub fn frame(&mut self, source: SourceId, frame: &Frame) {
        let topic = self.topic("camera", source);
        if self.raw_dropped(&topic) {
            return;
        }
        let at = At { captured: frame.captured, sequence: frame.seq as u32 };
        let timestamp = Some(Timestamp::from_unix(self.session.unix(frame.captured)));
        let frame_id = topic.rsplit('/').next().unwrap_or_default().to_owned();
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let (schema, payload): (_, &[u8]) = match &frame.jpeg {
            Some(jpeg) => {
                let image = CompressedImage { timestamp, frame_id, data: jpeg.clone(), format: "jpeg".to_owned() };
                bytes.reserve(image.encoded_len());
                image.encode_raw(&mut bytes);
                ("foxglove.CompressedImage", jpeg)
            }
            None => {
                let image = RawImage {
                    timestamp,
                    frame_id,
                    width: frame.width,
                    height: frame.height,
                    encoding: "rgb8".to_owned(),
                    step: frame.width * 3,
                    data: frame.bytes.clone(),
                };
                bytes.reserve(image.encoded_len());
                image.encode_raw(&mut bytes);
                ("foxglove.RawImage", &frame.bytes)
            }
        };
        if self.put(&topic, schema, Some((source, frame.stamp)), at, &bytes) {
            self.payload_hash(source, at, &[payload]);
        }
        self.scratch = bytes;
    }

    /// Records a block of sound and, unless it was silence, what the loudspeaker played meanwhile.
    pub fn audio(&mut self, source: SourceId, block: &AudioBlock) {
        let topic = self.topic("mic", source);
        if self.raw_dropped(&topic) {
            return;
        }
        let at = At { captured: block.captured, sequence: block.seq as u32 };
        let message = |samples: &[i16]| RawAudio {
            timestamp: Some(Timestamp::from_unix(self.session.unix(block.captured))),
            data: samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
            format: "pcm-s16".to_owned(),
            sample_rate: AUDIO_RATE_HZ,
            number_of_channels: 1,
        };
        let heard = message(&block.samples);
        let played = message(&block.played);
        let source_stamp = Some((source, block.stamp));
        if block.played.iter().any(|sample| *sample != 0) {
            let played_topic = self.topic("played", source);
            self.put(&played_topic, "foxglove.RawAudio", source_stamp, at, &played.encode_to_vec());
        }
        if self.put(&topic, "foxglove.RawAudio", source_stamp, at, &heard.encode_to_vec()) {
            self.payload_hash(source, at, &[&heard.data, &played.data]);
        }
    }

    /// Records a report of the robot's own values. In a run they are part of the ticks; this is for logs without ticks.
    pub fn status(&mut self, status: &Status) {
        let at = At { captured: status.captured, sequence: status.seq as u32 };
        let view = serde_json::to_vec(status).unwrap_or_default();
        self.put("/status", views::schema_of("/status"), None, at, &view);
    }

    /// Records a tick: its inputs and decisions to the byte, then the views that people read.
    pub fn tick(&mut self, inputs: &Inputs, outputs: &Outputs, woke: Nanos, work: Nanos) {
        let at = At { captured: inputs.now, sequence: inputs.tick as u32 };
        let mut decided = Vec::new();
        decided_bytes(inputs.tick, outputs, &mut decided);
        let tick = Tick {
            timestamp: Some(Timestamp::from_unix(self.session.unix(inputs.now))),
            tick: inputs.tick,
            now_ns: inputs.now.0,
            skipped: inputs.skipped,
            woke_ns: woke.0,
            work_ns: work.0,
            state: views::state_name(outputs.vitals.state).to_owned(),
            state_hash: outputs.state_hash.to_vec(),
            lost_before: self.lost_ticks,
            inputs: postcard::to_allocvec(inputs).unwrap_or_default(),
            decided,
        };
        self.summary.digest.update_bytes(&tick.decided);
        if !self.put("/tick", "sage.Tick", None, at, &tick.encode_to_vec()) {
            return;
        }
        self.lost_ticks = 0;
        self.summary.ticks += 1;
        self.tick_views(inputs, outputs);
    }

    fn tick_views(&mut self, inputs: &Inputs, outputs: &Outputs) {
        for features in &inputs.camera {
            let topic = self.topic("features", features.source);
            let at = At { captured: features.captured, sequence: features.seq as u32 };
            self.put(&topic, "sage.Features", None, at, views::camera(features).to_string().as_bytes());
        }
        for features in &inputs.audio {
            let topic = self.topic("features", features.source);
            let at = At { captured: features.captured, sequence: features.seq as u32 };
            self.put(&topic, "sage.Features", None, at, views::audio(features).to_string().as_bytes());
        }
        let at = At { captured: inputs.now, sequence: inputs.tick as u32 };
        let mut list = Vec::new();
        views::of_tick(inputs, outputs, |topic, view| list.push((topic, view)));
        let state = views::state_name(outputs.vitals.state);
        if state != self.state || inputs.now.since(self.vitals_at) >= VITALS_EVERY {
            (self.state, self.vitals_at) = (state, inputs.now);
            list.push(("/state", views::state(inputs.tick, &outputs.vitals)));
            list.push(("/salience", views::salience(inputs.tick, &outputs.vitals)));
        }
        for (topic, view) in list {
            self.put(topic, views::schema_of(topic), None, at, view.to_string().as_bytes());
        }
    }

    /// Records the core's state before tick `next_tick`. A new file begins here if the old one is full or lost.
    pub fn keyframe(&mut self, next_tick: u64, state: &[u8]) {
        let now = self.clock.now();
        let full = self.limits.max_bytes > 0 && self.file.as_ref().is_some_and(|f| f.bytes() >= self.limits.max_bytes);
        if full {
            self.end_part(false);
        }
        let retry = self.summary.stopped.is_none() || now.since(self.failed_at) >= RETRY_AFTER;
        if self.file.is_none() && retry {
            match self.open_part() {
                Ok(()) => self.summary.stopped = None,
                Err(error) => {
                    self.failed_at = now;
                    self.summary.stopped = Some(format!("{}: {error}", self.dir.display()));
                }
            }
        }
        let view = json!({
            "next_tick": next_tick, "digest": self.summary.digest.hex(), "state": base64::encode(state),
        });
        let at = At { captured: now, sequence: next_tick as u32 };
        self.put("/keyframe", "sage.Keyframe", None, at, view.to_string().as_bytes());
    }

    /// Records a line of text.
    pub fn log(&mut self, level: Level, text: &str) {
        let now = self.clock.now();
        let line = LogLine {
            timestamp: Some(Timestamp::from_unix(self.session.unix(now))),
            level: level as i32,
            message: text.to_owned(),
            name: "sage".to_owned(),
            file: String::new(),
            line: 0,
        };
        self.put("/log", "foxglove.Log", None, At { captured: now, sequence: 0 }, &line.encode_to_vec());
    }

    /// To be called often: syncs about once a second, watches the disk, writes down what was lost.
    pub fn poll(&mut self) {
        let now = self.clock.now();
        if self.file.is_none() || now.since(self.synced) < SYNC_EVERY {
            return;
        }
        self.synced = now;
        for (what, count) in std::mem::take(&mut self.unsaid) {
            let view = json!({ "what": what, "count": count }).to_string();
            self.put("/gap", "sage.Gap", None, At { captured: now, sequence: 0 }, view.as_bytes());
        }
        self.with_file("sync", LogFile::sync);
        let Some(free) = self.file.as_ref().and_then(LogFile::free_bytes) else { return };
        // A tenth more must be free before raw sensors come back, so that they do not flicker.
        let keep = self.limits.keep_free_bytes;
        let enough = if self.raw_allowed { free >= keep } else { free >= keep.saturating_add(keep / 10) };
        let allowed = self.limits.raw && enough;
        if allowed != self.raw_allowed {
            self.raw_allowed = allowed;
            let text = if allowed {
                "the disk has room again: frames and sound are recorded".to_owned()
            } else {
                format!("only {free} bytes are free on the disk: frames and sound are no longer recorded")
            };
            tracing::warn!("{text}");
            self.log(Level::Warning, &text);
        }
    }

    fn end_part(&mut self, last: bool) {
        let lost: BTreeMap<_, _> = self.summary.lost.iter().collect();
        let end = [
            ("digest", self.summary.digest.hex()),
            ("ticks", self.summary.ticks.to_string()),
            ("lost", serde_json::to_string(&lost).unwrap_or_default()),
            ("last_file", last.to_string()),
        ];
        let end = end.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if !self.with_file("end", |file| file.metadata(END, end)) {
            return;
        }
        let Some(file) = self.file.take() else { return };
        let path = file.path().to_owned();
        match file.close() {
            Ok(bytes) => self.summary.bytes += bytes,
            Err(error) => {
                self.summary.stopped = Some(format!("{}: {error}; the file has no index", path.display()));
            }
        }
    }

    /// Files so far, their size, what was lost.
    pub fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        summary.bytes += self.file.as_ref().map_or(0, LogFile::bytes);
        summary
    }

    /// Ends the recording: summary and index, then a sync.
    pub fn close(mut self) -> Summary {
        self.synced = Nanos::ZERO;
        self.poll();
        if self.file.is_some() {
            self.end_part(true);
        }
        self.summary
    }

    /// Sources of one kind that this recording knows.
    pub fn sources(&self, kind: SourceKind) -> Vec<SourceId> {
        self.session.core.sources_of(kind).collect()
    }
}

/// When something was captured, and its number.
#[derive(Debug, Clone, Copy)]
struct At {
    captured: Nanos,
    sequence: u32,
}

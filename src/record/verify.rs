//! `replay --verify`: runs the core again over the recorded inputs and compares what comes out, tick by tick, to the byte.
//! A log flows in; a report flows out that names the first tick that differs, with both sides. It may begin at any
//! keyframe. What the recorder had to drop makes a log incomplete from a tick on, which is not a difference.

use super::base64;
use super::digest::{Digest, decided_bytes};
use super::proto;
use super::reader::{Item, LogError, LogReader, Message};
use super::session::{END, SESSION, SessionInfo};
use crate::config::CoreConfig;
use crate::types::{Act, Command, Decision, Inputs, Nanos, Outputs};
use prost::Message as _;
use std::path::{Path, PathBuf};

/// Differences that are kept in full.
const KEPT: usize = 10;

/// A core that can be run again.
pub trait ReplayCore: Sized {
    /// A core at its beginning.
    fn fresh(config: &CoreConfig) -> Self;
    /// A core that goes on from a keyframe.
    ///
    /// # Errors
    /// A sentence if the keyframe does not fit.
    fn thaw(config: &CoreConfig, keyframe: &[u8]) -> Result<Self, String>;
    /// One tick; `outputs` may hold those of the tick before and is replaced.
    fn tick(&mut self, inputs: &Inputs, outputs: &mut Outputs);
    /// The state as bytes.
    fn keyframe(&self) -> Vec<u8>;
}

/// A tick that came out differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Which tick.
    pub tick: u64,
    /// What the log says.
    pub recorded: String,
    /// What the core says now.
    pub replayed: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Ticks that were run again.
    pub ticks: u64,
    /// The first and the last of them.
    pub span: Option<(u64, u64)>,
    /// Time between them on the session's clock.
    pub log_time: Nanos,
    /// The digest as it comes out now.
    pub digest: Digest,
    /// The digest that the live run wrote at its end, if it got there.
    pub recorded_digest: Option<Digest>,
    /// Places where the two part; after each, the next keyframe is taken up.
    pub mismatches: u64,
    /// The first of them in full.
    pub first: Vec<Mismatch>,
    /// Ticks from which on the log lacks inputs, up to the next keyframe.
    pub incomplete_from: Vec<u64>,
    /// Ticks that lie before the first keyframe and could not be run.
    pub unreached: u64,
    /// Keyframes that were compared with the running core.
    pub keyframes: u64,
    /// What could not be read, one sentence each.
    pub warnings: Vec<String>,
    /// The run.
    pub session: Option<SessionInfo>,
}

impl VerifyReport {
    /// Something was run and nothing differed.
    pub fn good(&self) -> bool {
        self.mismatches == 0 && self.ticks > 0
    }
}

/// Gets every tick that was run again: inputs, outputs, wake-up and work as recorded.
pub type Observer<'a> = &'a mut dyn FnMut(&Inputs, &Outputs, Nanos, Nanos);

/// What to verify.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Begin at the first keyframe at or after this tick.
    pub from_tick: Option<u64>,
}

/// The files of a log: the file itself, or all MCAP files of a folder by name.
///
/// # Errors
/// When the folder cannot be read or has none.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>, LogError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let io = |source| LogError::Io { path: path.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.extension().is_some_and(|extension| extension == "mcap") {
            files.push(file);
        }
    }
    // By stem, so that `run.mcap` comes before `run-001.mcap`.
    files.sort_by(|a, b| a.file_stem().cmp(&b.file_stem()));
    if files.is_empty() {
        return Err(LogError::Content { path: path.to_owned(), why: "the folder holds no .mcap file".to_owned() });
    }
    Ok(files)
}

/// The run that a log, or the first log of a folder, belongs to.
///
/// # Errors
/// `LogError` for a file that is no log of ours.
pub fn session_of(path: &Path) -> Result<SessionInfo, LogError> {
    for file in files_of(path)? {
        let mut reader = LogReader::open(&file)?.only(|_| false);
        while let Some(item) = reader.next_item() {
            if let Item::Metadata { name, map } = item
                && name == SESSION
            {
                let session = SessionInfo::from_metadata(&map).map_err(|why| LogError::Content { path: file, why })?;
                return Ok(session.0);
            }
        }
    }
    let why = "it is not a recording of this program (no session metadata); try --simulate".to_owned();
    Err(LogError::Content { path: path.to_owned(), why })
}

/// Verifies a log, or all logs of a folder in order.
///
/// # Errors
/// `LogError` for a file that is no log of ours; what is wrong inside a log is in the report.
pub fn verify<C: ReplayCore>(path: &Path, options: Options, observer: Observer<'_>) -> Result<VerifyReport, LogError> {
    let mut run = Run::<C> {
        report: VerifyReport::default(),
        config: None,
        core: None,
        next: None,
        pending: None,
        before: None,
        fresh_allowed: true,
        options,
        outputs: Box::default(),
        bytes: Vec::new(),
        observer,
    };
    for file in files_of(path)? {
        run.file(&file)?;
    }
    if run.report.ticks == 0 && run.report.mismatches == 0 {
        let why = match run.report.unreached {
            0 => "the log holds no ticks; it can be replayed with --simulate",
            _ => "the log holds ticks but no keyframe to begin from",
        };
        return Err(LogError::Content { path: path.to_owned(), why: why.to_owned() });
    }
    let report = &run.report;
    if report.good()
        && report.incomplete_from.is_empty()
        && let (Some(recorded), Some((_, last))) = (report.recorded_digest, report.span)
        && recorded != report.digest
    {
        let (recorded, replayed) = (format!("digest {}", recorded.hex()), format!("digest {}", report.digest.hex()));
        run.differ(Mismatch { tick: last, recorded, replayed });
    }
    Ok(run.report)
}

struct Run<'a, C> {
    report: VerifyReport,
    config: Option<CoreConfig>,
    core: Option<C>,
    /// The tick that must come next, skipped ones included.
    next: Option<u64>,
    pending: Option<Keyframe>,
    /// Instant of the tick that was run before.
    before: Option<Nanos>,
    fresh_allowed: bool,
    options: Options,
    outputs: Box<Outputs>,
    bytes: Vec<u8>,
    observer: Observer<'a>,
}

impl<C: ReplayCore> Run<'_, C> {
    fn file(&mut self, path: &Path) -> Result<(), LogError> {
        let mut reader = LogReader::open(path)?.only(|channel| {
            matches!(
                (channel.topic.as_str(), channel.schema.as_str()),
                ("/tick", "sage.Tick") | ("/keyframe", "sage.Keyframe")
            )
        });
        while let Some(item) = reader.next_item() {
            match item {
                Item::Metadata { name, map } if name == SESSION => match SessionInfo::from_metadata(&map) {
                    Ok((session, hash)) => {
                        let first_file = map.get("part").is_none_or(|part| part == "0");
                        self.session(session, &hash, first_file);
                    }
                    Err(why) => return Err(LogError::Content { path: path.to_owned(), why }),
                },
                Item::Metadata { name, map } if name == END => {
                    self.report.recorded_digest = map.get("digest").and_then(|hex| Digest::from_hex(hex));
                    // An end that is missing at the end of a series must not be hidden by an earlier one.
                }
                Item::Metadata { .. } => {}
                Item::Message(message) => {
                    self.report.recorded_digest = None;
                    if message.channel.topic == "/tick" {
                        self.tick(&message);
                    } else {
                        self.keyframe(&message);
                    }
                }
            }
        }
        for warning in reader.warnings() {
            self.report.warnings.push(format!("{}: {warning}", path.display()));
        }
        if self.config.is_none() {
            let why = "it is not a recording of this program (no session metadata); try --simulate".to_owned();
            return Err(LogError::Content { path: path.to_owned(), why });
        }
        Ok(())
    }

    fn session(&mut self, session: SessionInfo, hash: &str, first_file: bool) {
        let continues = self.report.session.as_ref().is_some_and(|known| known.id() == session.id());
        if !continues {
            // Another run: nothing carries over.
            (self.core, self.next, self.pending, self.fresh_allowed) = (None, None, None, first_file);
            self.before = None;
            self.report.digest = Digest::default();
        }
        if session.core.hash() != hash && !continues {
            self.differ(Mismatch {
                tick: 0,
                recorded: format!("configuration with hash {hash}"),
                replayed: format!("the configuration in the log has hash {}: it was changed", session.core.hash()),
            });
            self.fresh_allowed = first_file;
        }
        self.config = Some(session.core.clone());
        self.report.session = Some(session);
    }

    fn differ(&mut self, mismatch: Mismatch) {
        self.report.mismatches += 1;
        if self.report.first.len() < KEPT {
            self.report.first.push(mismatch);
        }
        self.core = None;
        self.fresh_allowed = false;
    }

    fn incomplete(&mut self, from: u64) {
        self.report.incomplete_from.push(from);
        self.core = None;
        self.fresh_allowed = false;
    }

    fn warn(&mut self, text: String) {
        if self.report.warnings.len() < 20 {
            self.report.warnings.push(text);
        }
    }

    /// A keyframe is looked at when the tick behind it is known: ticks that were skipped between them are no gap.
    fn keyframe(&mut self, message: &Message) {
        let Some(keyframe) = Keyframe::parse(&message.data) else {
            self.warn(format!("the keyframe number {} cannot be read and was left out", message.sequence));
            return;
        };
        if self.options.from_tick.is_none_or(|from| keyframe.next_tick >= from) {
            self.pending = Some(keyframe);
        }
    }

    /// Compares the running core with a keyframe, or takes it up if there is none. `first` is the tick that follows,
    /// those skipped before it included; `tick` is its number.
    fn settle(&mut self, keyframe: Keyframe, first: u64, tick: u64) {
        if self.core.is_some()
            && let Some(next) = self.next
            && next < first
        {
            self.incomplete(next);
        }
        let fits = (first..=tick).contains(&keyframe.next_tick);
        if let Some(core) = &self.core {
            self.report.keyframes += 1;
            let now = core.keyframe();
            if now == keyframe.state && keyframe.digest == self.report.digest {
                return;
            }
            self.differ(Mismatch {
                tick: keyframe.next_tick,
                recorded: describe_state("keyframe before this tick", &keyframe.state, keyframe.digest),
                replayed: describe_state("state", &now, self.report.digest),
            });
        }
        let Some(config) = &self.config else { return };
        match C::thaw(config, &keyframe.state) {
            Ok(core) => {
                self.core = Some(core);
                self.next = Some(if fits { first } else { keyframe.next_tick });
                self.report.digest = keyframe.digest;
            }
            Err(why) => self.warn(format!("the keyframe before tick {} cannot be used: {why}", keyframe.next_tick)),
        }
    }

    fn tick(&mut self, message: &Message) {
        let parsed = proto::Tick::decode(message.data.as_slice()).map_err(|error| error.to_string()).and_then(|tick| {
            match postcard::from_bytes::<Inputs>(&tick.inputs) {
                Ok(inputs) => Ok((tick, Box::new(inputs))),
                Err(error) => Err(error.to_string()),
            }
        });
        let (tick, inputs) = match parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                self.warn(format!("the record of tick {} cannot be read: {why}", message.sequence));
                return self.incomplete(u64::from(message.sequence));
            }
        };
        let first_skipped = inputs.tick.saturating_sub(u64::from(inputs.skipped));
        if let Some(keyframe) = self.pending.take() {
            self.settle(keyframe, first_skipped, inputs.tick);
        }
        // Without a keyframe: the first tick of a run, if the recorder lost none before it, meets a core at its beginning.
        let from_here = self.options.from_tick.is_none() && tick.lost_before == 0;
        if self.core.is_none() && self.fresh_allowed && from_here {
            self.core = self.config.as_ref().map(C::fresh);
            self.next = Some(first_skipped);
        }
        self.fresh_allowed = false;
        if self.core.is_none() {
            self.report.unreached += u64::from(self.report.ticks == 0 && self.report.mismatches == 0);
            return;
        }
        // A recorder that keeps up writes every tick; a number that is neither here nor skipped was lost.
        if let Some(next) = self.next
            && next != first_skipped
        {
            return self.incomplete(next);
        }
        self.run(&tick, &inputs);
    }

    fn run(&mut self, tick: &proto::Tick, inputs: &Inputs) {
        let Some(core) = &mut self.core else { return };
        core.tick(inputs, &mut self.outputs);
        decided_bytes(inputs.tick, &self.outputs, &mut self.bytes);
        self.report.digest.update_bytes(&self.bytes);
        self.report.ticks += 1;
        self.report.log_time += self.before.map_or(Nanos::ZERO, |before| inputs.now.since(before));
        self.before = Some(inputs.now);
        let first = self.report.span.map_or(inputs.tick, |span| span.0);
        self.report.span = Some((first, inputs.tick));
        self.next = Some(inputs.tick + 1);
        (self.observer)(inputs, &self.outputs, Nanos(tick.woke_ns), Nanos(tick.work_ns));
        if self.bytes != tick.decided {
            let (recorded, replayed) = (describe(&tick.decided), describe(&self.bytes));
            self.differ(Mismatch { tick: inputs.tick, recorded, replayed });
        } else if self.outputs.state_hash[..] != tick.state_hash[..] {
            let recorded = format!("state hash {}, the same decisions", hex(&tick.state_hash));
            let replayed = format!("state hash {}", hex(&self.outputs.state_hash));
            self.differ(Mismatch { tick: inputs.tick, recorded, replayed });
        }
    }
}

/// The core's state between two ticks.
struct Keyframe {
    next_tick: u64,
    digest: Digest,
    state: Vec<u8>,
}

impl Keyframe {
    fn parse(data: &[u8]) -> Option<Keyframe> {
        let value: serde_json::Value = serde_json::from_slice(data).ok()?;
        let state = base64::decode(value["state"].as_str()?)?;
        let digest = Digest::from_hex(value["digest"].as_str()?)?;
        Some(Keyframe { next_tick: value["next_tick"].as_u64()?, digest, state })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn describe_state(what: &str, state: &[u8], digest: Digest) -> String {
    let hash = blake3::hash(state).to_hex();
    format!("{what}: {} bytes, BLAKE3 {}, digest {}", state.len(), &hash[..16], &digest.hex()[..16])
}

/// What a tick decided, for people.
fn describe(decided: &[u8]) -> String {
    match postcard::from_bytes::<(u64, Vec<Decision>, Vec<Command>, Vec<Act>)>(decided) {
        Ok((_, decisions, commands, acts)) => {
            let json = |value: serde_json::Result<String>| value.unwrap_or_default();
            format!(
                "decisions {} commands {} acts {}",
                json(serde_json::to_string(&decisions)),
                json(serde_json::to_string(&commands)),
                json(serde_json::to_string(&acts)),
            )
        }
        Err(error) => format!("{} bytes that cannot be read ({error})", decided.len()),
    }
}

//! The streams of somebody else's log brought into our form: one clock from 1 s on, frames that never go back in time,
//! sound resampled and cut into blocks. Messages flow in; payloads flow out.

use super::foreign::{self, Form, Sensed, Sound};
use super::reader::Message;
use super::sensors::Payload;
use super::timebase::{self, Stamps, TimeBase, Which};
use crate::sense::resample::Resampler;
use crate::types::{
    AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, Frame, Nanos, PixelFormat, SourceId, SourceKind, Stamp, Status,
};
use std::collections::{BTreeMap, BTreeSet};

/// The first message of a foreign log gets this instant.
const BEGIN: Nanos = Nanos::from_s(1);
/// Sound whose stamps run away from its samples by more than this is set right by a jump.
const SOUND_DRIFT: Nanos = Nanos::from_ms(200);
/// A silence of the whole log longer than this is cut to one second.
const LONGEST_PAUSE: Nanos = Nanos::from_s(60);
/// Length of one block.
const BLOCK: Nanos = Nanos(1_000_000_000 * AUDIO_BLOCK as u64 / AUDIO_RATE_HZ as u64);

/// One source.
struct Stream {
    id: SourceId,
    first: Option<u64>,
    interval_ns: u64,
    messages: u64,
    seq: u64,
    last: Nanos,
    sound: Option<Resampler>,
    samples: Vec<i16>,
    next_block: Option<Nanos>,
}

/// All sources of a foreign log.
pub struct ForeignStreams {
    streams: BTreeMap<String, Stream>,
    base: TimeBase,
    origin: u64,
    pause_cut: u64,
    newest: Nanos,
    notes: Vec<String>,
    noted: BTreeSet<String>,
}

impl ForeignStreams {
    /// Streams for these sources (kind and topic, in order); `stamps` are the first times of cameras and microphones.
    pub fn new(
        sources: &[(SourceKind, String)],
        stamps: &[(SourceKind, Stamps)],
        notes: &mut Vec<String>,
    ) -> ForeignStreams {
        let (base, note) = timebase::choose(stamps);
        notes.extend(note);
        let mut firsts = Vec::new();
        let mut streams = BTreeMap::new();
        for (i, (_, topic)) in sources.iter().enumerate() {
            let known = stamps.get(i).map(|(_, stamps)| stamps);
            let first = known.and_then(|stamps| first_ns(stamps, base));
            firsts.extend(first);
            let stream = Stream {
                id: SourceId(i as u8),
                first,
                interval_ns: known.map_or(100_000_000, |stamps| timebase::interval_ns(stamps, base)),
                messages: 0,
                seq: 0,
                last: Nanos::ZERO,
                sound: None,
                samples: Vec::new(),
                next_block: None,
            };
            streams.insert(topic.clone(), stream);
        }
        ForeignStreams {
            streams,
            base,
            origin: firsts.into_iter().min().unwrap_or(0),
            pause_cut: 0,
            newest: BEGIN,
            notes: Vec::new(),
            noted: BTreeSet::new(),
        }
    }

    /// Sentences about messages that could not be used or times that had to be corrected; each once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn note(&mut self, topic: &str, text: String) {
        if self.notes.len() < 20 && self.noted.insert(format!("{topic} {text}")) {
            self.notes.push(format!("{topic}: {text}"));
        }
    }

    /// When a message happened, before streams are kept in order; `None` if its samples must tell.
    fn instant(&mut self, message: &Message, header: Option<u64>) -> Option<Nanos> {
        let stream = self.streams.get(&message.channel.topic)?;
        let raw = match self.base {
            TimeBase::Clock { which, unit_ns } => value(which, message, header)?.saturating_mul(unit_ns),
            TimeBase::Coarse { .. } => {
                stream.first.unwrap_or(self.origin) + stream.messages.saturating_mul(stream.interval_ns)
            }
            TimeBase::None => self.origin + stream.messages.saturating_mul(stream.interval_ns),
        };
        let mut at = BEGIN + Nanos(raw.saturating_sub(self.origin).saturating_sub(self.pause_cut));
        if at.since(self.newest) > LONGEST_PAUSE {
            let cut = at.since(self.newest) - Nanos::from_s(1);
            self.pause_cut += cut.0;
            at = at - cut;
            let text = format!("a pause of {:.0} s was cut to 1 s", cut.as_s() + 1.0);
            self.note(&message.channel.topic, text);
        }
        self.newest = self.newest.max(at);
        Some(at)
    }

    /// Takes one message and hands what it gives to `out`.
    pub fn message(&mut self, message: &Message, out: &mut dyn FnMut(Payload)) {
        let topic = &message.channel.topic;
        let Some(form) = Form::of(&message.channel) else { return };
        let (header, sensed) = match foreign::decode(form, &message.data) {
            Ok(decoded) => decoded,
            Err(why) => return self.note(topic, why),
        };
        let at = self.instant(message, header);
        let Some(stream) = self.streams.get_mut(topic) else { return };
        stream.messages += 1;
        match sensed {
            Sensed::Picture(picture) => match picture.decode() {
                Ok(rgb) => {
                    let jpeg = match picture {
                        foreign::Picture::Jpeg(bytes) => Some(bytes),
                        foreign::Picture::Raw { .. } => None,
                    };
                    let frame = Frame {
                        seq: stream.seq,
                        captured: stream.forward(at),
                        stamp: Stamp::Arrival,
                        width: rgb.width,
                        height: rgb.height,
                        format: PixelFormat::Rgb8,
                        bytes: rgb.rgb,
                        jpeg,
                    };
                    stream.seq += 1;
                    out(Payload::Frame(stream.id, frame));
                }
                Err(why) => self.note(topic, why),
            },
            Sensed::Sound(sound) => {
                // Without meaningful times, sound follows its own samples.
                let at = if self.base == TimeBase::None { Some(BEGIN) } else { at };
                let drift = if matches!(self.base, TimeBase::Clock { .. }) { SOUND_DRIFT } else { Nanos::NEVER };
                if let Err(why) = stream.sound(&sound, at, drift, out) {
                    self.note(topic, why);
                }
            }
            Sensed::Status(status) => {
                let captured = stream.forward(at);
                out(Payload::Status(Status { captured, ..status }));
            }
        }
    }
}

fn value(which: Which, message: &Message, header: Option<u64>) -> Option<u64> {
    match which {
        Which::Header => header.or(Some(message.publish_ns)),
        Which::Publish => Some(message.publish_ns),
        Which::Log => Some(message.log_ns),
    }
}

fn first_ns(stamps: &Stamps, base: TimeBase) -> Option<u64> {
    let (TimeBase::Clock { which, unit_ns } | TimeBase::Coarse { which, unit_ns }) = base else { return Some(0) };
    let first = match which {
        Which::Header => stamps.header.iter().flatten().min().copied(),
        Which::Publish => stamps.publish.iter().min().copied(),
        Which::Log => stamps.log.iter().min().copied(),
    };
    first.map(|first| first.saturating_mul(unit_ns))
}

impl Stream {
    /// The instant, but never before or at the one before.
    fn forward(&mut self, at: Option<Nanos>) -> Nanos {
        let at = at.unwrap_or(self.last).max(self.last + Nanos(1));
        self.last = at;
        at
    }

    fn sound(
        &mut self,
        sound: &Sound,
        at: Option<Nanos>,
        drift: Nanos,
        out: &mut dyn FnMut(Payload),
    ) -> Result<(), String> {
        let same = |known: &Resampler| known.rate_hz() == sound.rate_hz && known.channels() == sound.channels;
        if !self.sound.as_ref().is_some_and(same) {
            self.sound = Some(Resampler::new(sound.rate_hz, sound.channels)?);
            self.samples.clear();
        }
        let Some(resampler) = &mut self.sound else { return Ok(()) };
        let expected = self.next_block.map(|next| next + Nanos(self.samples.len() as u64 * 62_500));
        match (expected, at) {
            (None, _) => self.next_block = Some(at.unwrap_or(BEGIN)),
            (Some(expected), Some(at)) if at.since(expected) > drift => {
                // A gap: what was begun is given up and the missing blocks are counted as lost.
                let next = self.next_block.unwrap_or(at);
                self.seq += at.since(next).0 / BLOCK.0;
                self.samples.clear();
                self.next_block = Some(at);
            }
            _ => {}
        }
        let samples = &mut self.samples;
        resampler.push_i16(sound.samples.iter().copied(), |sample| samples.push(sample));
        let mut whole = samples.chunks_exact(AUDIO_BLOCK);
        for block in &mut whole {
            let Ok(block) = <[i16; AUDIO_BLOCK]>::try_from(block) else { continue };
            let captured = self.next_block.unwrap_or(BEGIN);
            self.next_block = Some(captured + BLOCK);
            let played = [0; AUDIO_BLOCK];
            let block = AudioBlock { seq: self.seq, captured, stamp: Stamp::Arrival, samples: block, played };
            self.seq += 1;
            out(Payload::Audio(self.id, block));
        }
        let rest = whole.remainder().len();
        let done = samples.len() - rest;
        samples.drain(..done);
        Ok(())
    }
}

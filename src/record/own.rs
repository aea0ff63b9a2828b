//! Sensor payloads of our own logs, exactly as they were: the same bytes, sequence numbers, stamps and monotonic instants
//! as live. Messages flow in; payloads flow out, or what is damaged about one.

use super::foreign::{self, Form, Picture, Sensed};
use super::reader::{Channel, Message};
use super::sensors::Payload;
use super::session::SessionInfo;
use crate::types::{AUDIO_BLOCK, AudioBlock, Frame, Nanos, PixelFormat, SourceId, Stamp};
use std::collections::BTreeMap;
use std::fmt;

/// What the loudspeaker played during a block of sound.
#[derive(Debug, Clone, Copy)]
pub struct Played {
    sequence: u32,
    samples: [i16; AUDIO_BLOCK],
}

impl Played {
    /// First part of its topics.
    pub const GROUP: &'static str = "played";
}

/// A payload that cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its source.
    pub source: SourceId,
    /// Its sequence number.
    pub seq: u64,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "payload {} of source {} was left out: {}", self.seq, self.source.0, self.why)
    }
}

/// Turns messages back into payloads.
pub struct OwnDecoder {
    session: SessionInfo,
    played: BTreeMap<SourceId, Played>,
}

impl OwnDecoder {
    /// A decoder for logs of this run.
    pub fn new(session: SessionInfo) -> OwnDecoder {
        OwnDecoder { session, played: BTreeMap::new() }
    }

    /// The instant of a Unix time on the run's clock.
    pub fn instant(&self, unix_ns: u64) -> Nanos {
        self.session.instant(unix_ns)
    }

    /// Whether a channel holds payloads or the robot's values.
    pub fn wants(channel: &Channel) -> bool {
        OwnDecoder::group(&channel.topic).is_some() || channel.topic == "/status"
    }

    /// camera, mic or played, for topics of payloads.
    pub fn group(topic: &str) -> Option<&'static str> {
        let group = topic.strip_prefix('/')?.split_once('/')?.0;
        ["camera", "mic", Played::GROUP].into_iter().find(|known| *known == group)
    }

    /// One message; `None` if it is no payload or only prepares one.
    pub fn message(&mut self, message: &Message) -> Option<Result<Payload, Damage>> {
        let channel = &message.channel;
        let seq = u64::from(message.sequence);
        if channel.topic == "/status" {
            let (_, sensed) = foreign::decode(Form::JsonStatus, &message.data).ok()?;
            let Sensed::Status(status) = sensed else { return None };
            return Some(Ok(Payload::Status(status)));
        }
        let group = OwnDecoder::group(&channel.topic)?;
        let source = SourceId(channel.metadata.get("source")?.parse().ok()?);
        let stamp = match channel.metadata.get("stamp").map(String::as_str) {
            Some("device") => Stamp::Device,
            _ => Stamp::Arrival,
        };
        let captured = self.session.instant(message.publish_ns);
        let damage = |why: String| Damage { source, seq, why };
        let sensed = match Form::of(channel).map(|form| foreign::decode(form, &message.data)) {
            Some(Ok((_, sensed))) => sensed,
            Some(Err(why)) => return Some(Err(damage(why))),
            None => return Some(Err(damage(format!("its schema {} is unknown", channel.schema)))),
        };
        match sensed {
            Sensed::Picture(picture) => {
                let rgb = match picture.decode() {
                    Ok(rgb) => rgb,
                    Err(why) => return Some(Err(damage(why))),
                };
                let jpeg = match picture {
                    Picture::Jpeg(bytes) => Some(bytes),
                    Picture::Raw { .. } => None,
                };
                let frame = Frame {
                    seq,
                    captured,
                    stamp,
                    width: rgb.width,
                    height: rgb.height,
                    format: PixelFormat::Rgb8,
                    bytes: rgb.rgb,
                    jpeg,
                };
                Some(Ok(Payload::Frame(source, frame)))
            }
            Sensed::Sound(sound) => {
                let Ok(samples) = <[i16; AUDIO_BLOCK]>::try_from(sound.samples.as_slice()) else {
                    let why = format!("it has {} samples instead of {AUDIO_BLOCK}", sound.samples.len());
                    return Some(Err(damage(why)));
                };
                if group == Played::GROUP {
                    self.played.insert(source, Played { sequence: message.sequence, samples });
                    return None;
                }
                let played = self.played.remove(&source).filter(|played| played.sequence == message.sequence);
                let played = played.map_or([0; AUDIO_BLOCK], |played| played.samples);
                Some(Ok(Payload::Audio(source, AudioBlock { seq, captured, stamp, samples, played })))
            }
            Sensed::Status(_) => None,
        }
    }

    /// First 16 bytes of BLAKE3 over a payload as recorded, in hex: what `/sensor` holds.
    pub fn payload_hash(payload: &Payload) -> Option<String> {
        let mut hasher = blake3::Hasher::new();
        match payload {
            Payload::Frame(_, frame) => hasher.update(frame.jpeg.as_ref().unwrap_or(&frame.bytes)),
            Payload::Audio(_, block) => {
                for sample in block.samples.iter().chain(&block.played) {
                    hasher.update(&sample.to_le_bytes());
                }
                &mut hasher
            }
            Payload::Status(_) => return None,
        };
        Some(hasher.finalize().to_hex()[..32].to_owned())
    }
}

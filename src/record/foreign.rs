//! Pictures and sound as other programs put them into MCAP: ROS 2 `sensor_msgs` in CDR, Foxglove's schemas in protobuf
//! and JSON. A channel says which form it has; bytes of a message flow in, a picture or samples flow out, or one
//! sentence that says why not.

use super::proto::{CompressedImage, RawAudio, RawImage, Timestamp};
use super::reader::Channel;
use super::{base64, pixels};
use crate::sense::mjpeg;
use crate::types::SourceKind;
use prost::Message;
use serde_json::Value;
use std::borrow::Cow;
use std::io::Read;

/// A message that unpacks to more than this is refused, bytes.
const MAX_UNPACKED: u64 = 256 << 20;

/// How a channel's messages are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// sensor_msgs/msg/Image.
    RosImage,
    /// sensor_msgs/msg/CompressedImage.
    RosCompressedImage,
    /// foxglove.RawImage in protobuf.
    RawImage,
    /// foxglove.CompressedImage in protobuf.
    CompressedImage,
    /// foxglove.RawAudio in protobuf.
    RawAudio,
    /// foxglove.RawImage in JSON.
    JsonRawImage,
    /// foxglove.CompressedImage in JSON.
    JsonCompressedImage,
    /// foxglove.RawAudio in JSON.
    JsonRawAudio,
    /// `types::Status` in JSON, on a topic that ends in `status`.
    JsonStatus,
}

impl Form {
    /// The form of a channel; `None` if it holds nothing for a sense.
    pub fn of(channel: &Channel) -> Option<Form> {
        let schema = channel.schema.as_str();
        match channel.encoding.as_str() {
            "cdr" => match schema {
                "sensor_msgs/msg/Image" | "sensor_msgs/Image" => Some(Form::RosImage),
                "sensor_msgs/msg/CompressedImage" | "sensor_msgs/CompressedImage" => Some(Form::RosCompressedImage),
                _ => None,
            },
            "protobuf" => match schema {
                "foxglove.RawImage" => Some(Form::RawImage),
                "foxglove.CompressedImage" => Some(Form::CompressedImage),
                "foxglove.RawAudio" => Some(Form::RawAudio),
                _ => None,
            },
            "json" => match schema {
                "foxglove.RawImage" => Some(Form::JsonRawImage),
                "foxglove.CompressedImage" => Some(Form::JsonCompressedImage),
                "foxglove.RawAudio" => Some(Form::JsonRawAudio),
                "sage.Status" => Some(Form::JsonStatus),
                _ if channel.topic.ends_with("/status") && schema.ends_with("Status") => Some(Form::JsonStatus),
                _ => None,
            },
            _ => None,
        }
    }

    /// What sense it serves.
    pub fn kind(self) -> SourceKind {
        match self {
            Form::RawAudio | Form::JsonRawAudio => SourceKind::Microphone,
            Form::JsonStatus => SourceKind::Status,
            _ => SourceKind::Camera,
        }
    }
}

/// A picture, not yet decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// A JPEG file.
    Jpeg(Vec<u8>),
    /// Raw pixels.
    Raw {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Name of the layout.
        encoding: String,
        /// Bytes from row to row.
        step: u32,
        /// The pixels.
        data: Vec<u8>,
    },
}

impl Picture {
    /// The pixels as RGB.
    ///
    /// # Errors
    /// A sentence that says why the picture cannot be used.
    pub fn decode(&self) -> Result<pixels::Rgb, String> {
        match self {
            Picture::Jpeg(bytes) => pixels::jpeg(bytes),
            Picture::Raw { width, height, encoding, step, data } => pixels::raw(encoding, *width, *height, *step, data),
        }
    }
}

/// Samples of one message, channels interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Rate, Hz.
    pub rate_hz: u32,
    /// Channels.
    pub channels: u32,
    /// The samples.
    pub samples: Vec<i16>,
}

/// What a message holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sensed {
    /// A picture.
    Picture(Picture),
    /// Sound.
    Sound(Sound),
    /// The robot's own values.
    Status(crate::types::Status),
}

/// Unpacks a message that was compressed on its own (rosbag2's "message" mode).
///
/// # Errors
/// A sentence if it is damaged or compressed in a way that is not known.
pub fn unpack(data: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if data.starts_with(b"\x28\xB5\x2F\xFD") {
        let bad = |error: std::io::Error| format!("a message compressed with zstd cannot be unpacked: {error}");
        let mut unpacked = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(data).map_err(bad)?;
        decoder.take(MAX_UNPACKED + 1).read_to_end(&mut unpacked).map_err(bad)?;
        if unpacked.len() as u64 > MAX_UNPACKED {
            return Err(format!("a message unpacks to more than {MAX_UNPACKED} bytes"));
        }
        return Ok(Cow::Owned(unpacked));
    }
    if data.starts_with(b"\x04\x22\x4D\x18") || data.starts_with(b"\x1F\x8B") {
        return Err("messages that are compressed one by one with lz4 or gzip cannot be read (zstd can)".to_owned());
    }
    Ok(Cow::Borrowed(data))
}

/// Reads one message: its own stamp in Unix ns if it has one, and what it holds.
///
/// # Errors
/// A sentence that says why the message cannot be used.
pub fn decode(form: Form, data: &[u8]) -> Result<(Option<u64>, Sensed), String> {
    let data = unpack(data)?;
    let broken = |error: prost::DecodeError| format!("the protobuf message is broken: {error}");
    let stamp = |timestamp: &Option<Timestamp>| timestamp.as_ref().map(Timestamp::unix_ns);
    match form {
        Form::RosImage => ros_image(&data).ok_or_else(|| short("sensor_msgs/Image")),
        Form::RosCompressedImage => {
            let (stamp, format, bytes) = ros_compressed(&data).ok_or_else(|| short("sensor_msgs/CompressedImage"))?;
            Ok((Some(stamp), Sensed::Picture(compressed(&format, bytes)?)))
        }
        Form::RawImage => {
            let image = RawImage::decode(&*data).map_err(broken)?;
            let RawImage { width, height, encoding, step, data, .. } = image;
            Ok((stamp(&image.timestamp), Sensed::Picture(Picture::Raw { width, height, encoding, step, data })))
        }
        Form::CompressedImage => {
            let image = CompressedImage::decode(&*data).map_err(broken)?;
            Ok((stamp(&image.timestamp), Sensed::Picture(compressed(&image.format, image.data)?)))
        }
        Form::RawAudio => {
            let audio = RawAudio::decode(&*data).map_err(broken)?;
            let sound = pcm(&audio.format, audio.sample_rate, audio.number_of_channels, &audio.data)?;
            Ok((stamp(&audio.timestamp), Sensed::Sound(sound)))
        }
        Form::JsonStatus => {
            let bad = |error: serde_json::Error| format!("the status cannot be read: {error}");
            let mut value: Value = serde_json::from_slice(&data).map_err(bad)?;
            if let Some(fields) = value.as_object_mut() {
                fields.entry("seq").or_insert(Value::from(0));
                fields.entry("captured").or_insert(Value::from(0));
            }
            Ok((None, Sensed::Status(serde_json::from_value(value).map_err(bad)?)))
        }
        Form::JsonRawImage | Form::JsonCompressedImage | Form::JsonRawAudio => json(form, &data),
    }
}

fn short(what: &str) -> String {
    format!("the {what} message is shorter than it says")
}

fn compressed(format: &str, data: Vec<u8>) -> Result<Picture, String> {
    if data.starts_with(b"\xFF\xD8") {
        let mut whole = Vec::with_capacity(data.len() + 512);
        mjpeg::complete(&data, &mut whole);
        return Ok(Picture::Jpeg(whole));
    }
    Err(format!("pictures compressed as \"{format}\" cannot be read (JPEG can)"))
}

fn pcm(format: &str, rate_hz: u32, channels: u32, data: &[u8]) -> Result<Sound, String> {
    if format != "pcm-s16" {
        return Err(format!("sound in format \"{format}\" cannot be read (pcm-s16 can)"));
    }
    let samples = data.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    Ok(Sound { rate_hz, channels, samples })
}

fn json(form: Form, data: &[u8]) -> Result<(Option<u64>, Sensed), String> {
    let value: Value = serde_json::from_slice(data).map_err(|error| format!("the JSON message is broken: {error}"))?;
    let number = |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let text = |key: &str| value[key].as_str().unwrap_or("");
    let stamp = value["timestamp"]["sec"].as_u64().map(|sec| {
        let nsec = &value["timestamp"]["nsec"];
        sec.saturating_mul(1_000_000_000) + nsec.as_u64().or(value["timestamp"]["nanosec"].as_u64()).unwrap_or(0)
    });
    let bytes = base64::decode(text("data")).ok_or("the JSON message's `data` is not base64")?;
    let sensed = match form {
        Form::JsonCompressedImage => Sensed::Picture(compressed(text("format"), bytes)?),
        Form::JsonRawAudio => {
            Sensed::Sound(pcm(text("format"), number("sample_rate"), number("number_of_channels"), &bytes)?)
        }
        _ => Sensed::Picture(Picture::Raw {
            width: number("width"),
            height: number("height"),
            encoding: text("encoding").to_owned(),
            step: number("step"),
            data: bytes,
        }),
    };
    Ok((stamp, sensed))
}

/// Walks a CDR message: primitives are aligned to their size, counted from behind the four-byte head.
struct Cdr<'a> {
    body: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Cdr<'a> {
    fn new(data: &'a [u8]) -> Option<Cdr<'a>> {
        // Representation identifiers: odd is little endian (OMG DDS-XTypes 1.3, 7.6.3.1.2).
        let (head, body) = data.split_first_chunk::<4>()?;
        Some(Cdr { body, at: 0, little: head[1] & 1 == 1 })
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let bytes = self.body.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.at = self.at.next_multiple_of(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    fn string(&mut self) -> Option<String> {
        let bytes = self.bytes()?;
        Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
    }

    /// std_msgs/Header: the stamp in ns.
    fn header(&mut self) -> Option<u64> {
        let (sec, nanosec) = (self.u32()?, self.u32()?);
        self.string()?;
        Some(u64::from(sec) * 1_000_000_000 + u64::from(nanosec))
    }
}

fn ros_image(data: &[u8]) -> Option<(Option<u64>, Sensed)> {
    let mut cdr = Cdr::new(data)?;
    let stamp = cdr.header()?;
    let (height, width, encoding) = (cdr.u32()?, cdr.u32()?, cdr.string()?);
    cdr.take(1)?; // is_bigendian: matters for 16-bit pixels only, which are refused
    let step = cdr.u32()?;
    let data = cdr.bytes()?.to_vec();
    Some((Some(stamp), Sensed::Picture(Picture::Raw { width, height, encoding, step, data })))
}

fn ros_compressed(data: &[u8]) -> Option<(u64, String, Vec<u8>)> {
    let mut cdr = Cdr::new(data)?;
    Some((cdr.header()?, cdr.string()?, cdr.bytes()?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdr_image(little: bool, frame_id: &str) -> Vec<u8> {
        let word = |n: u32| if little { n.to_le_bytes() } else { n.to_be_bytes() };
        let mut body = Vec::new();
        let text = |body: &mut Vec<u8>, text: &str| {
            body.resize(body.len().next_multiple_of(4), 0);
            body.extend_from_slice(&word(text.len() as u32 + 1));
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        };
        body.extend_from_slice(&word(5));
        body.extend_from_slice(&word(7));
        text(&mut body, frame_id);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(&word(1));
        body.extend_from_slice(&word(2));
        text(&mut body, "rgb8");
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend_from_slice(&word(6));
        body.extend_from_slice(&word(6));
        body.extend_from_slice(&[1, 2, 3, 4, 5, 6]);
        [&[0, u8::from(little), 0, 0], &body[..]].concat()
    }

    #[test]
    fn ros_images_in_both_byte_orders_and_any_alignment() {
        for (little, frame_id) in [(true, "cam"), (false, "camera"), (true, ""), (true, "12345")] {
            let (stamp, sensed) = decode(Form::RosImage, &cdr_image(little, frame_id)).unwrap();
            assert_eq!(stamp, Some(5_000_000_007));
            let Sensed::Picture(picture) = sensed else { panic!("no picture") };
            assert_eq!(picture.decode().unwrap().rgb, [1, 2, 3, 4, 5, 6]);
        }
        let whole = cdr_image(true, "cam");
        for cut in 0..whole.len() {
            assert!(decode(Form::RosImage, &whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn messages_compressed_one_by_one() {
        let whole = cdr_image(true, "cam");
        let packed = zstd::stream::encode_all(&whole[..], 3).unwrap();
        assert_eq!(decode(Form::RosImage, &packed), decode(Form::RosImage, &whole));
        assert!(decode(Form::RosImage, b"\x04\x22\x4D\x18....").unwrap_err().contains("lz4"));
    }

    #[test]
    fn foxglove_json() {
        let text = r#"{"timestamp":{"sec":3,"nsec":9},"format":"pcm-s16","sample_rate":48000,"number_of_channels":2,"data":"AQD//w=="}"#;
        let (stamp, sensed) = decode(Form::JsonRawAudio, text.as_bytes()).unwrap();
        assert_eq!(stamp, Some(3_000_000_009));
        assert_eq!(sensed, Sensed::Sound(Sound { rate_hz: 48_000, channels: 2, samples: vec![1, -1] }));
        let png = r#"{"format":"png","data":"iVBORw=="}"#;
        assert!(decode(Form::JsonCompressedImage, png.as_bytes()).unwrap_err().contains("png"));
        assert!(decode(Form::JsonRawImage, b"{").unwrap_err().contains("JSON"));
    }
}

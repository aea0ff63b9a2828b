//! A scene as a timeline: every frame, block of sound and status report with the instant at which a device would deliver it.
//! A scene flows in, payloads in order flow out; frames are compressed as a camera would, so that records stay small.

use super::{FRAME_BYTES, SCENE_HZ, Scene, render};
use crate::sense::feed::Payload;
use crate::types::{AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, Frame, Nanos, PixelFormat, SourceId, Stamp, Status};

/// JPEG quality of scene frames.
const QUALITY: u8 = 45;
/// One block of sound.
const BLOCK: Nanos = Nanos(1_000_000_000 * AUDIO_BLOCK as u64 / AUDIO_RATE_HZ as u64);
/// One frame.
const FRAME: Nanos = Nanos(1_000_000_000 / SCENE_HZ as u64);
/// One status report.
const REPORT: Nanos = Nanos::from_ms(500);
/// Instant of the scene's beginning: a clock never stands at zero.
const BEGIN: Nanos = Nanos::from_s(1);

/// All of a scene in order of delivery: camera 0, microphone 1, status.
pub fn timeline(scene: Scene) -> impl Iterator<Item = (Nanos, Payload)> + Send {
    let end = BEGIN.after(Nanos((scene.seconds * 1e9) as u64));
    let (mut frames, mut blocks, mut reports) = (0, 0, 0);
    std::iter::from_fn(move || {
        let frame_at = BEGIN.after(Nanos(frames * FRAME.0));
        let block_at = BEGIN.after(Nanos((blocks + 1) * BLOCK.0));
        let report_at = BEGIN.after(Nanos(reports * REPORT.0));
        let next = frame_at.min(block_at).min(report_at);
        if next >= end {
            return None;
        }
        if next == report_at {
            reports += 1;
            let status = scene.status(next.since(BEGIN).as_s());
            return Some((next, Payload::Status(Status { seq: reports - 1, captured: next, ..status })));
        }
        if next == frame_at {
            frames += 1;
            return Some((next, Payload::Frame(SourceId(0), picture(&scene, frames - 1, next))));
        }
        blocks += 1;
        let block = AudioBlock {
            seq: blocks - 1,
            captured: next.since(BLOCK),
            stamp: Stamp::Device,
            samples: scene.sound(blocks - 1),
            played: [0; AUDIO_BLOCK],
        };
        Some((next, Payload::Sound(SourceId(1), block)))
    })
}

/// Frame `seq` as a camera with JPEG compression would deliver it: what is seen is what was compressed.
fn picture(scene: &Scene, seq: u64, captured: Nanos) -> Frame {
    let mut bytes = vec![0; FRAME_BYTES];
    render(&scene.world, captured.since(BEGIN).as_s(), &mut bytes);
    let mut jpeg = Vec::new();
    let encoded = jpeg_encoder::Encoder::new(&mut jpeg, QUALITY).encode(&bytes, 640, 480, jpeg_encoder::ColorType::Rgb);
    let seen = encoded.ok().and_then(|()| crate::record::pixels::jpeg(&jpeg).ok());
    let (bytes, jpeg) = match seen {
        Some(picture) => (picture.rgb, Some(jpeg)),
        None => (bytes, None),
    };
    Frame { seq, captured, stamp: Stamp::Device, width: 640, height: 480, format: PixelFormat::Rgb8, bytes, jpeg }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_in_order_at_its_rate() {
        let scene = Scene::named("quiet").expect("known");
        let mut last = Nanos::ZERO;
        let (mut frames, mut blocks, mut reports) = (0, 0, 0);
        for (at, payload) in timeline(scene).take_while(|(at, _)| *at < BEGIN.after(Nanos::from_s(1))) {
            assert!(at >= last);
            last = at;
            match payload {
                Payload::Frame(_, frame) => {
                    assert_eq!((frame.seq, frame.bytes.len()), (frames, FRAME_BYTES));
                    assert!(frame.jpeg.is_some_and(|jpeg| jpeg.len() < 60_000));
                    frames += 1;
                }
                Payload::Sound(_, block) => {
                    assert_eq!(block.seq, blocks);
                    blocks += 1;
                }
                Payload::Status(_) => reports += 1,
            }
        }
        assert_eq!((frames, blocks, reports), (10, 49, 2));
    }
}

//! What becomes of a payload, whatever its source (device, log or scene): it is kept for the lanes, its features are
//! extracted and sent to the tick, and the recorder sees both. Payloads flow in on the source's own thread; features
//! flow through a bounded wait-free ring into the tick's `Inputs`. A ring that is full drops the new features and counts.

use super::features::CameraFeatureExtractor;
use super::sound::AudioFeatureExtractor;
use super::store::SensorStore;
use crate::types::{
    AudioBlock, AudioFeatures, CameraFeatures, Frame, Inputs, MAX_SOURCES, SourceHealth, SourceId, SourceKind, Status,
};
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;

/// Features that may wait for the tick, per source: over a second of sound.
const WAITING: usize = 64;

/// Something a source delivered.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // moved once, from the source to its feed
pub enum Payload {
    /// A camera's frame.
    Frame(SourceId, Frame),
    /// A microphone's sound.
    Sound(SourceId, AudioBlock),
    /// The robot's own values.
    Status(Status),
}

/// What the tick sees of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // fixed size, in a fixed ring
pub enum Sensed {
    /// Of a frame.
    Camera(CameraFeatures),
    /// Of sound.
    Sound(AudioFeatures),
    /// The robot's own values.
    Status(Status),
    /// The device came, went, or something was dropped.
    Health(SourceHealth),
}

/// Where the recorder listens. Called on the source's thread; it must hand over and return.
pub trait Recorder: Send + Sync {
    /// A frame and its features.
    fn frame(&self, source: SourceId, frame: &Arc<Frame>, features: &CameraFeatures);
    /// Raw sound, with what was played, and its features.
    fn sound(&self, source: SourceId, block: &AudioBlock, features: &AudioFeatures);
    /// The robot's own values.
    fn status(&self, status: &Status);
}

/// Records nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn frame(&self, _: SourceId, _: &Arc<Frame>, _: &CameraFeatures) {}
    fn sound(&self, _: SourceId, _: &AudioBlock, _: &AudioFeatures) {}
    fn status(&self, _: &Status) {}
}

/// What a source needs of the rest: used by its thread alone.
pub struct SourceFeed {
    source: SourceId,
    extractor: Extractor,
    store: Arc<SensorStore>,
    recorder: Arc<dyn Recorder>,
    to_tick: Producer<Sensed>,
    present: bool,
    /// Health that the tick has not been told yet.
    news: bool,
    dropped: u16,
}

#[allow(clippy::large_enum_variant)] // one per source
enum Extractor {
    Camera(CameraFeatureExtractor),
    Sound(AudioFeatureExtractor),
    Status,
}

/// Connects a source with the tick. `fov_deg` is the camera's field of view.
pub fn connect(
    source: SourceId,
    kind: SourceKind,
    fov_deg: f32,
    store: Arc<SensorStore>,
    recorder: Arc<dyn Recorder>,
) -> (SourceFeed, Consumer<Sensed>) {
    let (to_tick, from_sense) = RingBuffer::new(WAITING);
    let extractor = match kind {
        SourceKind::Camera => Extractor::Camera(CameraFeatureExtractor::new(source, 640, 480, fov_deg)),
        SourceKind::Microphone => Extractor::Sound(AudioFeatureExtractor::new(source)),
        SourceKind::Status => Extractor::Status,
    };
    (SourceFeed { source, extractor, store, recorder, to_tick, present: false, news: false, dropped: 0 }, from_sense)
}

impl SourceFeed {
    /// Which source.
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// A frame with used buffers to decode into.
    pub fn frame_buffer(&self) -> Frame {
        self.store.frame_buffer(self.source)
    }

    /// The device is open, or gone.
    pub fn present(&mut self, present: bool) {
        if self.present != present {
            self.present = present;
            self.news = true;
        }
        self.tell_health();
    }

    /// Hands on any payload; one of another kind than the source's is ignored.
    pub fn payload(&mut self, payload: Payload) {
        match payload {
            Payload::Frame(_, frame) => self.frame(frame),
            Payload::Sound(_, block) => self.sound(&block),
            Payload::Status(status) => self.status(&status),
        }
    }

    /// Hands on a frame.
    pub fn frame(&mut self, frame: Frame) {
        let Extractor::Camera(extractor) = &mut self.extractor else { return };
        let features = extractor.extract(&frame);
        // Kept before the tick hears of it: a job may name it at once.
        let frame = self.store.put_frame(self.source, frame);
        self.recorder.frame(self.source, &frame, &features);
        self.tell(Sensed::Camera(features));
    }

    /// Hands on a block of sound: the ear gets it without the robot's own voice, the recorder as it was.
    pub fn sound(&mut self, block: &AudioBlock) {
        let Extractor::Sound(extractor) = &mut self.extractor else { return };
        let features = extractor.extract(block);
        self.store.put_sound(self.source, extractor.cleaned());
        self.recorder.sound(self.source, block, &features);
        self.tell(Sensed::Sound(features));
    }

    /// Hands on the robot's own values.
    pub fn status(&mut self, status: &Status) {
        if let Extractor::Status = self.extractor {
            self.recorder.status(status);
            self.tell(Sensed::Status(*status));
        }
    }

    fn tell(&mut self, sensed: Sensed) {
        self.present(true);
        if self.to_tick.push(sensed).is_err() {
            self.dropped = self.dropped.saturating_add(1);
            self.news = true;
        }
    }

    fn tell_health(&mut self) {
        if self.news {
            let health = SourceHealth { source: self.source, present: self.present, dropped: self.dropped };
            if self.to_tick.push(Sensed::Health(health)).is_ok() {
                self.news = false;
                self.dropped = 0;
            }
        }
    }
}

/// The tick's end of all sources.
#[derive(Default)]
pub struct Intake {
    sources: Vec<Consumer<Sensed>>,
    /// Sources whose device is gone, for the health that the intake adds itself.
    absent: [bool; MAX_SOURCES],
}

impl Intake {
    /// The rings in the order of the sources.
    pub fn new(sources: Vec<Consumer<Sensed>>) -> Intake {
        Intake { sources, absent: [false; MAX_SOURCES] }
    }

    /// Moves what has arrived into the tick's inputs, whose lists are empty. Never waits, never allocates. Of frames the
    /// newest count: older ones that do not fit are dropped and reported as such. Sound keeps its order; what does not
    /// fit waits for the next tick.
    pub fn drain_into(&mut self, inputs: &mut Inputs) {
        let Intake { sources, absent } = self;
        for (index, ring) in sources.iter_mut().enumerate() {
            let source = SourceId(index as u8);
            // Only what is there now: a fast source must not hold the tick.
            for _ in 0..ring.slots() {
                if matches!(ring.peek(), Ok(Sensed::Sound(_))) && inputs.audio.is_full() {
                    break;
                }
                match ring.pop() {
                    Ok(Sensed::Camera(features)) => {
                        if inputs.camera.is_full() {
                            let own = inputs.camera.iter().position(|older| older.source == features.source);
                            let lost = inputs.camera.remove(own.unwrap_or(0)).source;
                            note(inputs, absent, lost, 1);
                        }
                        inputs.camera.push(features);
                    }
                    Ok(Sensed::Sound(features)) => inputs.audio.push(features),
                    Ok(Sensed::Status(status)) => inputs.status = Some(merged(inputs.status, status)),
                    Ok(Sensed::Health(health)) => {
                        absent[index] = !health.present;
                        note(inputs, absent, source, health.dropped);
                    }
                    Err(_) => break,
                }
            }
        }
        inputs.camera.sort_unstable_by_key(|frame| (frame.captured, frame.source, frame.seq));
    }
}

/// The newer report, except that danger reported in between is not forgotten.
fn merged(before: Option<Status>, newer: Status) -> Status {
    let Some(before) = before else { return newer };
    let either = |a: Option<bool>, b: Option<bool>| if a == Some(true) { a } else { b.or(a) };
    Status {
        bumper: either(before.bumper, newer.bumper),
        estop: either(before.estop, newer.estop),
        range_mm: match (before.range_mm, newer.range_mm) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => b.or(a),
        },
        battery_percent: newer.battery_percent.or(before.battery_percent),
        ..newer
    }
}

/// Adds to what is already reported of the source in this tick.
fn note(inputs: &mut Inputs, absent: &[bool; MAX_SOURCES], source: SourceId, dropped: u16) {
    let present = !absent.get(usize::from(source.0)).copied().unwrap_or(false);
    match inputs.health.iter_mut().find(|known| known.source == source) {
        Some(known) => {
            known.present = present;
            known.dropped = known.dropped.saturating_add(dropped);
        }
        None => {
            let _ = inputs.health.try_push(SourceHealth { source, present, dropped }); // one entry per source fits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SensorReader;
    use crate::types::{AUDIO_BLOCK, Looming, Nanos};

    fn frame(seq: u64) -> Frame {
        Frame { seq, captured: Nanos::from_ms(100 * seq), width: 8, height: 6, bytes: vec![7; 144], ..Frame::default() }
    }

    fn block(seq: u64) -> AudioBlock {
        AudioBlock {
            seq,
            captured: Nanos::from_ms(20 * seq),
            stamp: Default::default(),
            samples: [3; AUDIO_BLOCK],
            played: [0; AUDIO_BLOCK],
        }
    }

    fn house() -> (Arc<SensorStore>, SourceFeed, SourceFeed, Intake) {
        let store = Arc::new(SensorStore::new(2));
        let nobody: Arc<dyn Recorder> = Arc::new(NoRecorder);
        let (camera, a) = connect(SourceId(0), SourceKind::Camera, 70.0, store.clone(), nobody.clone());
        let (mic, b) = connect(SourceId(1), SourceKind::Microphone, 70.0, store.clone(), nobody);
        (store, camera, mic, Intake::new(vec![a, b]))
    }

    #[test]
    fn what_the_tick_hears_of_is_in_the_store() {
        let (store, mut camera, mut mic, mut intake) = house();
        camera.frame(frame(4));
        mic.sound(&block(9));
        let mut inputs = Inputs::default();
        intake.drain_into(&mut inputs);
        assert_eq!((inputs.camera[0].seq, inputs.audio[0].seq), (4, 9));
        assert_eq!(inputs.camera[0].luma[0][0], 7);
        assert!(store.frame(SourceId(0), 4).is_some());
        assert_eq!(inputs.health.len(), 2, "both devices have just come");
    }

    #[test]
    fn sound_that_the_ring_cannot_hold_is_counted_and_told() {
        let (_store, _camera, mut mic, mut intake) = house();
        for seq in 0..(WAITING as u64 + 10) {
            mic.sound(&block(seq));
        }
        // The ring holds a health note and 63 blocks, of which a tick takes 16.
        for _ in 0..4 {
            intake.drain_into(&mut Inputs::default());
        }
        mic.sound(&block(99));
        let mut inputs = Inputs::default();
        intake.drain_into(&mut inputs);
        assert_eq!((inputs.audio[0].seq, inputs.health[0].dropped), (99, 11));
    }

    #[test]
    fn a_device_that_goes_is_told_once() {
        let (_store, mut camera, _mic, mut intake) = house();
        camera.frame(frame(0));
        intake.drain_into(&mut Inputs::default());
        camera.present(false);
        camera.present(false);
        let mut inputs = Inputs::default();
        intake.drain_into(&mut inputs);
        assert_eq!(inputs.health.as_slice(), [SourceHealth { source: SourceId(0), present: false, dropped: 0 }]);
    }

    fn seen(seq: u64) -> Sensed {
        Sensed::Camera(CameraFeatures {
            source: SourceId(0),
            seq,
            captured: Nanos(seq),
            stamp: Default::default(),
            luma: Default::default(),
            motion: Default::default(),
            looming: Looming::default(),
            lost: 0,
        })
    }

    #[test]
    fn of_too_many_frames_the_newest_are_kept_and_the_rest_is_reported_as_dropped() {
        let (mut frames, ring) = RingBuffer::new(16);
        for seq in 0..7 {
            frames.push(seen(seq)).expect("room");
        }
        let mut inputs = Inputs::default();
        Intake::new(vec![ring]).drain_into(&mut inputs);
        assert_eq!(inputs.camera.iter().map(|f| f.seq).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(inputs.health.as_slice(), [SourceHealth { source: SourceId(0), present: true, dropped: 3 }]);
    }

    #[test]
    fn sound_that_does_not_fit_comes_with_the_next_tick_in_order() {
        let (mut sound, ring) = RingBuffer::new(32);
        for seq in 0..20 {
            let features = AudioFeatures {
                source: SourceId(0),
                seq,
                captured: Nanos(seq),
                stamp: Default::default(),
                band_cdb: Default::default(),
                level_cdb: 0,
                heard_cdb: 0,
                voice_permille: 0,
                echo_permille: 0,
                lost: 0,
            };
            sound.push(Sensed::Sound(features)).expect("room");
        }
        let mut intake = Intake::new(vec![ring]);
        let mut heard = Vec::new();
        for _ in 0..2 {
            let mut inputs = Inputs::default();
            intake.drain_into(&mut inputs);
            heard.extend(inputs.audio.iter().map(|block| block.seq));
        }
        assert_eq!(heard, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_bumper_press_between_two_ticks_is_seen_even_if_it_was_released_again() {
        let (mut reports, ring) = RingBuffer::new(4);
        let press = Status { bumper: Some(true), range_mm: Some(100), ..Status::default() };
        reports.push(Sensed::Status(press)).expect("room");
        reports.push(Sensed::Status(Status { seq: 1, bumper: Some(false), ..Status::default() })).expect("room");
        let mut inputs = Inputs::default();
        Intake::new(vec![ring]).drain_into(&mut inputs);
        let status = inputs.status.expect("reported");
        assert_eq!((status.seq, status.bumper, status.range_mm), (1, Some(true), Some(100)));
    }
}

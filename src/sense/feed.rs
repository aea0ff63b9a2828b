//! What becomes of a payload, whatever its source (device, log or scene): it is kept for the lanes, its features are
//! extracted and sent to the tick, and the recorder sees both. Payloads flow in on the source's own thread; features
//! flow through a bounded wait-free ring into the tick's `Inputs`. A ring that is full drops the new features and counts.

use super::features::CameraFeatureExtractor;
use super::sound::AudioFeatureExtractor;
use super::store::SensorStore;
use crate::types::{
    AudioBlock, AudioFeatures, CameraFeatures, Frame, Inputs, SourceHealth, SourceId, SourceKind, Status,
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
pub struct Intake {
    sources: Vec<Consumer<Sensed>>,
}

impl Intake {
    /// The rings in the order of the sources.
    pub fn new(sources: Vec<Consumer<Sensed>>) -> Intake {
        Intake { sources }
    }

    /// Moves everything that has arrived into the tick's inputs. Never waits, never allocates; where a list is full its
    /// oldest entry makes room and counts as dropped.
    pub fn drain_into(&mut self, inputs: &mut Inputs) {
        for (index, ring) in self.sources.iter_mut().enumerate() {
            let source = SourceId(index as u8);
            // Only what is there now: a fast source must not hold the tick.
            for _ in 0..ring.slots() {
                match ring.pop() {
                    Ok(Sensed::Camera(features)) => {
                        if let Some(lost) = make_room(&mut inputs.camera, |f| f.source) {
                            note_dropped(inputs, lost);
                        }
                        inputs.camera.push(features);
                    }
                    Ok(Sensed::Sound(features)) => {
                        if let Some(lost) = make_room(&mut inputs.audio, |f| f.source) {
                            note_dropped(inputs, lost);
                        }
                        inputs.audio.push(features);
                    }
                    Ok(Sensed::Status(status)) => inputs.status = Some(status),
                    Ok(Sensed::Health(health)) => {
                        let slot = health_of(inputs, source);
                        if let Some(slot) = slot {
                            slot.present = health.present;
                            slot.dropped = slot.dropped.saturating_add(health.dropped);
                        }
                    }
                    Err(_) => break,
                }
            }
        }
    }
}

fn make_room<T: Copy, const N: usize>(
    list: &mut arrayvec::ArrayVec<T, N>,
    source: impl Fn(&T) -> SourceId,
) -> Option<SourceId> {
    if list.is_full() { list.pop_at(0).map(|old| source(&old)) } else { None }
}

fn note_dropped(inputs: &mut Inputs, source: SourceId) {
    if let Some(slot) = health_of(inputs, source) {
        slot.dropped = slot.dropped.saturating_add(1);
    }
}

fn health_of(inputs: &mut Inputs, source: SourceId) -> Option<&mut SourceHealth> {
    if let Some(index) = inputs.health.iter().position(|h| h.source == source) {
        return inputs.health.get_mut(index);
    }
    inputs.health.try_push(SourceHealth { source, present: true, dropped: 0 }).ok()?;
    inputs.health.last_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SensorReader;
    use crate::types::{AUDIO_BLOCK, Nanos};

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
    fn more_than_a_tick_takes_is_dropped_oldest_first_and_counted() {
        let (_store, mut camera, mut mic, mut intake) = house();
        for seq in 0..6 {
            camera.frame(frame(seq));
        }
        for seq in 0..(WAITING as u64 + 10) {
            mic.sound(&block(seq));
        }
        let mut inputs = Inputs::default();
        intake.drain_into(&mut inputs);
        assert_eq!(inputs.camera.iter().map(|f| f.seq).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(inputs.health[0].dropped, 2);
        // The ring holds a health note and 63 blocks, of which the tick takes the newest 16; the rest is told next time.
        assert_eq!((inputs.audio.len(), inputs.audio[15].seq, inputs.health[1].dropped), (16, 62, 47));
        let mut next = Inputs::default();
        mic.sound(&block(99));
        intake.drain_into(&mut next);
        assert_eq!((next.audio[0].seq, next.health[0].dropped), (99, 11));
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
}

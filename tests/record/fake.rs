//! A small world for the tests: a core that is simple but remembers, extractors that are simple but exact, and a recording
//! of both.

use sage::config::{Config, CoreConfig};
use sage::record::from_sensors::Extractors;
use sage::record::verify::ReplayCore;
use sage::record::{Digest, Limits, Recorder, SessionInfo, Summary};
use sage::time::Virtual;
use sage::types::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Decides by what it takes in and by one value of the configuration; remembers a running sum.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub struct FakeCore {
    sum: u64,
    done: u32,
    #[serde(skip)]
    threshold_cdb: i16,
}

impl ReplayCore for FakeCore {
    fn fresh(config: &CoreConfig) -> FakeCore {
        FakeCore { sum: 0, done: 0, threshold_cdb: -(config.gate.halt_range_mm as i16) }
    }

    fn thaw(config: &CoreConfig, keyframe: &[u8]) -> Result<FakeCore, String> {
        let core: FakeCore = postcard::from_bytes(keyframe).map_err(|error| error.to_string())?;
        Ok(FakeCore { threshold_cdb: FakeCore::fresh(config).threshold_cdb, ..core })
    }

    fn tick(&mut self, inputs: &Inputs, outputs: &mut Outputs) {
        *outputs = Outputs::default();
        for features in &inputs.camera {
            self.sum += features.luma.iter().flatten().map(|cell| u64::from(*cell)).sum::<u64>();
        }
        for features in &inputs.audio {
            if features.level_cdb > self.threshold_cdb {
                outputs.decisions.push(Decision::Focus { source: Some(features.source), salience_permille: 500 });
            }
        }
        for event in &inputs.events {
            if let LaneEvent::Done { job, .. } = event {
                self.done += 1;
                outputs.decisions.push(Decision::Use { job: *job, age: Nanos(self.sum) });
            }
        }
        if inputs.tick.is_multiple_of(10) {
            outputs.acts.push(Act::Heartbeat { at: inputs.now });
        }
        outputs.vitals.atp_ms = self.done as f32;
        let hash = blake3::hash(&self.keyframe());
        outputs.state_hash.copy_from_slice(&hash.as_bytes()[..16]);
    }

    fn keyframe(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap()
    }
}

/// Means over the picture and the block, and what changed since the one before.
#[derive(Default)]
pub struct FakeExtractors {
    before: u8,
}

impl Extractors for FakeExtractors {
    fn camera(&mut self, source: SourceId, frame: &Frame) -> CameraFeatures {
        let mean = (frame.bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>() / frame.bytes.len() as u64) as u8;
        let before = std::mem::replace(&mut self.before, mean);
        CameraFeatures {
            source,
            seq: frame.seq,
            captured: frame.captured,
            stamp: frame.stamp,
            luma: [[mean; GRID_COLS]; GRID_ROWS],
            motion: [[mean.abs_diff(before); GRID_COLS]; GRID_ROWS],
            looming: Looming::default(),
            lost: 0,
        }
    }

    fn audio(&mut self, source: SourceId, block: &AudioBlock) -> AudioFeatures {
        let level =
            block.samples.iter().map(|sample| i32::from(sample.unsigned_abs())).sum::<i32>() / AUDIO_BLOCK as i32;
        AudioFeatures {
            source,
            seq: block.seq,
            captured: block.captured,
            stamp: block.stamp,
            band_cdb: [0; BANDS],
            level_cdb: level as i16 - 1_000,
            heard_cdb: level as i16 - 1_000,
            voice_permille: 0,
            echo_permille: block.played[0].unsigned_abs() % 1_000,
            lost: 0,
        }
    }
}

pub const CAMERA: SourceId = SourceId(0);
pub const MIC: SourceId = SourceId(1);
/// Unix minus monotonic.
pub const OFFSET_NS: i64 = 1_790_000_000_123_456_789;
pub const START: Nanos = Nanos::from_s(50);

pub fn config() -> CoreConfig {
    let mut config = Config::default();
    config.camera.push(Default::default());
    config.microphone.push(Default::default());
    let mut core = config.core();
    core.gate.halt_range_mm = 350;
    core
}

pub fn frame(n: u64, jpeg: bool) -> Frame {
    let (width, height) = (32, 24);
    let bytes: Vec<u8> = (0..width * height * 3).map(|i| (i as u64 * 3 + n * 5) as u8).collect();
    let captured = START + Nanos(n * 100_000_000 + 3_000_001);
    let mut frame =
        Frame { seq: n, captured, stamp: Stamp::Device, width, height, format: PixelFormat::Rgb8, bytes, jpeg: None };
    if jpeg {
        let mut data = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut data, 90);
        encoder.encode(&frame.bytes, width as u16, height as u16, jpeg_encoder::ColorType::Rgb).unwrap();
        frame.bytes = sage::record::pixels::jpeg(&data).unwrap().rgb;
        frame.jpeg = Some(data);
    }
    frame
}

pub fn block(n: u64) -> AudioBlock {
    let mut samples = [0; AUDIO_BLOCK];
    for (i, sample) in samples.iter_mut().enumerate() {
        // Loud for a tenth of the time.
        let amplitude = if n % 50 < 5 { 3_000.0 } else { 20.0 };
        *sample = (amplitude * (i as f64 * 0.3 + n as f64).sin()) as i16;
    }
    let mut played = [0; AUDIO_BLOCK];
    if n.is_multiple_of(4) {
        played[0] = 123;
    }
    AudioBlock { seq: n, captured: START + Nanos(n * 20_000_000 + 7), stamp: Stamp::Arrival, samples, played }
}

/// What a test wants of a recording.
#[derive(Clone)]
pub struct Plan {
    pub ticks: u64,
    pub jpeg: bool,
    pub keyframe_every: u64,
    pub limits: Limits,
    /// Ticks that the recorder loses.
    pub lose: std::ops::Range<u64>,
    pub close: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        let limits = Limits::default();
        Plan { ticks: 400, jpeg: true, keyframe_every: 100, limits, lose: 0..0, close: true }
    }
}

pub struct Made {
    pub summary: Summary,
    /// Digest of the live run.
    pub digest: Digest,
}

/// Runs the small world for `plan.ticks` ticks of 10 ms and records it.
pub fn record(path: &Path, plan: &Plan) -> Made {
    let config = config();
    let clock = Virtual::default();
    clock.set(START);
    let session = SessionInfo::new(config.clone(), OFFSET_NS, START);
    let mut recorder = Recorder::create(path, session, plan.limits, Arc::new(clock.clone())).unwrap();
    let mut core = FakeCore::fresh(&config);
    let mut extractors = FakeExtractors::default();
    let (mut outputs, mut digest) = (Outputs::default(), Digest::default());
    for tick in 0..plan.ticks {
        if tick % plan.keyframe_every == 0 {
            recorder.keyframe(tick, &core.keyframe());
        }
        let now = START + Nanos(tick * 10_000_000);
        clock.set(now);
        let mut inputs = Inputs { tick, now, ..Inputs::default() };
        if tick % 10 == 3 {
            let frame = frame(tick / 10, plan.jpeg);
            recorder.frame(CAMERA, &frame);
            inputs.camera.push(extractors.camera(CAMERA, &frame));
        }
        if tick % 2 == 1 {
            let block = block(tick / 2);
            recorder.audio(MIC, &block);
            inputs.audio.push(extractors.audio(MIC, &block));
        }
        if tick % 25 == 7 {
            inputs.events.push(done(tick));
        }
        if tick % 100 == 50 {
            inputs.status =
                Some(Status { seq: tick / 100, captured: now, battery_percent: Some(80), ..Status::default() });
        }
        core.tick(&inputs, &mut outputs);
        digest.update(tick, &outputs);
        if plan.lose.contains(&tick) {
            recorder.lost("/tick", 1);
        } else {
            recorder.tick(&inputs, &outputs, now + Nanos(40_000), Nanos(15_000));
        }
        recorder.poll();
    }
    let summary = if plan.close {
        recorder.close()
    } else {
        // As a crash leaves it: nothing more is written, the file has no end.
        let summary = recorder.summary();
        std::mem::forget(recorder);
        summary
    };
    Made { summary, digest }
}

fn done(tick: u64) -> LaneEvent {
    LaneEvent::Done {
        job: JobId(tick),
        outcome: Outcome::Completed,
        output: Output::Consolidated { merged: 1 },
        steps: 3,
        busy: Nanos(1_000),
        longest: Nanos(500),
        preempted: 0,
        energy_permille: Some(250),
        at: START + Nanos(tick * 10_000_000),
    }
}

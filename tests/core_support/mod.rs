//! A core with a camera, a microphone and lanes that answer one tick later: makes the inputs of an ordinary day, speech,
//! answers and hazards among them, for the tests and benchmarks of the tick.

use sage::config::{Config, CoreConfig};
use sage::core::Core;
use sage::types::*;

/// Ticks per second.
pub const RATE_HZ: u64 = 100;

/// A configuration with one camera and one microphone.
pub fn config() -> CoreConfig {
    let mut config = Config::default();
    config.camera.push(Default::default());
    config.microphone.push(Default::default());
    config.core()
}

/// What stands around the core.
pub struct Day {
    core: Core,
    inputs: Inputs,
    outputs: Outputs,
    open: Vec<Job>,
    voice: VoiceReport,
    said: u16,
    seed: u64,
}

impl Day {
    /// A day from its seed.
    pub fn new(seed: u64) -> Day {
        let inputs = Inputs { now: Nanos::from_s(1), ..Inputs::default() };
        let outputs = Outputs::default();
        Day {
            core: Core::new(config()),
            inputs,
            outputs,
            open: Vec::new(),
            voice: VoiceReport::default(),
            said: 0,
            seed,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % sides
    }

    /// One tick; its inputs and outputs.
    pub fn tick(&mut self) -> (&Inputs, &Outputs) {
        let (tick, now) = (self.inputs.tick + 1, self.inputs.now + Nanos(1_000_000_000 / RATE_HZ));
        let mut inputs = Inputs { tick, now, ..Inputs::default() };
        if tick % 3 == 0 {
            inputs.camera.push(self.frame(tick / 3, now));
        }
        if tick % 2 == 0 {
            inputs.audio.push(self.block(tick / 2, now));
        }
        if tick % 50 == 0 {
            let range_mm = Some(if tick % 9_000 == 0 { 200 } else { 2_000 });
            let battery_percent = Some(80);
            inputs.status = Some(Status { seq: tick, captured: now, battery_percent, range_mm, ..Status::default() });
        }
        self.answer(&mut inputs);
        self.speak(&mut inputs);
        inputs.release_halt = tick % 2_000 == 0;
        self.inputs = inputs;
        self.core.tick(&self.inputs, &mut self.outputs);
        for command in &self.outputs.commands {
            match command {
                Command::Submit(job) => self.open.push(job.clone()),
                Command::Cancel(id) => self.open.retain(|job| job.id != *id),
                Command::Credit { .. } => {}
            }
        }
        (&self.inputs, &self.outputs)
    }

    fn frame(&mut self, seq: u64, now: Nanos) -> CameraFeatures {
        let mut luma = [[90u8; GRID_COLS]; GRID_ROWS];
        let mut motion = [[8u8; GRID_COLS]; GRID_ROWS];
        let noise = self.roll(u64::MAX >> 33);
        for (index, cell) in luma.iter_mut().flatten().enumerate() {
            *cell += ((noise >> (index % 29)) & 1) as u8;
        }
        let walker = (seq / 3 % 64) as usize;
        if walker < GRID_COLS {
            (3..9).for_each(|row| (luma[row][walker], motion[row][walker]) = (220, 160));
        }
        CameraFeatures {
            source: SourceId(0),
            seq,
            captured: now.since(Nanos::from_ms(12)),
            stamp: Stamp::Device,
            luma,
            motion,
            looming: Looming::default(),
            lost: 0,
        }
    }

    fn block(&mut self, seq: u64, now: Nanos) -> AudioFeatures {
        let level = if seq % 500 < 60 { -2_000 } else { -5_500 } + self.roll(300) as i16;
        AudioFeatures {
            source: SourceId(1),
            seq,
            captured: now.since(Nanos::from_ms(20)),
            stamp: Stamp::Device,
            band_cdb: [level; BANDS],
            level_cdb: level,
            heard_cdb: level,
            voice_permille: if seq % 500 < 60 { 900 } else { 0 },
            echo_permille: 0,
            lost: 0,
        }
    }

    /// The lanes answer what was asked in the tick before; a question gets a word a tick.
    fn answer(&mut self, inputs: &mut Inputs) {
        let now = inputs.now;
        for job in std::mem::take(&mut self.open) {
            let output = match job.input {
                JobInput::Sound { upto_seq } => {
                    self.hear(job.id, upto_seq, inputs);
                    Output::Heard { upto: now }
                }
                JobInput::Frame { seq } => {
                    let detections = std::iter::once(person(1_000 + (seq % 900) as u32)).collect();
                    Output::Seen { seq, captured: job.based_on[0].captured, detections }
                }
                JobInput::Ask { .. } | JobInput::Resume { .. } if self.said < 20 => {
                    let word = Word::from("word").unwrap_or_default();
                    let piece = Piece::Word { index: self.said, word };
                    inputs.events.push(LaneEvent::Piece { job: job.id, piece });
                    self.said += 1;
                    self.open.push(job);
                    continue;
                }
                JobInput::Ask { .. } | JobInput::Resume { .. } => {
                    self.said = 0;
                    Output::Answered { words: 20, tokens: 30 }
                }
                _ => Output::None,
            };
            inputs.events.push(LaneEvent::Done {
                job: job.id,
                outcome: Outcome::Completed,
                output,
                steps: 1,
                busy: Nanos::from_ms(2),
                longest: Nanos::from_ms(2),
                preempted: 0,
                energy_permille: None,
                at: now,
            });
        }
    }

    /// Somebody asks every ten seconds, and says "stop" to every third answer.
    fn hear(&mut self, job: JobId, upto_seq: u64, inputs: &mut Inputs) {
        let (source, now) = (SourceId(1), inputs.now);
        let text = match upto_seq % 500 {
            60 | 61 if (upto_seq / 500).is_multiple_of(3) => "stop",
            30 | 31 => "story",
            _ => return,
        };
        let word = HeardWord { word: Word::from(text).unwrap_or_default(), ended: now, score_permille: 900 };
        inputs.events.push(LaneEvent::Word { job, source, word });
        let words = std::iter::once(word).collect();
        inputs.events.push(LaneEvent::Utterance { job, source, words, from: now, to: now });
    }

    /// A voice that plays a word in 300 ms.
    fn speak(&mut self, inputs: &mut Inputs) {
        for act in &self.outputs.acts {
            match act {
                Act::Say { utterance, .. } => {
                    if self.voice.utterance != *utterance {
                        self.voice = VoiceReport { utterance: *utterance, ..VoiceReport::default() };
                    }
                    self.voice.queued_words += 1;
                }
                Act::Silence => self.voice.queued_words = 0,
                _ => {}
            }
        }
        if inputs.tick.is_multiple_of(30) && self.voice.queued_words > 0 {
            self.voice.queued_words -= 1;
            self.voice.played_words += 1;
        }
        let queued = Nanos::from_ms(u64::from(self.voice.queued_words) * 300);
        let (playing, silent_since) = (queued > Nanos::ZERO, inputs.now);
        let report = VoiceReport { queued, playing, silent_since, ..self.voice };
        if inputs.tick.is_multiple_of(10) || playing != self.voice.playing {
            inputs.voice = Some(report);
        }
        self.voice = report;
    }
}

fn person(distance_mm: u32) -> Detection {
    Detection {
        thing: Thing::Person,
        bbox_px: [10, 10, 90, 200],
        score_permille: 900,
        distance_mm,
        bearing_mrad: -300,
        raising: false,
    }
}

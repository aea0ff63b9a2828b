//! Engines that find something without any network, so that the real core has something to decide about.

use arrayvec::ArrayVec;
use sage::engine::profile::{Profile, StepCost};
use sage::engine::{CancelToken, Engine, EngineError, Product, Progress, SensorReader, Session, StepSink};
use sage::types::*;

/// Ear, eye and mind.
pub fn engines() -> Vec<Box<dyn Engine>> {
    [Capability::Hear, Capability::See, Capability::Reason, Capability::Consolidate, Capability::Load]
        .into_iter()
        .map(|capability| Box::new(Stub { capability, heard: 0, said: 0 }) as Box<dyn Engine>)
        .collect()
}

pub fn profile() -> Profile {
    let step = |capability, p50_us| StepCost { capability, p50_us, p999_us: p50_us * 3.0, steps_max: 50 };
    let steps = vec![
        step(Capability::Hear, 1_500.0),
        step(Capability::See, 5_000.0),
        step(Capability::Reason, 20_000.0),
        step(Capability::Consolidate, 500.0),
    ];
    Profile { name: "stub".to_owned(), steps }
}

struct Stub {
    capability: Capability,
    heard: u64,
    said: u64,
}

struct Work {
    job: Job,
    frame: Option<(u64, Nanos)>,
    utterance: bool,
    words: u16,
    allowed: u16,
    progress: Progress,
}

impl Engine for Stub {
    fn capability(&self) -> Capability {
        self.capability
    }

    fn describe(&self) -> String {
        "stub".to_owned()
    }

    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn open(&mut self, job: &Job, sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let mut work = Work {
            job: job.clone(),
            frame: None,
            utterance: false,
            words: 0,
            allowed: job.credit_words,
            progress: Progress::More,
        };
        match job.input {
            JobInput::Sound { upto_seq } => {
                sensors.sound(job.source, self.heard, upto_seq, &mut |_| {});
                self.heard = upto_seq + 1;
                // Somebody speaks every four seconds.
                work.utterance = upto_seq / 200 > self.said;
                self.said = upto_seq / 200;
            }
            JobInput::Frame { seq } => {
                let frame = sensors.frame(job.source, seq).ok_or(EngineError::InputGone("frame".to_owned()))?;
                work.frame = Some((seq, frame.captured));
            }
            _ => {}
        }
        Ok(Box::new(work))
    }
}

fn heard(text: &str, ended: Nanos) -> HeardWord {
    HeardWord { word: Word::from(text).unwrap(), ended, score_permille: 900 }
}

impl Session for Work {
    fn submit(&mut self, _: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        self.progress = Progress::Done;
        sink.output = Some(match self.job.capability {
            Capability::Hear => {
                if self.utterance {
                    let words: ArrayVec<_, MAX_WORDS> =
                        ["robot", "tell", "me", "a", "story"].iter().map(|w| heard(w, self.job.created)).collect();
                    for word in &words {
                        sink.products.push(Product::Word(*word));
                    }
                    sink.products.push(Product::Utterance { words, from: self.job.created, to: self.job.created });
                }
                Output::Heard { upto: self.job.created }
            }
            Capability::See => {
                let (seq, captured) = self.frame.unwrap_or_default();
                let person = Detection {
                    thing: Thing::Person,
                    bbox_px: [100, 100, 200, 300],
                    score_permille: 900,
                    distance_mm: 2_000,
                    bearing_mrad: (seq % 50) as i16,
                    raising: false,
                };
                Output::Seen { seq, captured, detections: [person].into_iter().collect() }
            }
            Capability::Reason if self.words < 30 => {
                sink.output = None;
                if self.words >= self.allowed {
                    self.progress = Progress::Waiting;
                    return Ok(());
                }
                let word = Word::from("word").unwrap();
                sink.products.push(Product::Piece(Piece::Word { index: self.words, word }));
                self.words += 1;
                self.progress = Progress::More;
                return Ok(());
            }
            Capability::Reason => Output::Answered { words: self.words, tokens: self.words },
            _ => Output::None,
        });
        Ok(())
    }

    fn poll(&mut self, _: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.progress)
    }

    fn credit(&mut self, words: u16) {
        self.allowed = words;
    }
}

//! The ear as an engine: a `Hear` job names sound up to a block; each step hears one block (20 ms) and reports words and
//! utterances with the instants at which they were spoken. Each microphone has its own ear, which goes on where its
//! last job ended; a job that is dropped loses nothing, the next one hears the rest.

use super::{Ear, EarError, EarEvent, EarWord};
use crate::engine::cpu::simd::Simd;
use crate::engine::{CancelToken, Engine, EngineError, Product, Progress, SensorReader, Session, StepSink};
use crate::types::{
    AUDIO_BLOCK, AUDIO_RATE_HZ, AudioBlock, Capability, HeardWord, Job, JobInput, MAX_SOURCES, Nanos, Output, SourceId,
    Word,
};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks one job may name beyond what was heard: 2 s. Older ones are skipped and the ear starts afresh.
const MOST_BLOCKS: usize = 100;
/// Lost blocks that are heard as silence; after a longer gap the ear starts afresh.
const SHORT_GAP: u64 = 3;
const NANOS_PER_SAMPLE: u64 = 1_000_000_000 / AUDIO_RATE_HZ as u64;

/// One microphone's ear.
#[derive(Debug)]
struct Listener {
    ear: Ear,
    /// The next block to hear.
    next_seq: u64,
    /// Blocks of the open job, in order, and how many of them were heard.
    blocks: Vec<AudioBlock>,
    done: usize,
    /// A sample of the ear's count and the instant it was captured.
    anchor: (u64, Nanos),
}

impl Listener {
    fn new(ear: Ear) -> Listener {
        Listener { ear, next_seq: 0, blocks: Vec::with_capacity(MOST_BLOCKS), done: 0, anchor: (0, Nanos::ZERO) }
    }

    /// Hears the next block of the job; whether there are more.
    fn step(&mut self, sink: &mut StepSink) -> bool {
        let Some(block) = self.blocks.get(self.done).copied() else { return false };
        self.done += 1;
        let lost = block.seq.saturating_sub(self.next_seq);
        if lost > SHORT_GAP {
            self.ear.reset();
        } else {
            for _ in 0..lost {
                self.hear(&[0; AUDIO_BLOCK], sink);
            }
        }
        self.anchor = (self.ear.heard(), block.captured);
        self.hear(&block.samples, sink);
        self.next_seq = block.seq + 1;
        self.done < self.blocks.len()
    }

    fn hear(&mut self, samples: &[i16; AUDIO_BLOCK], sink: &mut StepSink) {
        let (sample, instant) = self.anchor;
        let when = |at: u64| {
            if at >= sample {
                instant.after(Nanos((at - sample) * NANOS_PER_SAMPLE))
            } else {
                instant.since(Nanos((sample - at) * NANOS_PER_SAMPLE))
            }
        };
        let written = |word: &EarWord, text: &str| HeardWord {
            word: Word::from(text).unwrap_or_default(),
            ended: when(word.end_sample),
            score_permille: (word.confidence * 1_000.0) as u16,
        };
        self.ear.push_i16(samples, &mut |event| {
            // one block completes at most one frame, so the eight places of an empty sink always suffice
            let _ = sink.products.try_push(match event {
                EarEvent::Word { word, text } => Product::Word(written(&word, text)),
                EarEvent::Utterance { words, symbols, start_sample, end_sample, .. } => Product::Utterance {
                    words: words.iter().map(|w| written(w, &symbols[usize::from(w.symbol)])).collect(),
                    from: when(start_sample),
                    to: when(end_sample),
                },
            });
        });
    }

    /// Instant after the last sample heard.
    fn heard_upto(&self) -> Nanos {
        let (sample, instant) = self.anchor;
        instant.after(Nanos((self.ear.heard() - sample) * NANOS_PER_SAMPLE))
    }
}

/// The `Hear` engine: one set of weights, one ear a microphone.
#[derive(Debug)]
pub struct EarEngine {
    fresh: Ear,
    hash: [u8; 16],
    listeners: [Option<Arc<Mutex<Listener>>>; MAX_SOURCES],
}

impl EarEngine {
    /// Loads the weights for the given instructions.
    ///
    /// # Errors
    /// If the file cannot be read or is no weight file of an ear.
    pub fn load(path: &Path, simd: Simd) -> Result<EarEngine, EngineError> {
        let fault = |e: EarError| EngineError::Load { what: path.display().to_string(), why: e.to_string() };
        let bytes =
            std::fs::read(path).map_err(|source| fault(EarError::Read { path: path.display().to_string(), source }))?;
        let fresh = Ear::from_bytes(&bytes, simd).map_err(fault)?;
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        Ok(EarEngine { fresh, hash, listeners: Default::default() })
    }
}

impl Engine for EarEngine {
    fn capability(&self) -> Capability {
        Capability::Hear
    }

    fn describe(&self) -> String {
        format!(
            "ear ({} words, {:.1} MB, cpu/{})",
            self.fresh.symbols().len() - 2,
            self.fresh.bytes() as f64 / 1e6,
            self.fresh.simd().name()
        )
    }

    fn weights_hash(&self) -> [u8; 16] {
        self.hash
    }

    fn memory_bytes(&self) -> u64 {
        let blocks = MOST_BLOCKS * size_of::<AudioBlock>();
        let state = 128 * 1024; // rings, tables and scratch of one ear
        (self.fresh.bytes() + self.listeners.iter().flatten().count().max(1) * (state + blocks)) as u64
    }

    fn open(&mut self, job: &Job, sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let JobInput::Sound { upto_seq } = job.input else {
            return Err(EngineError::Unsupported(format!("the ear hears sound, not {:?}", job.input)));
        };
        let SourceId(source) = job.source;
        let place = self.listeners.get_mut(usize::from(source));
        let place = place.ok_or_else(|| EngineError::Unsupported(format!("there is no source {source}")))?;
        let shared = place.get_or_insert_with(|| Arc::new(Mutex::new(Listener::new(self.fresh.another())))).clone();
        {
            let listener = &mut *shared.lock().unwrap_or_else(PoisonError::into_inner);
            let first = listener.next_seq.max((upto_seq + 1).saturating_sub(MOST_BLOCKS as u64));
            listener.blocks.clear();
            listener.done = 0;
            sensors.sound(job.source, first, upto_seq, &mut |block| {
                if listener.blocks.len() < MOST_BLOCKS {
                    listener.blocks.push(*block);
                }
            });
            if listener.blocks.is_empty() && first <= upto_seq {
                return Err(EngineError::InputGone(format!("sound blocks {first} to {upto_seq} of source {source}")));
            }
        }
        Ok(Box::new(EarSession { shared, progress: Progress::Pending }))
    }
}

/// One job of the ear.
struct EarSession {
    shared: Arc<Mutex<Listener>>,
    progress: Progress,
}

impl Session for EarSession {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        if cancel.is_cancelled() {
            self.progress = Progress::Stopped;
            return Ok(());
        }
        let mut listener = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.progress = if listener.step(sink) {
            Progress::More
        } else {
            sink.output = Some(Output::Heard { upto: listener.heard_upto() });
            Progress::Done
        };
        Ok(())
    }

    fn poll(&mut self, _sink: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.progress)
    }

    fn energy(&self) -> Option<f32> {
        let listener = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Some(1.0 - listener.done as f32 / listener.blocks.len().max(1) as f32)
    }
}

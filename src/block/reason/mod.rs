//! The reasoner: a language model answers what was said about the scene, word by word, and ends with one action. Jobs with a
//! prompt flow in; words to speak and an action flow out. An answer waits when it is as far ahead of the voice as its credit
//! allows, and an interrupted one can go on from any word that was played.

pub mod prompt;
pub mod reply;

use self::prompt::SYSTEM;
use self::reply::ReplySplitter;
use crate::engine::cpu::kernels::Kernels;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions, Finish, Generation, Mode, Step};
use crate::engine::{CancelToken, Engine, EngineError, Product, Progress, SensorReader, Session, StepSink};
use crate::model::chat::{self, Message, Role};
use crate::model::qwen2::Qwen2Weights;
use crate::model::sampling::{Sampler, Sampling};
use crate::model::tokenizer::{TextStream, Tokenizer};
use crate::types::{Capability, Job, JobId, JobInput, Output, Piece};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens that one prefill step reads: about a millisecond of the shipped mind.
pub const PREFILL_CHUNK: usize = 24;
/// Tokens of prompt and answer together.
pub const CONTEXT: usize = 1_024;
/// Interrupted answers that are kept.
pub const PARKED: usize = 2;

/// The language model as an engine of a lane.
pub struct Reasoner {
    shared: Arc<Mutex<Shared>>,
    hash: [u8; 16],
    about: String,
    bytes: u64,
}

/// What sessions share; the lane runs one step at a time, so the lock is never contended.
struct Shared {
    decoder: Decoder,
    tokenizer: Tokenizer,
    sampler: Sampler,
    idle: Vec<Generation>,
    parked: Vec<(JobId, Generation)>,
}

impl Reasoner {
    /// Loads a model in Hugging Face layout. Answers are greedy, so that a replay gives them again.
    ///
    /// # Errors
    /// What is missing or does not fit, in one sentence.
    pub fn load(folder: &Path, kernels: &'static Kernels, threads: usize) -> Result<Reasoner, EngineError> {
        let refuse = |why: &dyn std::fmt::Display| EngineError::Load {
            what: folder.display().to_string(),
            why: why.to_string(),
        };
        let weights = Arc::new(Qwen2Weights::open(folder).map_err(|error| refuse(&error))?);
        let tokenizer = Tokenizer::load(folder).map_err(|error| refuse(&error))?;
        let sampling = Sampling { greedy: true, ..Sampling::load(folder).map_err(|error| refuse(&error))? };
        let hash = hash_of(&folder.join("model.safetensors")).map_err(|error| refuse(&error))?;
        let context = CONTEXT.min(weights.config.max_positions);
        let options = DecoderOptions { context, chunk: PREFILL_CHUNK, threads, kernels, mode: Mode::Exact };
        let decoder = Decoder::new(Arc::clone(&weights), options).map_err(|error| refuse(&error))?;
        let sampler = Sampler::new(sampling, tokenizer.vocabulary(), 0);
        let idle = vec![Generation::new(&decoder, sampler.clone())];
        let bytes = weights.file_bytes + decoder.workspace_bytes() as u64 + 3 * idle[0].kv().bytes() as u64;
        let about = format!(
            "mind: {} layers of {}, {} tokens of context, cpu/{}",
            weights.config.layers, weights.config.hidden_size, context, kernels.name
        );
        let shared = Shared { decoder, tokenizer, sampler, idle, parked: Vec::with_capacity(PARKED + 1) };
        Ok(Reasoner { shared: Arc::new(Mutex::new(shared)), hash, about, bytes })
    }
}

/// First 16 bytes of the file's BLAKE3.
fn hash_of(file: &Path) -> std::io::Result<[u8; 16]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(file)?)?;
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(hash)
}

impl Engine for Reasoner {
    fn capability(&self) -> Capability {
        Capability::Reason
    }

    fn describe(&self) -> String {
        self.about.clone()
    }

    fn weights_hash(&self) -> [u8; 16] {
        self.hash
    }

    fn memory_bytes(&self) -> u64 {
        self.bytes
    }

    fn open(&mut self, job: &Job, _sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, splitter, first_word) = match &job.input {
            JobInput::Ask { prompt, max_tokens } => {
                let messages = [Message::new(Role::System, SYSTEM), Message::new(Role::User, prompt.as_str())];
                let tokens = shared
                    .tokenizer
                    .encode(&chat::render(&messages, &[]))
                    .map_err(|error| EngineError::Unsupported(error.to_string()))?;
                let mut generation = match shared.idle.pop() {
                    Some(generation) => generation,
                    None => Generation::new(&shared.decoder, shared.sampler.clone()),
                };
                generation
                    .start(&tokens, usize::from(*max_tokens), 0)
                    .map_err(|error| EngineError::Unsupported(error.to_string()))?;
                (generation, ReplySplitter::default(), 0)
            }
            JobInput::Resume { of, from_word } => {
                let at = shared.parked.iter().position(|(parked, _)| parked == of);
                let (_, mut generation) = at
                    .map(|at| shared.parked.remove(at))
                    .ok_or_else(|| EngineError::InputGone(format!("answer {} is no longer kept", of.0)))?;
                let splitter = cut(&mut generation, &shared.tokenizer, *from_word);
                (generation, splitter, *from_word)
            }
            other => return Err(EngineError::Unsupported(format!("the reasoner takes questions, not {other:?}"))),
        };
        Ok(Box::new(Answer {
            shared: Arc::clone(&self.shared),
            job: job.id,
            generation: Some(generation),
            splitter,
            utf8: TextStream::default(),
            text: String::with_capacity(256),
            first_word,
            credit: job.credit_words,
            last: Progress::More,
        }))
    }
}

/// Cuts an answer back to the end of its first `words` words, at a token boundary; returns a splitter that has read what is
/// left. Tokens carry the space before a word, so the boundary after a word is also one between tokens.
fn cut(generation: &mut Generation, tokenizer: &Tokenizer, words: u16) -> ReplySplitter {
    let mut end_byte = 0;
    let mut whole = ReplySplitter::default();
    let mut utf8 = TextStream::default();
    let mut text = String::new();
    for token in generation.answer() {
        text.clear();
        utf8.push(tokenizer.bytes_of(*token), &mut text);
        whole.push(&text, |spoken| {
            if spoken.index < words {
                end_byte = spoken.end_byte;
            }
        });
    }
    let mut kept = ReplySplitter::default();
    let mut utf8 = TextStream::default();
    let (mut bytes, mut tokens) = (0, 0);
    for token in generation.answer() {
        let piece = tokenizer.bytes_of(*token);
        if bytes + piece.len() > end_byte {
            break;
        }
        bytes += piece.len();
        tokens += 1;
        text.clear();
        utf8.push(piece, &mut text);
        kept.push(&text, |_| {});
    }
    let prompt = generation.tokens().len() - generation.answer().len();
    generation.truncate(prompt + tokens);
    kept
}

/// One answer.
struct Answer {
    shared: Arc<Mutex<Shared>>,
    job: JobId,
    generation: Option<Generation>,
    splitter: ReplySplitter,
    utf8: TextStream,
    text: String,
    /// Words before this one were said before the interruption.
    first_word: u16,
    credit: u16,
    last: Progress,
}

impl Answer {
    fn step(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Progress {
        let Some(generation) = self.generation.as_mut() else { return Progress::Done };
        if self.splitter.words() >= self.credit && !self.splitter.speech_ended() {
            return Progress::Waiting;
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &mut *shared;
        let step = generation.step(&mut shared.decoder, cancel);
        let first_word = self.first_word;
        let mut say = |spoken: reply::Spoken| {
            if spoken.index >= first_word {
                let piece = Piece::Word { index: spoken.index, word: spoken.word };
                // At most two words end within one token, far fewer than the sink holds.
                let _ = sink.products.try_push(Product::Piece(piece));
            }
        };
        match step {
            Err(_) => Progress::Stopped,
            Ok(Step::Read { .. }) => Progress::More,
            Ok(Step::Token(token)) => {
                self.text.clear();
                self.utf8.push(shared.tokenizer.bytes_of(token), &mut self.text);
                self.splitter.push(&self.text, &mut say);
                Progress::More
            }
            Ok(Step::Finished(finish)) => {
                let action = self.splitter.finish(&mut say);
                let piece = match action {
                    Ok(action) => action.map(Piece::Action),
                    // An answer cut by its token limit has no action line; that is not a bad one.
                    Err(_) if finish == Finish::Length => None,
                    Err(_) => Some(Piece::BadAction),
                };
                if let Some(piece) = piece {
                    let _ = sink.products.try_push(Product::Piece(piece));
                }
                let tokens = generation.answer().len().min(usize::from(u16::MAX)) as u16;
                sink.output = Some(Output::Answered { words: self.splitter.words(), tokens });
                Progress::Done
            }
        }
    }
}

impl Session for Answer {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        self.last = self.step(cancel, sink);
        Ok(())
    }

    fn poll(&mut self, _sink: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.last)
    }

    fn credit(&mut self, words: u16) {
        self.credit = self.credit.max(words);
    }

    fn suspend(&mut self) {
        if let Some(generation) = self.generation.take() {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.parked.len() == PARKED {
                let (_, oldest) = shared.parked.remove(0);
                shared.idle.push(oldest);
            }
            shared.parked.push((self.job, generation));
        }
    }

    fn energy(&self) -> Option<f32> {
        // How much of an answer is left is unknown until the model ends it: 1 while it generates, 0 when complete.
        Some(if self.last == Progress::Done { 0.0 } else { 1.0 })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(generation) = self.generation.take() {
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).idle.push(generation);
        }
    }
}

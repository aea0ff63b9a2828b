//! The reasoner: a language model answers what was said about the scene, word by word, and ends with one action. Jobs with a
//! prompt flow in; words to speak and an action flow out. An answer waits when it is as far ahead of the voice as its credit
//! allows, and an interrupted one can go on from any word that was played.

pub mod prompt;
pub mod reply;

use self::prompt::SYSTEM;
use self::reply::ReplySplitter;
use crate::engine::cpu::kernels::Kernels;
use crate::engine::cpu::qwen2::{Decoder, DecoderOptions, Mode};
use crate::engine::generator::{Generator, Stepped, Talk};
use crate::engine::{CancelToken, Engine, EngineError, Product, Progress, SensorReader, Session, StepSink};
use crate::model::chat::{self, Message, Role};
use crate::model::qwen2::Qwen2Weights;
use crate::model::sampling::{Sampler, Sampling};
use crate::model::tokenizer::{TextStream, Tokenizer};
use crate::model::transcript::{Finish, Step, Transcript};
use crate::types::{Capability, Job, JobId, JobInput, Output, Piece};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens that one prefill step reads: about a millisecond of the shipped mind.
pub const PREFILL_CHUNK: usize = 24;
/// Tokens of prompt and answer together.
pub const CONTEXT: usize = 1_024;
/// Interrupted answers that are kept.
pub const PARKED: usize = 2;

/// The language model as an engine of a lane, on whatever generates its tokens.
pub struct Reasoner<G: Generator = Decoder> {
    shared: Arc<Mutex<Shared<G>>>,
    about: About,
}

/// What a reasoner says about its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Name and size for people.
    pub text: String,
    /// BLAKE3 of the weights, first 16 bytes.
    pub weights_hash: [u8; 16],
    /// Bytes held: weights, caches, working memory.
    pub memory_bytes: u64,
}

/// What sessions share; the lane runs one step at a time, so the lock is never contended.
struct Shared<G: Generator> {
    generator: G,
    tokenizer: Tokenizer,
    sampler: Sampler,
    idle: Vec<G::Talk>,
    parked: Vec<(JobId, G::Talk)>,
}

impl Reasoner {
    /// Loads a model in Hugging Face layout for the processor.
    ///
    /// # Errors
    /// What is missing or does not fit, in one sentence.
    pub fn load(folder: &Path, kernels: &'static Kernels, threads: usize) -> Result<Reasoner, EngineError> {
        let refuse = |why: &dyn std::fmt::Display| EngineError::Load {
            what: folder.display().to_string(),
            why: why.to_string(),
        };
        let weights = Arc::new(Qwen2Weights::open(folder).map_err(|error| refuse(&error))?);
        let hash = hash_of(&folder.join("model.safetensors")).map_err(|error| refuse(&error))?;
        let context = CONTEXT.min(weights.config.max_positions);
        let options = DecoderOptions { context, chunk: PREFILL_CHUNK, threads, kernels, mode: Mode::Exact };
        let decoder = Decoder::new(Arc::clone(&weights), options).map_err(|error| refuse(&error))?;
        let cache_bytes = decoder.new_cache().bytes() as u64;
        let about = About {
            text: format!(
                "mind: {} layers of {}, {} tokens of context, cpu/{}",
                weights.config.layers, weights.config.hidden_size, context, kernels.name
            ),
            weights_hash: hash,
            memory_bytes: weights.file_bytes + decoder.workspace_bytes() as u64 + (1 + PARKED as u64) * cache_bytes,
        };
        Reasoner::on(decoder, folder, about)
    }
}

impl<G: Generator> Reasoner<G> {
    /// A reasoner on `generator`; tokenizer and end tokens are those of `folder`. Answers are greedy, so that a replay gives
    /// them again.
    ///
    /// # Errors
    /// What is missing or does not fit, in one sentence.
    pub fn on(mut generator: G, folder: &Path, about: About) -> Result<Reasoner<G>, EngineError> {
        let refuse = |why: &dyn std::fmt::Display| EngineError::Load {
            what: folder.display().to_string(),
            why: why.to_string(),
        };
        let tokenizer = Tokenizer::load(folder).map_err(|error| refuse(&error))?;
        let sampling = Sampling { greedy: true, ..Sampling::load(folder).map_err(|error| refuse(&error))? };
        let sampler = Sampler::new(sampling, tokenizer.vocabulary(), 0);
        let idle = vec![generator.talk(sampler.clone())?];
        let shared = Shared { generator, tokenizer, sampler, idle, parked: Vec::with_capacity(PARKED + 1) };
        Ok(Reasoner { shared: Arc::new(Mutex::new(shared)), about })
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

impl<G: Generator> Engine for Reasoner<G> {
    fn capability(&self) -> Capability {
        Capability::Reason
    }

    fn describe(&self) -> String {
        self.about.text.clone()
    }

    fn weights_hash(&self) -> [u8; 16] {
        self.about.weights_hash
    }

    fn memory_bytes(&self) -> u64 {
        self.about.memory_bytes
    }

    fn open(&mut self, job: &Job, _sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &mut *shared;
        let (talk, splitter, first_word) = match &job.input {
            JobInput::Ask { prompt, max_tokens } => {
                let messages = [Message::new(Role::System, SYSTEM), Message::new(Role::User, prompt.as_str())];
                let tokens = shared
                    .tokenizer
                    .encode(&chat::render(&messages, &[]))
                    .map_err(|error| EngineError::Unsupported(error.to_string()))?;
                let mut talk = match shared.idle.pop() {
                    Some(talk) => talk,
                    None => shared.generator.talk(shared.sampler.clone())?,
                };
                talk.transcript_mut()
                    .start(&tokens, usize::from(*max_tokens), 0)
                    .map_err(|error| EngineError::Unsupported(error.to_string()))?;
                (talk, ReplySplitter::default(), 0)
            }
            JobInput::Resume { of, from_word } => {
                let at = shared.parked.iter().position(|(parked, _)| parked == of);
                let (_, mut talk) = at
                    .map(|at| shared.parked.remove(at))
                    .ok_or_else(|| EngineError::InputGone(format!("answer {} is no longer kept", of.0)))?;
                let splitter = cut(talk.transcript_mut(), &shared.tokenizer, *from_word);
                (talk, splitter, *from_word)
            }
            other => return Err(EngineError::Unsupported(format!("the reasoner takes questions, not {other:?}"))),
        };
        Ok(Box::new(Answer {
            shared: Arc::clone(&self.shared),
            job: job.id,
            talk: Some(talk),
            splitter,
            utf8: TextStream::default(),
            text: String::with_capacity(256),
            first_word,
            credit: job.credit_words,
            last: Progress::More,
            submitted: false,
        }))
    }
}

/// Cuts an answer back to the end of its first `words` words, at a token boundary; returns a splitter that has read what is
/// left. Tokens carry the space before a word, so the boundary after a word is also one between tokens.
fn cut(transcript: &mut Transcript, tokenizer: &Tokenizer, words: u16) -> ReplySplitter {
    let mut end_byte = 0;
    let mut whole = ReplySplitter::default();
    let mut utf8 = TextStream::default();
    let mut text = String::new();
    for token in transcript.answer() {
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
    for token in transcript.answer() {
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
    let prompt = transcript.tokens().len() - transcript.answer().len();
    transcript.truncate(prompt + tokens);
    kept
}

/// One answer.
struct Answer<G: Generator> {
    shared: Arc<Mutex<Shared<G>>>,
    job: JobId,
    talk: Option<G::Talk>,
    splitter: ReplySplitter,
    utf8: TextStream,
    text: String,
    /// Words before this one were said before the interruption.
    first_word: u16,
    credit: u16,
    last: Progress,
    /// A step was submitted whose end was not seen yet.
    submitted: bool,
}

impl<G: Generator> Answer<G> {
    /// What a step that is done means for the answer.
    ///
    /// # Errors
    /// The model is broken: nothing it says may be acted on.
    fn take(&mut self, step: Step, tokenizer: &Tokenizer, sink: &mut StepSink) -> Result<Progress, EngineError> {
        let first_word = self.first_word;
        let mut say = |spoken: reply::Spoken| {
            if spoken.index >= first_word {
                let piece = Piece::Word { index: spoken.index, word: spoken.word };
                // At most two words end within one token, far fewer than the sink holds.
                let _ = sink.products.try_push(Product::Piece(piece));
            }
        };
        match step {
            Step::Read { .. } => Ok(Progress::More),
            Step::Token(token) => {
                self.text.clear();
                self.utf8.push(tokenizer.bytes_of(token), &mut self.text);
                self.splitter.push(&self.text, &mut say);
                Ok(Progress::More)
            }
            Step::Finished(Finish::Broken) => Err(EngineError::Device(
                "the mind's logits are no numbers: its weights or its engine are broken".into(),
            )),
            Step::Finished(finish) => {
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
                let answered = self.talk.as_ref().map_or(0, |talk| talk.transcript().answer().len());
                let tokens = answered.min(usize::from(u16::MAX)) as u16;
                sink.output = Some(Output::Answered { words: self.splitter.words(), tokens });
                Ok(Progress::Done)
            }
        }
    }
}

impl<G: Generator> Session for Answer<G> {
    fn submit(&mut self, cancel: &CancelToken, _sink: &mut StepSink) -> Result<(), EngineError> {
        let Some(talk) = self.talk.as_mut() else {
            self.last = Progress::Done;
            return Ok(());
        };
        if self.splitter.words() >= self.credit && !self.splitter.speech_ended() {
            self.last = Progress::Waiting;
            return Ok(());
        }
        self.submitted = true;
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).generator.submit(talk, cancel)
    }

    fn poll(&mut self, sink: &mut StepSink) -> Result<Progress, EngineError> {
        let (true, Some(talk)) = (self.submitted, self.talk.as_mut()) else { return Ok(self.last) };
        let shared = Arc::clone(&self.shared);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let stepped = shared.generator.poll(talk)?;
        self.submitted = stepped == Stepped::Pending;
        self.last = match stepped {
            Stepped::Pending => Progress::Pending,
            Stepped::Between => Progress::More,
            Stepped::Stopped => Progress::Stopped,
            Stepped::Done(step) => self.take(step, &shared.tokenizer, sink)?,
        };
        Ok(self.last)
    }

    fn credit(&mut self, words: u16) {
        self.credit = self.credit.max(words);
    }

    fn suspend(&mut self) {
        if let Some(talk) = self.talk.take() {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.parked.len() == PARKED {
                let (_, oldest) = shared.parked.remove(0);
                shared.idle.push(oldest);
            }
            shared.parked.push((self.job, talk));
        }
    }

    fn energy(&self) -> Option<f32> {
        // How much of an answer is left is unknown until the model ends it: 1 while it generates, 0 when complete.
        Some(if self.last == Progress::Done { 0.0 } else { 1.0 })
    }
}

impl<G: Generator> Drop for Answer<G> {
    fn drop(&mut self) {
        if let Some(talk) = self.talk.take() {
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).idle.push(talk);
        }
    }
}

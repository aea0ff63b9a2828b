//! One conversation with a model, in bounded steps: a chunk of the prompt or one token of the answer.
//! Flows in: token ids of a prompt. Flows out: token ids of the answer, one per step.
//!
//! The last sampled token is not yet in the cache; it is read by the next step. So every state is a list of tokens of
//! which the cache holds a prefix, and suspending, resuming, cutting back and continuing are all the same thing:
//! change the list, keep the part of the cache that still matches, step on.

use super::decoder::Decoder;
use super::kv::KvCache;
use super::parallel::Cancelled;
use crate::engine::CancelToken;
use crate::model::sampling::Sampler;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
}

impl Finish {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read a part of the prompt; this many tokens are still unread.
    Read {
        /// Unread tokens.
        left: usize,
    },
    /// Sampled a token.
    Token(u32),
    /// The answer is over.
    Finished(Finish),
}

/// Why a prompt cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// Nothing to read.
    #[error("the prompt is empty")]
    Empty,
    /// Longer than the context.
    #[error(
        "the prompt has {tokens} tokens, but the context holds {context}; shorten it or load the model with a larger context"
    )]
    TooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Most tokens in a context.
        context: usize,
    },
    /// Not a token of this model.
    #[error("token {token} is not below the vocabulary size {vocabulary}; tokenizer and model do not belong together")]
    Unknown {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
}

/// Tokens, cache and sampler of one conversation. Allocates only when made.
pub struct Generation {
    tokens: Vec<u32>,
    kv: KvCache,
    sampler: Sampler,
    prompt: usize,
    most_new: usize,
    context: usize,
    vocabulary: usize,
    finish: Option<Finish>,
}

impl Generation {
    /// An empty conversation for `decoder`.
    pub fn new(decoder: &Decoder, sampler: Sampler) -> Generation {
        Generation {
            tokens: Vec::with_capacity(decoder.options().context),
            kv: decoder.new_cache(),
            sampler,
            prompt: 0,
            most_new: 0,
            context: decoder.options().context,
            vocabulary: decoder.weights().config.vocab_size,
            finish: None,
        }
    }

    /// Replaces the tokens by `prompt` and asks for at most `most_new` more. What the cache holds of the same
    /// beginning is kept, so a prompt that continues the last one costs only its new tokens.
    ///
    /// # Errors
    /// The prompt is empty, does not fit, or has tokens of another model.
    pub fn start(&mut self, prompt: &[u32], most_new: usize, seed: u64) -> Result<(), PromptError> {
        let context = self.context;
        if prompt.is_empty() {
            return Err(PromptError::Empty);
        }
        if prompt.len() > context {
            return Err(PromptError::TooLong { tokens: prompt.len(), context });
        }
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= self.vocabulary) {
            return Err(PromptError::Unknown { token, vocabulary: self.vocabulary });
        }
        self.keep_common(prompt);
        self.tokens.clear();
        self.tokens.extend_from_slice(prompt);
        self.prompt = prompt.len();
        self.most_new = most_new;
        self.finish = None;
        self.sampler.reset(seed);
        for &token in prompt {
            self.sampler.note(token);
        }
        Ok(())
    }

    /// Cuts the cache to what `prompt` shares with it, but leaves at least one token to read: its logits are needed.
    fn keep_common(&mut self, prompt: &[u32]) {
        let common = common_prefix(&self.tokens[..self.kv.len()], prompt);
        self.kv.truncate(common.min(prompt.len() - 1));
    }

    /// Takes the beginning of `prompt` from `other`'s cache if it holds more of it than this one; call before `start`.
    /// Returns how many tokens need not be read again.
    pub fn borrow_prefix(&mut self, other_tokens: &[u32], other: &KvCache, prompt: &[u32]) -> usize {
        let own = common_prefix(&self.tokens[..self.kv.len()], prompt);
        let held = other_tokens.len().min(other.len());
        let theirs = common_prefix(&other_tokens[..held], prompt).min(self.context);
        if theirs > own {
            self.kv.copy_from(other, theirs);
            self.tokens.clear();
            self.tokens.extend_from_slice(&prompt[..theirs]);
        }
        own.max(theirs)
    }

    /// Does one bounded step.
    ///
    /// # Errors
    /// [`Cancelled`]: everything is as before the step, which can be tried again.
    pub fn step(&mut self, decoder: &mut Decoder, cancel: &CancelToken) -> Result<Step, Cancelled> {
        self.step_allowing(decoder, cancel, None)
    }

    /// As [`Generation::step`], but only tokens whose bit is set in `allowed` may be sampled.
    ///
    /// # Errors
    /// As [`Generation::step`].
    pub fn step_allowing(
        &mut self,
        decoder: &mut Decoder,
        cancel: &CancelToken,
        allowed: Option<&[u32]>,
    ) -> Result<Step, Cancelled> {
        if let Some(finish) = self.finish {
            return Ok(Step::Finished(finish));
        }
        let unread = &self.tokens[self.kv.len()..];
        if unread.is_empty() {
            // Nothing to continue from: no prompt was given.
            return Ok(Step::Finished(Finish::Stop));
        }
        if self.answer().len() >= self.most_new {
            return Ok(self.end(Finish::Length));
        }
        let boundary = self.kv.len();
        let count = unread.len().min(decoder.options().chunk);
        decoder.forward(&unread[..count], &mut self.kv, cancel)?;
        let left = self.tokens.len() - self.kv.len();
        if left > 0 {
            return Ok(Step::Read { left });
        }
        let token = match decoder.logits(count - 1, cancel) {
            Ok(logits) => self.sampler.choose(logits, allowed),
            Err(cancelled) => {
                self.kv.truncate(boundary);
                return Err(cancelled);
            }
        };
        Ok(self.accept(token))
    }

    fn accept(&mut self, token: u32) -> Step {
        if self.sampler.ends(token) {
            return self.end(Finish::Stop);
        }
        if self.tokens.len() == self.context {
            return self.end(Finish::Context);
        }
        self.sampler.note(token);
        self.tokens.push(token);
        Step::Token(token)
    }

    fn end(&mut self, finish: Finish) -> Step {
        self.finish = Some(finish);
        Step::Finished(finish)
    }

    /// Forgets all tokens from `len` on; the answer goes on from there.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.kv.truncate(len.saturating_sub(1));
        self.prompt = self.prompt.min(len);
        self.finish = None;
    }

    /// Appends given tokens, as if they had been sampled (to close a turn, or to record what was done meanwhile).
    /// Stops at the end of the context; returns how many were taken.
    pub fn append(&mut self, tokens: &[u32]) -> usize {
        let room = self.context - self.tokens.len();
        let taken = &tokens[..tokens.len().min(room)];
        self.tokens.extend_from_slice(taken);
        for &token in taken {
            self.sampler.note(token);
        }
        self.finish = None;
        taken.len()
    }

    /// Allows `more` tokens beyond those already answered.
    pub fn allow(&mut self, more: usize) {
        self.most_new = self.answer().len() + more;
        if self.finish == Some(Finish::Length) {
            self.finish = None;
        }
    }

    /// An independent copy, cache included.
    pub fn fork(&self, decoder: &Decoder) -> Generation {
        let mut kv = decoder.new_cache();
        kv.copy_from(&self.kv, self.kv.len());
        let mut tokens = Vec::with_capacity(self.context);
        tokens.extend_from_slice(&self.tokens);
        Generation { tokens, kv, sampler: self.sampler.clone(), ..*self }
    }

    /// All tokens, prompt and answer.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The answer so far.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// The cache.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// How the answer ended, if it did.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }
}

/// How many tokens both lists begin with.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

//! One conversation with the decoder, in bounded steps: a chunk of the prompt or one token of the answer.
//! Flows in: token ids of a prompt. Flows out: token ids of the answer, one per step.

use super::decoder::Decoder;
use super::kv::KvCache;
use super::parallel::Cancelled;
use crate::engine::generator::{Generator, Stepped, Talk};
use crate::engine::{CancelToken, EngineError};
use crate::model::sampling::Sampler;
use crate::model::transcript::{Finish, Next, PromptError, Step, Transcript, common_prefix};

/// Tokens, cache and sampler of one conversation. Allocates only when made.
pub struct Generation {
    transcript: Transcript,
    kv: KvCache,
    /// How the submitted step went.
    stepped: Option<Stepped>,
}

impl Generation {
    /// An empty conversation for `decoder`.
    pub fn new(decoder: &Decoder, sampler: Sampler) -> Generation {
        let (context, vocabulary) = (decoder.options().context, decoder.weights().config.vocab_size);
        let transcript = Transcript::new(context, vocabulary, sampler);
        Generation { transcript, kv: decoder.new_cache(), stepped: None }
    }

    /// Replaces the tokens by `prompt` and asks for at most `most_new` more. What the cache holds of the same
    /// beginning is kept, so a prompt that continues the last one costs only its new tokens.
    ///
    /// # Errors
    /// The prompt is empty, does not fit, or has tokens of another model.
    pub fn start(&mut self, prompt: &[u32], most_new: usize, seed: u64) -> Result<(), PromptError> {
        self.transcript.start(prompt, most_new, seed)?;
        self.kv.truncate(self.transcript.read());
        Ok(())
    }

    /// Takes the beginning of `prompt` from `other`'s cache if it holds more of it than this one; call before `start`.
    /// Returns how many tokens need not be read again.
    pub fn borrow_prefix(&mut self, other_tokens: &[u32], other: &KvCache, prompt: &[u32]) -> usize {
        let own = self.transcript.shared_with(prompt);
        let held = other_tokens.len().min(other.len());
        let theirs = common_prefix(&other_tokens[..held], prompt).min(self.transcript.context());
        if theirs > own {
            self.kv.copy_from(other, theirs);
            self.transcript.take_over(&prompt[..theirs]);
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
        let (from, count, answers) = match self.transcript.next(decoder.options().chunk) {
            Next::Read { from, count, answers } => (from, count, answers),
            Next::Finished(finish) => return Ok(Step::Finished(finish)),
        };
        // What was cut off the tokens is cut off the cache.
        self.kv.truncate(from);
        decoder.forward(&self.transcript.tokens()[from..from + count], &mut self.kv, cancel)?;
        if !answers {
            return Ok(self.transcript.advance(count));
        }
        match decoder.logits(count - 1, cancel) {
            Ok(logits) => Ok(self.transcript.choose(count, logits, allowed)),
            Err(cancelled) => {
                self.kv.truncate(from);
                Err(cancelled)
            }
        }
    }

    /// Forgets all tokens from `len` on; the answer goes on from there.
    pub fn truncate(&mut self, len: usize) {
        self.transcript.truncate(len);
        self.kv.truncate(self.transcript.read());
    }

    /// Appends given tokens, as if they had been sampled (to close a turn, or to record what was done meanwhile).
    /// Stops at the end of the context; returns how many were taken.
    pub fn append(&mut self, tokens: &[u32]) -> usize {
        self.transcript.append(tokens)
    }

    /// Allows `more` tokens beyond those already answered.
    pub fn allow(&mut self, more: usize) {
        self.transcript.allow(more);
    }

    /// An independent copy, cache included.
    pub fn fork(&self, decoder: &Decoder) -> Generation {
        let mut kv = decoder.new_cache();
        kv.copy_from(&self.kv, self.kv.len());
        Generation { transcript: self.transcript.fork(), kv, stepped: None }
    }

    /// All tokens, prompt and answer.
    pub fn tokens(&self) -> &[u32] {
        self.transcript.tokens()
    }

    /// The answer so far.
    pub fn answer(&self) -> &[u32] {
        self.transcript.answer()
    }

    /// The cache.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// How the answer ended, if it did.
    pub fn finish(&self) -> Option<Finish> {
        self.transcript.finish()
    }
}

impl Talk for Generation {
    fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn transcript_mut(&mut self) -> &mut Transcript {
        &mut self.transcript
    }
}

impl Generator for Decoder {
    type Talk = Generation;

    fn talk(&mut self, sampler: Sampler) -> Result<Generation, EngineError> {
        Ok(Generation::new(self, sampler))
    }

    /// Does the whole step.
    fn submit(&mut self, talk: &mut Generation, cancel: &CancelToken) -> Result<(), EngineError> {
        talk.stepped = Some(match talk.step(self, cancel) {
            Ok(step) => Stepped::Done(step),
            Err(Cancelled) => Stepped::Stopped,
        });
        Ok(())
    }

    fn poll(&mut self, talk: &mut Generation) -> Result<Stepped, EngineError> {
        // Nothing was submitted: nothing has changed.
        Ok(talk.stepped.take().unwrap_or(Stepped::Stopped))
    }
}

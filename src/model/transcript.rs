//! One conversation as a list of tokens: what has been read, what comes next, and when an answer is over. Prompts and logits
//! flow in; what to read, and the tokens of the answer, flow out. Whatever computes the logits keeps a cache of what was read.
//!
//! The last sampled token is not yet in the cache; it is read by the next step. So every state is a list of tokens of
//! which the cache holds a prefix, and suspending, resuming, cutting back and continuing are all the same thing:
//! change the list, keep the part of the cache that still matches, step on.

use super::sampling::Sampler;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// The model's logits are no numbers: its weights or its engine are broken.
    Broken,
}

impl Finish {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Broken => "broken",
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

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Tokens `from..from + count` are to be read.
    Read {
        /// The first, which is also the number of tokens in the cache.
        from: usize,
        /// How many.
        count: usize,
        /// Nothing is unread behind them: the logits of the last one choose the next token.
        answers: bool,
    },
    /// Nothing: the answer is over.
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

/// Tokens and sampler of one conversation. Allocates only when made.
pub struct Transcript {
    tokens: Vec<u32>,
    read: usize,
    sampler: Sampler,
    prompt: usize,
    most_new: usize,
    context: usize,
    vocabulary: usize,
    finish: Option<Finish>,
    edits: u64,
}

impl Transcript {
    /// An empty conversation of at most `context` tokens below `vocabulary`.
    pub fn new(context: usize, vocabulary: usize, sampler: Sampler) -> Transcript {
        Transcript {
            tokens: Vec::with_capacity(context),
            read: 0,
            sampler,
            prompt: 0,
            most_new: 0,
            context,
            vocabulary,
            finish: None,
            edits: 0,
        }
    }

    /// Replaces the tokens by `prompt` and asks for at most `most_new` more. What was read of the same beginning stays read,
    /// but for its last token, whose logits are needed.
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
        self.read = self.shared_with(prompt).min(prompt.len() - 1);
        self.tokens.clear();
        self.tokens.extend_from_slice(prompt);
        self.prompt = prompt.len();
        self.most_new = most_new;
        self.finish = None;
        self.edits += 1;
        self.sampler.reset(seed);
        for &token in prompt {
            self.sampler.note(token);
        }
        Ok(())
    }

    /// How many tokens of `prompt`'s beginning have been read.
    pub fn shared_with(&self, prompt: &[u32]) -> usize {
        common_prefix(&self.tokens[..self.read], prompt)
    }

    /// The cache was given the beginning of another one: these tokens are what it holds now.
    pub fn take_over(&mut self, tokens: &[u32]) {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.read = tokens.len();
        self.edits += 1;
    }

    /// What is to be done next, in steps of at most `chunk` tokens.
    pub fn next(&mut self, chunk: usize) -> Next {
        if let Some(finish) = self.finish {
            return Next::Finished(finish);
        }
        let unread = self.tokens.len() - self.read;
        if unread == 0 {
            // Nothing to continue from: no prompt was given.
            return Next::Finished(Finish::Stop);
        }
        if self.answer().len() >= self.most_new {
            self.finish = Some(Finish::Length);
            return Next::Finished(Finish::Length);
        }
        let count = unread.min(chunk);
        Next::Read { from: self.read, count, answers: count == unread }
    }

    /// The next `count` tokens have been read, and more follow.
    pub fn advance(&mut self, count: usize) -> Step {
        self.read += count;
        Step::Read { left: self.tokens.len() - self.read }
    }

    /// The last `count` tokens have been read and gave these logits. Only tokens whose bit is set in `allowed`, if it is given,
    /// may be chosen.
    pub fn choose(&mut self, count: usize, logits: &[f32], allowed: Option<&[u32]>) -> Step {
        self.read += count;
        let token = self.sampler.choose(logits, allowed);
        if !logits.get(token as usize).is_some_and(|logit| logit.is_finite()) {
            return self.end(Finish::Broken);
        }
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
        self.read = self.read.min(len.saturating_sub(1));
        self.prompt = self.prompt.min(len);
        self.finish = None;
        self.edits += 1;
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
        self.edits += 1;
        taken.len()
    }

    /// Allows `more` tokens beyond those already answered.
    pub fn allow(&mut self, more: usize) {
        self.most_new = self.answer().len() + more;
        if self.finish == Some(Finish::Length) {
            self.finish = None;
        }
    }

    /// An independent copy.
    pub fn fork(&self) -> Transcript {
        let mut tokens = Vec::with_capacity(self.context);
        tokens.extend_from_slice(&self.tokens);
        Transcript { tokens, sampler: self.sampler.clone(), ..*self }
    }

    /// All tokens, prompt and answer.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The answer so far.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// How many tokens have been read: what the cache holds that still counts.
    pub fn read(&self) -> usize {
        self.read
    }

    /// Most tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How the answer ended, if it did.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Counts changes of the tokens other than by sampling: work begun before one is not to be gone on with.
    pub fn edits(&self) -> u64 {
        self.edits
    }
}

/// How many tokens both lists begin with.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

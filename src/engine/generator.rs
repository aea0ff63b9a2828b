//! Generators: networks that answer token by token, in bounded steps. A conversation flows in; what its next step did flows
//! out. The processor's decoder and a device's engines are both used through this, so that answering is one piece of code.

use super::{CancelToken, EngineError};
use crate::model::sampling::Sampler;
use crate::model::transcript::{Step, Transcript};

/// How a submitted step is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// It still runs.
    Pending,
    /// A part of it is done; the next part has to be submitted, and something urgent may come before.
    Between,
    /// The cancel token stopped it; the conversation is as before.
    Stopped,
    /// It is done.
    Done(Step),
}

/// One conversation with what its generator keeps of it.
pub trait Talk: Send {
    /// Its tokens.
    fn transcript(&self) -> &Transcript;
    /// Its tokens, to be changed between steps; the generator keeps what still matches.
    fn transcript_mut(&mut self) -> &mut Transcript;
}

/// A network that answers.
pub trait Generator: Send + 'static {
    /// One conversation.
    type Talk: Talk;

    /// An empty conversation.
    ///
    /// # Errors
    /// There is no memory for it.
    fn talk(&mut self, sampler: Sampler) -> Result<Self::Talk, EngineError>;

    /// Starts the next step, or the next part of one.
    ///
    /// # Errors
    /// The device refuses.
    fn submit(&mut self, talk: &mut Self::Talk, cancel: &CancelToken) -> Result<(), EngineError>;

    /// How the submitted step is doing. Never blocks.
    ///
    /// # Errors
    /// The device failed.
    fn poll(&mut self, talk: &mut Self::Talk) -> Result<Stepped, EngineError>;
}

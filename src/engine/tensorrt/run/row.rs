//! Engines in a row as a generator: which tokens are read when, group by group. A conversation flows in; passes flow to whatever
//! runs them, and logits come back. Nothing here knows a device, so the order of things is tested without one.
//!
//! One pass reads a chunk of the prompt or one token, through every group of layers in turn. Each group is a step of the
//! lane: something urgent may come between, and a cancelled pass is not gone on with. Nothing is lost by that: a pass writes the
//! same positions of the cache again when it is repeated.

use crate::engine::generator::{Generator, Stepped, Talk};
use crate::engine::{CancelToken, EngineError};
use crate::model::sampling::Sampler;
use crate::model::transcript::{Next, Step, Transcript};

/// What engines can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a conversation.
    pub context: usize,
    /// Most tokens of a pass.
    pub chunk: usize,
    /// Logits per token.
    pub vocabulary: usize,
    /// Groups of layers, one engine each.
    pub groups: usize,
}

/// Tokens that go through all groups together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// Position of the first: tokens in the cache.
    pub position: usize,
    /// Whether the logits of the last one are wanted.
    pub answers: bool,
}

/// Positions that are looked at come in multiples of this, so that a recorded decode step serves so many tokens. A conversation
/// reads at most as many masked keys too many: for Qwen2.5-14B 50 MB beside 8 GB of weights in 4 bits.
pub const LIVE_BLOCK: usize = 256;

impl Pass<'_> {
    /// How many positions of the cache are looked at: what is there with this pass, rounded up.
    pub fn keys(&self, capacity: usize) -> usize {
        (self.position + self.tokens.len()).next_multiple_of(LIVE_BLOCK).min(capacity)
    }
}

/// What runs passes, one group of one pass at a time.
pub trait Row: Send + 'static {
    /// What one conversation has there: cache, inputs, outputs.
    type Seat: Send;

    /// What passes may be.
    fn limits(&self) -> Limits;

    /// Room for one more conversation.
    ///
    /// # Errors
    /// There is no memory for it.
    fn seat(&mut self) -> Result<Self::Seat, EngineError>;

    /// Queues one group of a pass and returns at once. Groups of a pass come in order.
    ///
    /// # Errors
    /// The device refuses.
    fn queue(&mut self, seat: &mut Self::Seat, pass: &Pass<'_>, group: usize) -> Result<(), EngineError>;

    /// Whether what was queued for the seat is done. Never waits.
    ///
    /// # Errors
    /// Something queued failed.
    fn is_done(&self, seat: &Self::Seat) -> Result<bool, EngineError>;

    /// Waits until what was queued for the seat is done.
    ///
    /// # Errors
    /// Something queued failed.
    fn wait(&self, seat: &Self::Seat) -> Result<(), EngineError>;

    /// The logits of the last pass that answered and is done.
    fn logits(&self, seat: &Self::Seat, into: &mut [f32]);
}

/// A row of engines that answers.
pub struct RowGenerator<R: Row> {
    row: R,
    limits: Limits,
    logits: Vec<f32>,
}

/// A conversation on a row of engines.
pub struct RowTalk<R: Row> {
    transcript: Transcript,
    seat: R::Seat,
    under_way: Option<UnderWay>,
    /// A group was queued whose end was not seen yet.
    queued: bool,
    /// A submitted step that needs no device.
    at_once: Option<Stepped>,
}

/// A pass of which `group` is the next or the queued group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnderWay {
    edits: u64,
    from: usize,
    count: usize,
    answers: bool,
    group: usize,
}

impl<R: Row> RowGenerator<R> {
    /// A generator on the row.
    pub fn new(row: R) -> RowGenerator<R> {
        let limits = row.limits();
        RowGenerator { row, limits, logits: vec![0.0; limits.vocabulary] }
    }

    /// What the engines can take.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The row.
    pub fn row(&self) -> &R {
        &self.row
    }

    /// The logits that chose the last token.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

impl<R: Row> Talk for RowTalk<R> {
    fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn transcript_mut(&mut self) -> &mut Transcript {
        &mut self.transcript
    }
}

impl<R: Row> Generator for RowGenerator<R> {
    type Talk = RowTalk<R>;

    fn talk(&mut self, sampler: Sampler) -> Result<RowTalk<R>, EngineError> {
        let transcript = Transcript::new(self.limits.context, self.limits.vocabulary, sampler);
        Ok(RowTalk { transcript, seat: self.row.seat()?, under_way: None, queued: false, at_once: None })
    }

    fn submit(&mut self, talk: &mut RowTalk<R>, cancel: &CancelToken) -> Result<(), EngineError> {
        // What an earlier session submitted and did not look at.
        talk.at_once = None;
        if talk.queued {
            // Left by a session that went before its step was done; its inputs must not be overwritten.
            self.row.wait(&talk.seat)?;
            talk.queued = false;
            talk.under_way = None;
        }
        if cancel.is_cancelled() {
            talk.under_way = None;
            talk.at_once = Some(Stepped::Stopped);
            return Ok(());
        }
        let (from, count, answers) = match talk.transcript.next(self.limits.chunk) {
            Next::Read { from, count, answers } => (from, count, answers),
            Next::Finished(finish) => {
                talk.at_once = Some(Stepped::Done(Step::Finished(finish)));
                return Ok(());
            }
        };
        let fresh = UnderWay { edits: talk.transcript.edits(), from, count, answers, group: 0 };
        let goes_on = talk.under_way.filter(|pass| UnderWay { group: 0, ..*pass } == fresh);
        let under_way = goes_on.unwrap_or(fresh);
        let pass = Pass { tokens: &talk.transcript.tokens()[from..from + count], position: from, answers };
        talk.under_way = None;
        self.row.queue(&mut talk.seat, &pass, under_way.group)?;
        talk.under_way = Some(under_way);
        talk.queued = true;
        Ok(())
    }

    fn poll(&mut self, talk: &mut RowTalk<R>) -> Result<Stepped, EngineError> {
        if let Some(stepped) = talk.at_once.take() {
            return Ok(stepped);
        }
        let (true, Some(pass)) = (talk.queued, talk.under_way) else { return Ok(Stepped::Stopped) };
        if !self.row.is_done(&talk.seat)? {
            return Ok(Stepped::Pending);
        }
        talk.queued = false;
        if pass.group + 1 < self.limits.groups {
            talk.under_way = Some(UnderWay { group: pass.group + 1, ..pass });
            return Ok(Stepped::Between);
        }
        talk.under_way = None;
        if pass.edits != talk.transcript.edits() {
            // The tokens were changed while their pass ran: what it computed counts for nothing.
            return Ok(Stepped::Stopped);
        }
        if !pass.answers {
            return Ok(Stepped::Done(talk.transcript.advance(pass.count)));
        }
        self.row.logits(&talk.seat, &mut self.logits);
        Ok(Stepped::Done(talk.transcript.choose(pass.count, &self.logits, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_looked_at_cover_the_pass_and_never_exceed_the_cache() {
        let tokens = [1; 300];
        let keys = |position: usize, count: usize, capacity: usize| {
            Pass { tokens: &tokens[..count], position, answers: false }.keys(capacity)
        };
        assert_eq!(keys(0, 1, 4096), 256);
        assert_eq!(keys(255, 1, 4096), 256);
        assert_eq!(keys(256, 1, 4096), 512);
        assert_eq!(keys(0, 300, 4096), 512);
        assert_eq!(keys(319, 1, 320), 320);
        assert_eq!(keys(10, 1, 200), 200);
    }
}

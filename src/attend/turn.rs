//! One turn of a dialogue: an answer while it is generated and spoken, and what is kept of one that was broken off.
//! Reports of the voice flow in; how many words the mind may generate flows out.

use crate::types::{JobId, Nanos, SourceId, UtteranceId, VoiceReport};
use serde::{Deserialize, Serialize};

/// An answer being generated or spoken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The mind's job.
    pub job: JobId,
    /// The spoken answer.
    pub utterance: UtteranceId,
    /// The microphone that heard the question.
    pub source: SourceId,
    /// End of the question.
    pub asked: Nanos,
    /// Position in the job's answer at which this turn began: 0, or where it was resumed.
    pub base: u16,
    /// Words given to the voice in this turn.
    pub said: u16,
    /// Words of this turn that were fully played.
    pub played: u16,
    /// Words of the job's answer that the mind may generate in all, from the answer's beginning.
    pub credit: u16,
    /// The mind is not finished.
    pub decoding: bool,
    /// Its action was handed to the gate.
    pub acted: bool,
    /// When mind or voice last got on.
    pub progress: Nanos,
}

/// An answer that was broken off and can go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumable {
    /// The mind's job.
    pub job: JobId,
    /// The spoken answer.
    pub utterance: UtteranceId,
    /// Position in the job's answer at which that turn began.
    pub base: u16,
    /// Words of the turn that were fully played.
    pub played: u16,
    /// The mind had generated it to its end.
    pub complete: bool,
    /// Its action was handed to the gate.
    pub acted: bool,
}

impl Turn {
    /// A turn that begins now.
    pub fn new(job: JobId, utterance: UtteranceId, source: SourceId, asked: Nanos, credit: u16, now: Nanos) -> Turn {
        Turn {
            job,
            utterance,
            source,
            asked,
            base: 0,
            said: 0,
            played: 0,
            credit,
            decoding: true,
            acted: false,
            progress: now,
        }
    }

    /// The voice reports on this turn's utterance.
    pub fn played(&mut self, report: &VoiceReport, now: Nanos) {
        if report.played_words > self.played {
            self.played = report.played_words.min(self.said);
            self.progress = now;
        }
    }

    /// Words this turn may have so that at most `ahead_ms` of speech are beyond the last spoken word. The pace is that of
    /// the queued words; `word_ms` where there are none.
    pub fn allowed(&self, report: &VoiceReport, ahead_ms: u32, word_ms: u64) -> u16 {
        let ours = report.utterance == self.utterance;
        let (queued_ms, queued) = if ours { (report.queued.as_ms(), u64::from(report.queued_words)) } else { (0, 0) };
        let pace = queued_ms.checked_div(queued).unwrap_or(word_ms).max(50);
        let unreported = u64::from(self.said - self.played).saturating_sub(queued);
        let free = u64::from(ahead_ms).saturating_sub(queued_ms + unreported * pace) / pace;
        // With nothing under way one word is always allowed, however long it is.
        let free = if self.said == self.played { free.max(1) } else { free };
        self.said.saturating_add(free.min(1_000) as u16)
    }

    /// What is kept of it when it is broken off.
    pub fn broken_off(&self) -> Resumable {
        Resumable {
            job: self.job,
            utterance: self.utterance,
            base: self.base,
            played: self.played,
            complete: !self.decoding,
            acted: self.acted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(said: u16, played: u16) -> Turn {
        let mut turn = Turn::new(JobId(1), UtteranceId(1), SourceId(1), Nanos::ZERO, 5, Nanos::ZERO);
        (turn.said, turn.played) = (said, played);
        turn
    }

    fn report(played_words: u16, queued_words: u16, queued_ms: u64) -> VoiceReport {
        let queued = Nanos::from_ms(queued_ms);
        VoiceReport { utterance: UtteranceId(1), played_words, queued_words, queued, ..VoiceReport::default() }
    }

    #[test]
    fn speech_never_outruns_the_listener_by_more_than_the_limit() {
        assert_eq!(turn(0, 0).allowed(&VoiceReport::default(), 2_000, 353), 5);
        assert_eq!(turn(10, 5).allowed(&report(5, 5, 2_000), 2_000, 353), 10, "the queue is full");
        assert_eq!(turn(10, 6).allowed(&report(6, 4, 1_600), 2_000, 353), 11, "one word of 400 ms fits");
        assert_eq!(turn(10, 6).allowed(&report(6, 2, 800), 2_000, 353), 11, "two are on their way to the voice");
        assert_eq!(turn(3, 3).allowed(&report(3, 0, 0), 100, 353), 4, "a word longer than the limit is still said");
    }

    #[test]
    fn reports_of_another_utterance_do_not_count() {
        let mut other = report(5, 5, 2_000);
        other.utterance = UtteranceId(7);
        assert_eq!(turn(0, 0).allowed(&other, 2_000, 353), 5);
    }
}

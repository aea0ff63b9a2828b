//! What to do about what was heard and said. Words and utterances of the ear, pieces of an answer and reports of the
//! voice flow in; questions to the mind, speech with its credit, actions for the gate, and interruptions flow out. A pure
//! state machine; what it holds is one turn, one answer that can be resumed, and the last words said.

use super::budget::Budget;
use super::own_voice::OwnVoice;
use super::turn::{Resumable, Turn};
use super::world::World;
use crate::act::gate::{Gate, Order};
use crate::block::reason::prompt::{Scene, UNKNOWN_WORD, prompt};
use crate::config::{CoreConfig, span_ms};
use crate::dispatch::want::{Admission, Verdict, Want};
use crate::types::{
    Act, ActionLine, AudioFeatures, BasedOn, Capability, Class, Decision, Detection, HeardWord, JobId, JobInput,
    MAX_DETECTIONS, MAX_SOURCES, MAX_WORDS, Name, Nanos, Outcome, Outputs, Piece, Prompt, SourceId, UtteranceId,
    VoiceReport, Why, Word,
};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Words that halt the robot at once, whatever else is said.
const REFLEX: [&str; 2] = ["stop", "halt"];
/// The word that resumes an interrupted answer, and words that may stand beside it.
const RESUME: &str = "continue";
const BESIDE_RESUME: [&str; 6] = ["please", "robot", "now", "yes", "hello", "again"];
/// A reflex word needs only this confidence: the ear has its own threshold, and a needless halt is cheap.
const REFLEX_SCORE: u16 = 300;
/// Mean confidence that an utterance's known words need.
const UTTERANCE_SCORE: u16 = 350;
/// Own words among an utterance are coincidence if there are this many times as many others.
const FEW: usize = 3;
/// Two reflex words closer than this are one.
const SAME_WORD: Nanos = Nanos::from_ms(300);
/// Frames up to this old make the scene that a question is asked with.
const SCENE_AGE: Nanos = Nanos::from_ms(2_500);
/// A word keeps the dialogue going this long; the metabolic state adds its own hold.
const WORD_HOLD: Nanos = Nanos::from_ms(1_500);
/// A turn without any progress of mind or voice for this long is given up.
const STUCK: Nanos = Nanos::from_s(8);
/// Pace of speech before the voice reports its own: 170 words a minute.
const WORD_MS: u64 = 353;

/// What the dialogue may use in one tick.
pub struct Moment<'a> {
    /// Tick time.
    pub now: Nanos,
    /// The configuration.
    pub config: &'a CoreConfig,
    /// What is seen.
    pub world: &'a World,
    /// What is left to spend.
    pub budget: &'a Budget,
    /// Where actions go.
    pub gate: &'a mut Gate,
    /// Where wants go.
    pub desk: &'a mut dyn Admission,
    /// Where all else goes.
    pub out: &'a mut Outputs,
}

/// How a turn ended, for those who learn from outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// The answer was spoken to its end.
    Spoken(SourceId),
    /// The answer was broken off.
    Broken(SourceId),
}

/// The dialogue's whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialogue {
    turn: Option<Turn>,
    resumable: Option<Resumable>,
    utterances: u32,
    own: OwnVoice,
    reflex_at: Option<Nanos>,
    spoken_at: Option<Nanos>,
    heard_upto: Nanos,
    heard_seq: u64,
    ended: Option<Ended>,
    contradicted: Option<SourceId>,
}

impl Dialogue {
    /// Nobody has said anything; allocates here and never again.
    pub fn new(sources: usize) -> Dialogue {
        Dialogue {
            turn: None,
            resumable: None,
            utterances: 0,
            own: OwnVoice::new(sources),
            reflex_at: None,
            spoken_at: None,
            heard_upto: Nanos::ZERO,
            heard_seq: 0,
            ended: None,
            contradicted: None,
        }
    }

    /// Somebody speaks to the robot, or the robot answers.
    pub fn active(&self, now: Nanos) -> bool {
        self.turn.is_some() || self.spoken_at.is_some_and(|at| now.since(at) < WORD_HOLD)
    }

    /// How a turn ended since the last call.
    pub fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// The microphone whose order led to an action that the sensors contradicted since the last call.
    pub fn take_contradicted(&mut self) -> Option<SourceId> {
        self.contradicted.take()
    }

    /// Takes a block's share of echo.
    pub fn hears(&mut self, features: &AudioFeatures) {
        self.own.hears(features);
        self.heard_seq = self.heard_seq.max(features.seq);
    }

    /// The ear has heard everything up to this instant.
    pub fn heard_upto(&mut self, upto: Nanos) {
        self.heard_upto = self.heard_upto.max(upto);
    }

    /// The voice reports.
    pub fn voice(&mut self, report: &VoiceReport, now: Nanos) {
        self.own.reports(report, now);
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.utterance == report.utterance) {
            turn.played(report, now);
        }
    }

    /// A word was recognised. "stop" and "halt" act at once; others wait for their utterance.
    pub fn word(&mut self, source: SourceId, heard: &HeardWord, at: &mut Moment<'_>) {
        if REFLEX.contains(&heard.word.as_str()) {
            return self.reflex(source, heard, at);
        }
        if self.own.is_own(source, heard) {
            self.own.reject(source, heard);
        } else if heard.word.as_str() != UNKNOWN_WORD {
            self.spoken_at = Some(at.now);
        }
    }

    fn reflex(&mut self, source: SourceId, heard: &HeardWord, at: &mut Moment<'_>) {
        let again = self
            .reflex_at
            .is_some_and(|last| heard.ended.since(last) < SAME_WORD && last.since(heard.ended) < SAME_WORD);
        if again || heard.score_permille < REFLEX_SCORE {
            return;
        }
        if self.own.saying(&heard.word, heard.ended) || self.own.explains(source, heard) {
            self.own.reject(source, heard);
            return shed(source, Why::OwnVoice, at);
        }
        self.reflex_at = Some(heard.ended);
        self.spoken_at = Some(at.now);
        at.gate.said_stop(heard.ended, at.now, at.out);
        self.interrupt(Why::SaidStop, at);
    }

    /// An utterance ended: a question or order to the mind, "continue", or nothing to act on.
    pub fn utterance(
        &mut self,
        source: SourceId,
        words: &ArrayVec<HeardWord, MAX_WORDS>,
        to: Nanos,
        at: &mut Moment<'_>,
    ) {
        let mut all: ArrayVec<&HeardWord, MAX_WORDS> = ArrayVec::new();
        let mut kept: ArrayVec<&HeardWord, MAX_WORDS> = ArrayVec::new();
        let mut stopped = false;
        for heard in words {
            if REFLEX.contains(&heard.word.as_str()) {
                self.reflex(source, heard, at);
                stopped |= self.reflex_at.is_some_and(|last| heard.ended.since(last) < SAME_WORD);
                continue;
            }
            all.push(heard);
            if !self.own.is_own(source, heard) {
                kept.push(heard);
            }
        }
        let own = all.len() - kept.len();
        if own * FEW <= kept.len() {
            kept = all; // a word or two in common with what the robot says: somebody else's all the same
        }
        let known = kept.iter().filter(|heard| heard.word.as_str() != UNKNOWN_WORD);
        let (count, sum) = known.fold((0u32, 0u32), |(n, sum), heard| (n + 1, sum + u32::from(heard.score_permille)));
        if stopped {
            return; // halting was the answer
        }
        if count == 0 || sum / count < u32::from(UTTERANCE_SCORE) {
            return shed(source, if own > 0 { Why::OwnVoice } else { Why::Unknown }, at);
        }
        self.spoken_at = Some(at.now);
        if self.wants_resume(&kept) && self.resume(source, to, at) {
            return;
        }
        self.interrupt(Why::Interrupted, at);
        let scene = scene(at);
        let text = prompt(&scene, kept.iter().map(|heard| heard.word.as_str()));
        self.ask(source, text, to, at);
    }

    fn wants_resume(&self, kept: &[&HeardWord]) -> bool {
        kept.iter().any(|heard| heard.word.as_str() == RESUME)
            && kept.iter().all(|heard| heard.word.as_str() == RESUME || BESIDE_RESUME.contains(&heard.word.as_str()))
    }

    fn ask(&mut self, source: SourceId, prompt: Prompt, to: Nanos, at: &mut Moment<'_>) {
        let max_tokens = at.config.schedule.reason_max_tokens;
        let want =
            want(source, JobInput::Ask { prompt, max_tokens }, to, self.heard_seq, ahead_words(at), Why::Spoken, at);
        if !at.budget.allows(Class::Dialogue, Capability::Reason) {
            return at.desk.shed(&want, Why::OverBudget, at.out);
        }
        let Some(job) = at.desk.want(&want, at.out) else { return };
        let utterance = self.next_utterance();
        self.turn = Some(Turn::new(job, utterance, source, to, want.credit_words, at.now));
    }

    /// Goes on with the answer that was interrupted last: `false` if there is none.
    fn resume(&mut self, source: SourceId, to: Nanos, at: &mut Moment<'_>) -> bool {
        let Some(old) = self.resumable.take() else { return false };
        self.interrupt(Why::Interrupted, at);
        let utterance = self.next_utterance();
        if old.complete {
            // The mind had already said it all: only the voice goes on, with the words it had not played.
            let mut words: ArrayVec<Word, 16> = ArrayVec::new();
            words.extend(self.own.words_from(old.utterance, old.played).take(16).copied());
            let mut turn = Turn::new(old.job, utterance, source, to, 0, at.now);
            turn.decoding = false;
            turn.acted = true;
            for word in words {
                self.say(&mut turn, word, at);
            }
            at.out.act(Act::EndOfAnswer { utterance });
            self.turn = Some(turn);
            return true;
        }
        let from_word = old.base + old.played;
        let input = JobInput::Resume { of: old.job, from_word };
        let credit = from_word.saturating_add(ahead_words(at));
        let want = want(source, input, to, self.heard_seq, credit, Why::Resumed, at);
        let Some(job) = at.desk.want(&want, at.out) else { return true };
        let mut turn = Turn::new(job, utterance, source, to, credit, at.now);
        turn.base = from_word;
        turn.acted = old.acted;
        self.turn = Some(turn);
        true
    }

    fn next_utterance(&mut self) -> UtteranceId {
        self.utterances += 1;
        UtteranceId(self.utterances)
    }

    fn say(&mut self, turn: &mut Turn, word: Word, at: &mut Moment<'_>) {
        let (utterance, index) = (turn.utterance, turn.said);
        if at.out.act(Act::Say { utterance, index, word }) {
            self.own.says(utterance, index, word);
            turn.said += 1;
        }
    }

    /// A piece of an answer. What comes late, or belongs to no turn, is neither spoken nor acted on.
    pub fn piece(&mut self, job: JobId, piece: &Piece, verdict: Verdict, at: &mut Moment<'_>) {
        let Some(mut turn) = self.turn.take_if(|turn| turn.job == job) else { return };
        match verdict {
            Verdict::Late => return self.ended = Some(Ended::Broken(turn.source)),
            Verdict::Ignore => {}
            Verdict::Use => {
                turn.progress = at.now;
                match piece {
                    Piece::Word { index, word } if *index >= turn.base + turn.said => {
                        self.say(&mut turn, *word, at);
                    }
                    Piece::Word { .. } => {}
                    Piece::Action(line) => self.act(&mut turn, line, at),
                    Piece::BadAction => {
                        at.out.decide(Decision::Refuse { name: Name::new(), why: Why::Unknown });
                    }
                }
            }
        }
        self.turn = Some(turn);
    }

    /// An answer acts at most once, also when it was resumed. The order stands as long as the robot listened and nobody
    /// said otherwise: that, and not the moment it was spoken, is what must be fresh.
    fn act(&mut self, turn: &mut Turn, line: &ActionLine, at: &mut Moment<'_>) {
        if turn.acted {
            return;
        }
        turn.acted = true;
        let captured = self.heard_upto.max(turn.asked);
        let stands = BasedOn { source: turn.source, seq: self.heard_seq, captured };
        let order = Order { spoken: turn.asked, stands };
        let sent = at.gate.propose(line, &order, at.world, at.now, &at.config.gate, at.out);
        if matches!(sent, Err(Why::TooNear | Why::Late | Why::Missing | Why::Unknown)) {
            self.contradicted = Some(turn.source);
        }
    }

    /// A reasoning job is over.
    pub fn done(&mut self, job: JobId, outcome: &Outcome, at: &mut Moment<'_>) {
        let Some(turn) = self.turn.as_mut().filter(|turn| turn.job == job) else { return };
        turn.decoding = false;
        turn.progress = at.now;
        let (utterance, said, source) = (turn.utterance, turn.said, turn.source);
        if said > 0 {
            at.out.act(Act::EndOfAnswer { utterance });
        } else {
            let good = matches!(outcome, Outcome::Completed);
            self.ended = Some(if good { Ended::Spoken(source) } else { Ended::Broken(source) });
            self.turn = None;
        }
    }

    /// Breaks off what is being answered: the decode is cancelled, the voice silenced, and the answer cut to what was
    /// played. It can be resumed.
    pub fn interrupt(&mut self, why: Why, at: &mut Moment<'_>) {
        let Some(turn) = self.turn.take() else {
            if self.own.report().playing {
                at.out.act(Act::Silence);
            }
            return;
        };
        if turn.decoding {
            at.desk.cancel(turn.job, why, at.out);
        }
        at.out.act(Act::Silence);
        let played = turn.played;
        at.out.decide(Decision::Cut { utterance: turn.utterance, job: turn.job, played: turn.base + played, why });
        self.resumable = Some(turn.broken_off());
        self.ended = Some(Ended::Broken(turn.source));
    }

    /// Once per tick: gives the mind as much credit as the voice has used up, and ends a turn that was spoken.
    pub fn tick(&mut self, at: &mut Moment<'_>) {
        let Some(turn) = self.turn.as_mut() else { return };
        if !turn.decoding && turn.played >= turn.said {
            self.ended = Some(Ended::Spoken(turn.source));
            self.turn = None;
            return;
        }
        if at.now.since(turn.progress) >= STUCK {
            return self.interrupt(Why::Missing, at);
        }
        if !turn.decoding {
            return;
        }
        let allowed =
            turn.base.saturating_add(turn.allowed(self.own.report(), at.config.schedule.speak_ahead_ms, WORD_MS));
        if allowed > turn.credit && at.desk.credit(turn.job, allowed, at.out) {
            turn.credit = allowed;
        }
    }
}

/// Words that may be spoken ahead before the voice has said how fast it is.
fn ahead_words(at: &Moment<'_>) -> u16 {
    (u64::from(at.config.schedule.speak_ahead_ms) / WORD_MS).clamp(1, 1_000) as u16
}

/// The scene as the mind is told it.
fn scene(at: &Moment<'_>) -> Scene {
    let mut seen: ArrayVec<Detection, { MAX_DETECTIONS * MAX_SOURCES }> = ArrayVec::new();
    seen.extend(at.world.seen(at.now, SCENE_AGE).take(MAX_DETECTIONS * MAX_SOURCES).copied());
    Scene::of_detections(&seen, at.world.status().and_then(|status| status.battery_percent))
}

fn want(source: SourceId, input: JobInput, to: Nanos, seq: u64, credit_words: u16, why: Why, at: &Moment<'_>) -> Want {
    let deadline = to.after(span_ms(at.config.schedule.reason_deadline_ms));
    let mut based_on = ArrayVec::new();
    based_on.push(BasedOn { source, seq, captured: to });
    based_on.extend(at.world.newest(at.now, SCENE_AGE));
    Want {
        capability: Capability::Reason,
        source,
        class: Class::Dialogue,
        input,
        deadline,
        fresh_until: deadline,
        credit_words,
        based_on,
        why,
    }
}

/// What was said is not answered.
fn shed(source: SourceId, why: Why, at: &mut Moment<'_>) {
    at.out.decide(Decision::Shed { capability: Capability::Reason, class: Class::Dialogue, source, why });
}

#[cfg(test)]
mod tests;

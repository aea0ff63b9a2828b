//! What the robot does about what it hears and says.

use super::*;
use crate::config::Config;
use crate::types::{Command, Thing};

const MIC: SourceId = SourceId(1);

/// Admits everything, as the schedule does when there is room.
#[derive(Default)]
struct Desk {
    jobs: u64,
    wants: Vec<Want>,
    cancelled: Vec<JobId>,
}

impl Admission for Desk {
    fn want(&mut self, want: &Want, _: &mut Outputs) -> Option<JobId> {
        self.jobs += 1;
        self.wants.push(want.clone());
        Some(JobId(self.jobs))
    }

    fn cancel(&mut self, job: JobId, _: Why, _: &mut Outputs) {
        self.cancelled.push(job);
    }
}

struct Bench {
    dialogue: Dialogue,
    desk: Desk,
    gate: Gate,
    world: World,
    budget: Budget,
    config: CoreConfig,
    now: Nanos,
    out: Outputs,
}

impl Bench {
    fn new() -> Bench {
        let mut config = Config::default();
        config.camera.push(Default::default());
        config.microphone.push(Default::default());
        let config = config.core();
        Bench {
            dialogue: Dialogue::new(3),
            desk: Desk::default(),
            gate: Gate::default(),
            world: World::default(),
            budget: Budget::new(&config.budget),
            config,
            now: Nanos::from_s(100),
            out: Outputs::default(),
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Dialogue, &mut Moment<'_>) -> T) -> T {
        let mut moment = Moment {
            now: self.now,
            config: &self.config,
            world: &self.world,
            budget: &self.budget,
            gate: &mut self.gate,
            desk: &mut self.desk,
            out: &mut self.out,
        };
        act(&mut self.dialogue, &mut moment)
    }

    fn pass(&mut self, ms: u64) {
        self.now += Nanos::from_ms(ms);
        self.out.clear();
        self.dialogue.heard_upto(self.now.since(Nanos::from_ms(60)));
        self.with(|dialogue, at| dialogue.tick(at));
    }

    fn heard(&self, word: &str) -> HeardWord {
        let ended = self.now.since(Nanos::from_ms(100));
        HeardWord { word: Word::from(word).expect("short"), ended, score_permille: 900 }
    }

    /// A whole utterance, word by word as the ear reports it.
    fn hear(&mut self, text: &str) {
        let words: ArrayVec<HeardWord, MAX_WORDS> = text.split(' ').map(|word| self.heard(word)).collect();
        for word in &words {
            self.with(|dialogue, at| dialogue.word(MIC, word, at));
        }
        let to = self.now.since(Nanos::from_ms(100));
        self.with(|dialogue, at| dialogue.utterance(MIC, &words, to, at));
    }

    fn piece(&mut self, job: u64, piece: Piece) {
        self.with(|dialogue, at| dialogue.piece(JobId(job), &piece, Verdict::Use, at));
    }

    fn answer(&mut self, job: u64, from: u16, text: &str) {
        for (index, word) in text.split(' ').enumerate() {
            self.piece(job, Piece::Word { index: from + index as u16, word: Word::from(word).expect("short") });
        }
    }

    fn done(&mut self, job: u64) {
        self.with(|dialogue, at| dialogue.done(JobId(job), &Outcome::Completed, at));
    }

    fn plays(&mut self, utterance: u32, played_words: u16, queued_words: u16) {
        let report = VoiceReport {
            utterance: UtteranceId(utterance),
            played_words,
            queued_words,
            queued: Nanos::from_ms(u64::from(queued_words) * 353),
            playing: queued_words > 0,
            silent_since: self.now,
        };
        let now = self.now;
        self.dialogue.voice(&report, now);
    }

    fn said(&self) -> String {
        let words: Vec<&str> = self
            .out
            .acts
            .iter()
            .filter_map(|act| if let Act::Say { word, .. } = act { Some(word.as_str()) } else { None })
            .collect();
        words.join(" ")
    }

    fn credit(&self) -> Option<u16> {
        self.out.commands.iter().find_map(|command| match command {
            Command::Credit { words, .. } => Some(*words),
            _ => None,
        })
    }

    fn silenced(&self) -> bool {
        self.out.acts.contains(&Act::Silence)
    }

    fn sees_person(&mut self, bearing_mrad: i16) {
        let person = Detection {
            thing: Thing::Person,
            bbox_px: [0; 4],
            score_permille: 900,
            distance_mm: 1_800,
            bearing_mrad,
            raising: false,
        };
        self.world.saw(SourceId(0), 1, self.now, &[person].into_iter().collect());
    }
}

fn line(name: &str, target: &str, direction: &str) -> Piece {
    let text = |text: &str| Name::from(text).expect("short");
    Piece::Action(ActionLine { name: text(name), target: text(target), direction: text(direction) })
}

#[test]
fn a_question_goes_to_the_mind_with_the_scene() {
    let mut bench = Bench::new();
    bench.sees_person(-400);
    bench.hear("what do you see");
    let want = &bench.desk.wants[0];
    let JobInput::Ask { prompt, max_tokens } = want.input else { panic!("a question") };
    assert_eq!(
        prompt.as_str(),
        "scene: person left 1.8 m; obstacle none; charger none; battery unknown\nwhat do you see"
    );
    assert_eq!((max_tokens, want.class, want.credit_words), (400, Class::Dialogue, 5));
    assert_eq!(want.deadline, bench.now.since(Nanos::from_ms(100)) + Nanos::from_s(2));
    assert_eq!(want.based_on.len(), 2, "the sound and the frame");
    assert!(bench.dialogue.active(bench.now));
}

#[test]
fn noise_and_doubt_are_not_answered() {
    let mut bench = Bench::new();
    bench.hear("<unk> <unk>");
    let mut doubtful = bench.heard("report");
    doubtful.score_permille = 100;
    let to = bench.now;
    bench.with(|dialogue, at| dialogue.utterance(MIC, &[doubtful].into_iter().collect(), to, at));
    assert!(bench.desk.wants.is_empty());
    let whys: Vec<Why> = bench
        .out
        .decisions
        .iter()
        .filter_map(|decision| if let Decision::Shed { why, .. } = decision { Some(*why) } else { None })
        .collect();
    assert_eq!(whys, [Why::Unknown, Why::Unknown]);
}

#[test]
fn speech_keeps_ahead_of_the_voice_by_two_seconds_at_most() {
    let mut bench = Bench::new();
    bench.hear("tell me your story");
    bench.answer(1, 0, "Once there was a small");
    assert_eq!(bench.said(), "Once there was a small");
    bench.pass(10);
    assert_eq!(bench.credit(), None, "five words are all that two seconds hold");
    bench.plays(1, 1, 4);
    bench.pass(10);
    assert_eq!(bench.credit(), Some(6));
    bench.answer(1, 5, "robot");
    bench.pass(10);
    assert_eq!(bench.credit(), None);
    bench.plays(1, 3, 3);
    bench.pass(10);
    assert_eq!(bench.credit(), Some(8));
}

#[test]
fn a_turn_ends_when_its_last_word_was_played() {
    let mut bench = Bench::new();
    bench.hear("hello");
    bench.answer(1, 0, "Hello! I see you.");
    bench.done(1);
    assert!(bench.out.acts.contains(&Act::EndOfAnswer { utterance: UtteranceId(1) }));
    bench.plays(1, 3, 1);
    bench.pass(2_000);
    assert!(bench.dialogue.active(bench.now));
    bench.plays(1, 4, 0);
    bench.pass(10);
    assert!(!bench.dialogue.active(bench.now));
    assert_eq!(bench.dialogue.take_ended(), Some(Ended::Spoken(MIC)));
}

#[test]
fn stop_cancels_silences_and_halts_at_once() {
    let mut bench = Bench::new();
    bench.hear("tell me your story");
    bench.answer(1, 0, "Once there was a small");
    bench.plays(1, 2, 3);
    bench.pass(10);
    let stop = bench.heard("stop");
    bench.with(|dialogue, at| dialogue.word(MIC, &stop, at));
    assert_eq!(bench.desk.cancelled, [JobId(1)]);
    assert!(bench.silenced() && bench.gate.halted());
    let cut = Decision::Cut { utterance: UtteranceId(1), job: JobId(1), played: 2, why: Why::SaidStop };
    assert!(bench.out.decisions.contains(&cut));

    bench.out.clear();
    let to = bench.now;
    bench.with(|dialogue, at| dialogue.utterance(MIC, &[stop].into_iter().collect(), to, at));
    assert!(bench.out.decisions.is_empty(), "the utterance says nothing new");
    assert_eq!(bench.desk.wants.len(), 1, "and the mind is not asked");
    bench.piece(1, Piece::Word { index: 5, word: Word::from("robot").expect("short") });
    assert_eq!(bench.said(), "", "what still comes of the answer is not spoken");
}

#[test]
fn stop_halts_a_silent_robot_too() {
    let mut bench = Bench::new();
    bench.hear("robot halt please");
    assert!(bench.gate.halted() && bench.desk.wants.is_empty());
    assert!(!bench.silenced(), "there is nothing to silence");
}

#[test]
fn a_new_question_cuts_the_answer_and_starts_anew() {
    let mut bench = Bench::new();
    bench.hear("tell me your story");
    bench.answer(1, 0, "Once there was a small");
    bench.plays(1, 3, 2);
    bench.pass(3_000);
    bench.hear("who are you");
    assert_eq!(bench.desk.cancelled, [JobId(1)]);
    assert!(bench.silenced());
    assert_eq!(bench.desk.wants.len(), 2);
    bench.answer(2, 0, "My name is Sage.");
    assert!(bench.out.acts.iter().any(|act| matches!(act, Act::Say { utterance: UtteranceId(2), index: 0, .. })));
}

#[test]
fn continue_resumes_from_the_first_word_that_was_not_played() {
    let mut bench = Bench::new();
    bench.hear("tell me your story");
    bench.answer(1, 0, "Once there was a small");
    bench.plays(1, 3, 2);
    bench.pass(3_000);
    bench.hear("stop");
    bench.pass(3_000);
    bench.hear("continue please");
    assert_eq!(bench.desk.wants[1].input, JobInput::Resume { of: JobId(1), from_word: 3 });
    assert_eq!(bench.desk.wants[1].why, Why::Resumed);
    bench.answer(2, 3, "a small robot");
    assert_eq!(bench.said(), "a small robot");
    // A second interruption counts words from the beginning of the answer, not of the turn.
    bench.plays(2, 2, 1);
    bench.pass(3_000);
    bench.hear("stop");
    bench.pass(3_000);
    bench.hear("continue");
    assert_eq!(bench.desk.wants[2].input, JobInput::Resume { of: JobId(2), from_word: 5 });
}

#[test]
fn an_answer_that_was_complete_goes_on_without_the_mind() {
    let mut bench = Bench::new();
    bench.hear("hello");
    bench.answer(1, 0, "Hello! I see you.");
    bench.done(1);
    bench.plays(1, 1, 3);
    bench.pass(3_000);
    bench.hear("stop");
    bench.pass(2_000);
    bench.plays(1, 1, 0);
    bench.hear("continue");
    assert_eq!((bench.said().as_str(), bench.desk.wants.len()), ("I see you.", 1));
}

#[test]
fn continue_without_anything_to_continue_is_a_question_like_any_other() {
    let mut bench = Bench::new();
    bench.hear("continue");
    assert!(matches!(bench.desk.wants[0].input, JobInput::Ask { .. }));
}

#[test]
fn the_robot_does_not_answer_itself_but_obeys_others_over_its_voice() {
    let mut bench = Bench::new();
    bench.hear("is the way clear");
    bench.answer(1, 0, "The way ahead is clear.");
    bench.plays(1, 2, 3);
    bench.pass(20);
    bench.hear("the way ahead is clear");
    assert_eq!(bench.desk.wants.len(), 1, "its own words come back and are no question");
    assert!(!bench.silenced());
    bench.hear("stop");
    assert!(bench.silenced() && bench.gate.halted());
}

#[test]
fn a_question_over_the_robots_voice_is_heard_without_its_words_or_with_a_common_one() {
    for (heard, asked) in
        [("way ahead who are you", "who are you"), ("who do you see on the left", "who do you see on the left")]
    {
        let mut bench = Bench::new();
        bench.hear("is the way clear");
        bench.answer(1, 0, "The way ahead is clear.");
        bench.plays(1, 2, 3);
        bench.pass(20);
        bench.hear(heard);
        let JobInput::Ask { prompt, .. } = bench.desk.wants[1].input else { panic!("a question") };
        assert_eq!(prompt.lines().nth(1), Some(asked));
    }
}

#[test]
fn the_robot_saying_stop_does_not_stop_it() {
    let mut bench = Bench::new();
    bench.hear("help");
    bench.answer(1, 0, "Just say stop to me.");
    bench.plays(1, 2, 3);
    bench.pass(20);
    let stop = bench.heard("stop");
    bench.with(|dialogue, at| dialogue.word(MIC, &stop, at));
    assert!(!bench.gate.halted());
    let own =
        Decision::Shed { capability: Capability::Reason, class: Class::Dialogue, source: MIC, why: Why::OwnVoice };
    assert!(bench.out.decisions.contains(&own));
}

#[test]
fn an_action_goes_through_the_gate_once_and_a_late_one_not_at_all() {
    let mut bench = Bench::new();
    bench.sees_person(0);
    bench.hear("come here");
    bench.piece(1, line("go", "person", "ahead"));
    bench.piece(1, line("go", "person", "ahead"));
    let acts = |out: &Outputs| out.acts.iter().filter(|act| matches!(act, Act::Do { .. })).count();
    assert_eq!(acts(&bench.out), 1);

    bench.pass(100);
    bench.hear("turn left");
    let piece = line("turn", "", "left");
    bench.with(|dialogue, at| dialogue.piece(JobId(2), &piece, Verdict::Late, at));
    bench.piece(2, line("turn", "", "left"));
    assert_eq!(acts(&bench.out), 0, "neither the late one nor what follows it");
}

#[test]
fn an_order_after_stop_moves_again_and_one_from_before_does_not() {
    let mut bench = Bench::new();
    bench.sees_person(0);
    bench.hear("move back");
    bench.hear("stop");
    bench.piece(1, line("move", "", "back"));
    assert!(bench.gate.halted());
    bench.pass(1_000);
    bench.hear("move back");
    bench.piece(2, line("move", "", "back"));
    assert!(!bench.gate.halted());
    assert!(bench.out.acts.iter().any(|act| matches!(act, Act::Do { .. })));
}

#[test]
fn a_mind_or_voice_that_gets_stuck_is_given_up() {
    let mut bench = Bench::new();
    bench.hear("hello");
    (0..900).for_each(|_| bench.pass(10));
    assert!(!bench.dialogue.active(bench.now));
    assert_eq!(bench.desk.cancelled, [JobId(1)]);
}

//! Answers on a row of engines, with the processor's decoder in the place of a device: they are those of the processor, whatever
//! comes between the groups of a pass: waiting, other sessions, cancels, interruptions.

mod dispatch_support;

use dispatch_support::{NoSensors, job};
use sage::block::reason::{About, Reasoner};
use sage::engine::cpu::kernels::Kernels;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions, KvCache};
use sage::engine::tensorrt::run::{Limits, Pass, Row, RowGenerator};
use sage::engine::{CancelToken, Engine, EngineError, Product, Progress, Session, StepSink};
use sage::model::qwen2::Qwen2Weights;
use sage::types::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Looks at a seat before its work is seen as done.
const LOOKS: u32 = 3;

/// A decoder that behaves like a device: groups in order, nothing queued while something runs.
struct SlowRow {
    decoder: Decoder,
    groups: usize,
    read: Arc<AtomicUsize>,
    /// Groups queued before this one fails.
    good: Arc<AtomicUsize>,
}

struct Seat {
    kv: KvCache,
    logits: Vec<f32>,
    next_group: usize,
    looks: AtomicU32,
}

impl Row for SlowRow {
    type Seat = Seat;

    fn limits(&self) -> Limits {
        let config = &self.decoder.weights().config;
        let options = self.decoder.options();
        Limits { context: options.context, chunk: options.chunk, vocabulary: config.vocab_size, groups: self.groups }
    }

    fn seat(&mut self) -> Result<Seat, EngineError> {
        Ok(Seat { kv: self.decoder.new_cache(), logits: Vec::new(), next_group: 0, looks: AtomicU32::new(0) })
    }

    fn queue(&mut self, seat: &mut Seat, pass: &Pass<'_>, group: usize) -> Result<(), EngineError> {
        if self.good.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.good.store(usize::MAX, Ordering::Relaxed);
            return Err(EngineError::Device("the cable is out".to_owned()));
        }
        assert_eq!(seat.looks.load(Ordering::Relaxed), 0, "queued while something runs");
        assert!(group == seat.next_group || group == 0, "group {group} after {}", seat.next_group);
        assert!(pass.position <= seat.kv.len(), "what lies before the pass was read");
        seat.next_group = group + 1;
        seat.looks.store(LOOKS, Ordering::Relaxed);
        if seat.next_group < self.groups {
            return Ok(());
        }
        let go = CancelToken::default();
        seat.kv.truncate(pass.position);
        self.decoder.forward(pass.tokens, &mut seat.kv, &go).unwrap();
        self.read.fetch_add(pass.tokens.len(), Ordering::Relaxed);
        if pass.answers {
            seat.logits = self.decoder.logits(pass.tokens.len() - 1, &go).unwrap().to_vec();
        }
        Ok(())
    }

    fn is_done(&self, seat: &Seat) -> Result<bool, EngineError> {
        let left = seat.looks.load(Ordering::Relaxed);
        seat.looks.store(left.saturating_sub(1), Ordering::Relaxed);
        Ok(left == 0)
    }

    fn wait(&self, seat: &Seat) -> Result<(), EngineError> {
        seat.looks.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn logits(&self, seat: &Seat, into: &mut [f32]) {
        into.copy_from_slice(&seat.logits);
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/mind")
}

struct Slow {
    mind: Reasoner<RowGenerator<SlowRow>>,
    read: Arc<AtomicUsize>,
    good: Arc<AtomicUsize>,
}

fn slow(groups: usize, chunk: usize) -> Slow {
    let weights = Arc::new(Qwen2Weights::open(&folder()).unwrap());
    let options = DecoderOptions { context: 1024, chunk, ..DecoderOptions::default() };
    let decoder = Decoder::new(weights, options).unwrap();
    let (read, good) = (Arc::default(), Arc::new(AtomicUsize::new(usize::MAX)));
    let row = SlowRow { decoder, groups, read: Arc::clone(&read), good: Arc::clone(&good) };
    let about = About { text: "slow".to_owned(), weights_hash: [1; 16], memory_bytes: 0 };
    Slow { mind: Reasoner::on(RowGenerator::new(row), &folder(), about).unwrap(), read, good }
}

fn ask(id: u64, said: &str, credit_words: u16) -> Job {
    let text = format!("scene: person none; obstacle none; charger none; battery unknown\n{said}");
    Job {
        input: JobInput::Ask { prompt: Prompt::from(&text).unwrap(), max_tokens: 260 },
        credit_words,
        ..job(id, Capability::Reason, Class::Dialogue, Nanos::NEVER)
    }
}

/// One step of the lane; the words it gave. Counts how often it was still running.
fn step(session: &mut dyn Session, cancel: &CancelToken, words: &mut Vec<String>, pending: &mut usize) -> Progress {
    let mut sink = StepSink::default();
    session.submit(cancel, &mut sink).unwrap();
    let progress = loop {
        match session.poll(&mut sink).unwrap() {
            Progress::Pending => *pending += 1,
            other => break other,
        }
    };
    for product in sink.products.drain(..) {
        if let Product::Piece(Piece::Word { word, .. }) = product {
            words.push(word.as_str().to_owned());
        }
    }
    progress
}

/// Steps until the session waits or is done; words, steps and looks that found it running.
fn run(session: &mut dyn Session) -> (Vec<String>, usize, usize) {
    let (go, mut words, mut steps, mut pending) = (CancelToken::default(), Vec::new(), 0, 0);
    while step(session, &go, &mut words, &mut pending) == Progress::More {
        steps += 1;
    }
    (words, steps, pending)
}

fn on_the_processor(said: &str) -> (Vec<String>, usize) {
    let mut mind = Reasoner::load(&folder(), Kernels::best(), 1).unwrap();
    let (words, steps, _) = run(&mut *mind.open(&ask(1, said, u16::MAX), &NoSensors).unwrap());
    (words, steps)
}

const STORY: &str = "tell me a story";
const SEE: &str = "what do you see";

#[test]
fn a_row_answers_as_the_processor_does_in_as_many_steps_per_group() {
    let (expected, steps) = on_the_processor(STORY);
    assert!(expected.len() > 80);
    for groups in [1, 3] {
        let mut slow = slow(groups, sage::block::reason::PREFILL_CHUNK);
        let mut session = slow.mind.open(&ask(1, STORY, u16::MAX), &NoSensors).unwrap();
        let (words, took, pending) = run(&mut *session);
        assert_eq!(words, expected);
        // The last pass ends the answer: its last group is the step that is done.
        assert_eq!(took + 1, groups * (steps + 1));
        assert_eq!(pending, (took + 1) * LOOKS as usize);
    }
}

#[test]
fn sessions_step_in_turns_without_touching_each_other() {
    let (story, see) = (on_the_processor(STORY).0, on_the_processor(SEE).0);
    let mut slow = slow(2, 32);
    let go = CancelToken::default();
    let mut first = slow.mind.open(&ask(1, STORY, u16::MAX), &NoSensors).unwrap();
    let mut second = slow.mind.open(&ask(2, SEE, u16::MAX), &NoSensors).unwrap();
    let (mut said, mut seen, mut pending) = (Vec::new(), Vec::new(), 0);
    let (mut one, mut two) = (Progress::More, Progress::More);
    while one == Progress::More || two == Progress::More {
        if one == Progress::More {
            one = step(&mut *first, &go, &mut said, &mut pending);
        }
        if two == Progress::More {
            two = step(&mut *second, &go, &mut seen, &mut pending);
        }
    }
    assert_eq!((said, seen), (story, see));
}

#[test]
fn a_pass_that_was_cancelled_between_groups_is_done_again_from_its_first() {
    let expected = on_the_processor(SEE).0;
    let mut slow = slow(3, 32);
    let mut session = slow.mind.open(&ask(1, SEE, u16::MAX), &NoSensors).unwrap();
    let (cancel, mut words, mut pending) = (CancelToken::default(), Vec::new(), 0);
    let mut steps = 0;
    loop {
        // After one, two, three groups, wherever that is in a pass.
        steps += 1;
        if steps % 7 == 3 {
            cancel.cancel();
            assert_eq!(step(&mut *session, &cancel, &mut words, &mut pending), Progress::Stopped);
            cancel.reset();
        }
        if step(&mut *session, &cancel, &mut words, &mut pending) == Progress::Done {
            break;
        }
    }
    assert_eq!(words, expected);
}

#[test]
fn an_answer_interrupted_inside_a_pass_goes_on_from_the_word_that_was_heard() {
    let expected = on_the_processor(STORY).0;
    let mut slow = slow(2, 32);
    let mut session = slow.mind.open(&ask(1, STORY, u16::MAX), &NoSensors).unwrap();
    let (go, mut words, mut pending) = (CancelToken::default(), Vec::new(), 0);
    while words.len() < 30 {
        assert_eq!(step(&mut *session, &go, &mut words, &mut pending), Progress::More);
    }
    // A group is queued, and nobody waits for it.
    let mut sink = StepSink::default();
    session.submit(&go, &mut sink).unwrap();
    session.suspend();
    drop(session);
    // Another answer in between takes another seat.
    let (seen, ..) = run(&mut *slow.mind.open(&ask(2, SEE, u16::MAX), &NoSensors).unwrap());
    assert_eq!(seen, on_the_processor(SEE).0);
    let resume = Job { input: JobInput::Resume { of: JobId(1), from_word: 12 }, ..ask(3, STORY, u16::MAX) };
    let (rest, ..) = run(&mut *slow.mind.open(&resume, &NoSensors).unwrap());
    assert_eq!([&expected[..12], &rest].concat(), expected);
}

#[test]
fn a_second_question_reads_only_what_is_new_and_a_short_credit_waits() {
    let mut slow = slow(2, 32);
    let mut session = slow.mind.open(&ask(1, SEE, 3), &NoSensors).unwrap();
    let (words, ..) = run(&mut *session);
    assert!((3..6).contains(&words.len()), "{words:?}");
    session.credit(u16::MAX);
    let (rest, ..) = run(&mut *session);
    assert_eq!([words, rest].concat(), on_the_processor(SEE).0);
    drop(session);
    let before = slow.read.load(Ordering::Relaxed);
    let mut session = slow.mind.open(&ask(2, SEE, u16::MAX), &NoSensors).unwrap();
    let (words, ..) = run(&mut *session);
    assert_eq!(words, on_the_processor(SEE).0);
    let first = before;
    let second = slow.read.load(Ordering::Relaxed) - before;
    assert!(second + 30 < first, "{second} tokens read the second time, {first} the first");
}

#[test]
fn a_device_that_fails_ends_the_answer_and_the_next_one_is_whole() {
    let mut slow = slow(2, 32);
    let mut session = slow.mind.open(&ask(1, SEE, u16::MAX), &NoSensors).unwrap();
    slow.good.store(5, Ordering::Relaxed);
    let (go, mut sink) = (CancelToken::default(), StepSink::default());
    let error = loop {
        if let Err(error) = session.submit(&go, &mut sink) {
            break error;
        }
        while session.poll(&mut sink).unwrap() == Progress::Pending {}
    };
    assert!(error.to_string().contains("the cable is out"));
    drop(session);
    let (words, ..) = run(&mut *slow.mind.open(&ask(2, SEE, u16::MAX), &NoSensors).unwrap());
    assert_eq!(words, on_the_processor(SEE).0);
}

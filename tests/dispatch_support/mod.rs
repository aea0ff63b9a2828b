//! Synthetic engines and job makers for the tests of lanes.
#![allow(dead_code)] // each test file uses its part

pub use sage::engine::NoSensors;
use sage::engine::{CancelToken, Engine, EngineError, Product, Progress, SensorReader, Session, StepSink};
use sage::types::*;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What the test tells a step to do.
pub enum Order {
    Go(Progress),
    Word(u16),
    Fail,
    Panic,
    PanicOfAWorker,
}

/// An engine whose steps tell the test that they began and then wait for an order, or for their cancel token.
pub struct Puppet {
    capability: Capability,
    began: Sender<JobId>,
    orders: Arc<std::sync::Mutex<Receiver<Order>>>,
}

/// The test's ends of a puppet.
pub struct Strings {
    pub began: Receiver<JobId>,
    pub orders: Sender<Order>,
}

pub fn puppet(capability: Capability) -> (Box<dyn Engine>, Strings) {
    let (began_in, began) = channel();
    let (orders, orders_out) = channel();
    let orders_out = Arc::new(std::sync::Mutex::new(orders_out));
    (Box::new(Puppet { capability, began: began_in, orders: orders_out }), Strings { began, orders })
}

struct PuppetSession {
    job: JobId,
    began: Sender<JobId>,
    orders: Arc<std::sync::Mutex<Receiver<Order>>>,
    progress: Progress,
}

impl Engine for Puppet {
    fn capability(&self) -> Capability {
        self.capability
    }
    fn describe(&self) -> String {
        "puppet".to_owned()
    }
    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }
    fn memory_bytes(&self) -> u64 {
        0
    }
    fn open(&mut self, job: &Job, _: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let (began, orders) = (self.began.clone(), Arc::clone(&self.orders));
        Ok(Box::new(PuppetSession { job: job.id, began, orders, progress: Progress::More }))
    }
}

impl Session for PuppetSession {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        self.began.send(self.job).expect("the test listens");
        loop {
            if cancel.is_cancelled() {
                self.progress = Progress::Stopped;
                return Ok(());
            }
            let order = self.orders.lock().map(|orders| orders.try_recv());
            match order {
                Ok(Ok(Order::Go(progress))) => {
                    self.progress = progress;
                    sink.output = (progress == Progress::Done).then_some(Output::None);
                    return Ok(());
                }
                Ok(Ok(Order::Word(index))) => {
                    let word = Word::from("word").expect("short");
                    sink.products.push(Product::Piece(Piece::Word { index, word }));
                    self.progress = Progress::More;
                    return Ok(());
                }
                Ok(Ok(Order::Fail)) => return Err(EngineError::Device("unplugged".to_owned())),
                Ok(Ok(Order::Panic)) => panic!("a bug in the engine"),
                Ok(Ok(Order::PanicOfAWorker)) => {
                    let mut pool = sage::engine::cpu::pool::Pool::new(2).expect("a thread");
                    pool.run(&|worker| assert!(worker == 0, "a bug in a worker"));
                }
                Ok(Err(_)) | Err(_) => std::thread::yield_now(),
            }
        }
    }
    fn poll(&mut self, _: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.progress)
    }
}

/// An engine that says word after word, one a step, up to `words`, and keeps interrupted answers.
pub struct Talker {
    pub words: u16,
}

struct Talk {
    next: u16,
    words: u16,
    credit: u16,
    progress: Progress,
}

impl Engine for Talker {
    fn capability(&self) -> Capability {
        Capability::Reason
    }
    fn describe(&self) -> String {
        "talker".to_owned()
    }
    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }
    fn memory_bytes(&self) -> u64 {
        0
    }
    fn open(&mut self, job: &Job, _: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let next = if let JobInput::Resume { from_word, .. } = job.input { from_word } else { 0 };
        Ok(Box::new(Talk { next, words: self.words, credit: job.credit_words, progress: Progress::More }))
    }
}

impl Session for Talk {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        self.progress = if cancel.is_cancelled() {
            Progress::Stopped
        } else if self.next >= self.words {
            sink.output = Some(Output::Answered { words: self.words, tokens: self.words });
            Progress::Done
        } else if self.next >= self.credit {
            Progress::Waiting
        } else {
            let word = Word::from("word").expect("short");
            sink.products.push(Product::Piece(Piece::Word { index: self.next, word }));
            self.next += 1;
            Progress::More
        };
        Ok(())
    }
    fn poll(&mut self, _: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.progress)
    }
    fn credit(&mut self, words: u16) {
        self.credit = words;
    }
}

/// A job with everything at its plainest.
pub fn job(id: u64, capability: Capability, class: Class, deadline: Nanos) -> Job {
    Job {
        id: JobId(id),
        capability,
        source: SourceId(0),
        generation: 0,
        class,
        input: JobInput::None,
        created: Nanos::ZERO,
        deadline,
        fresh_until: Nanos::NEVER,
        credit_words: 0,
        based_on: Default::default(),
    }
}

/// An engine whose jobs are one step and find nothing; as an ear it hears a question every `asks_every` jobs.
pub struct Plain {
    pub capability: Capability,
    pub asks_every: u64,
    pub jobs: u64,
}

struct PlainSession {
    output: Output,
    utterance: Option<Product>,
}

impl Engine for Plain {
    fn capability(&self) -> Capability {
        self.capability
    }
    fn describe(&self) -> String {
        "plain".to_owned()
    }
    fn weights_hash(&self) -> [u8; 16] {
        [0; 16]
    }
    fn memory_bytes(&self) -> u64 {
        0
    }
    fn open(&mut self, job: &Job, _: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        self.jobs += 1;
        let (from, to) = (job.created.since(Nanos::from_ms(600)), job.created.since(Nanos::from_ms(100)));
        let heard = |word: &str| HeardWord { word: Word::from(word).expect("short"), ended: to, score_permille: 990 };
        let output = match job.input {
            JobInput::Sound { .. } => Output::Heard { upto: job.created },
            JobInput::Frame { seq } => Output::Seen { seq, captured: job.created, detections: Default::default() },
            _ => Output::None,
        };
        let asks = self.asks_every > 0 && self.jobs.is_multiple_of(self.asks_every);
        let words = ["what", "do", "you", "see"].map(heard).into_iter().collect();
        Ok(Box::new(PlainSession { output, utterance: asks.then_some(Product::Utterance { words, from, to }) }))
    }
}

impl Session for PlainSession {
    fn submit(&mut self, _: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        sink.products.extend(self.utterance.take());
        sink.output = Some(self.output.clone());
        Ok(())
    }
    fn poll(&mut self, _: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(Progress::Done)
    }
}

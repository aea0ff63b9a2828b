//! The body's thread: takes the tick's acts from a ring and gives them to the voice and to the action socket. Acts flow
//! in through a bounded wait-free ring; words, lines and, through a second ring back to the tick, voice reports flow out.
//! The tick never waits for it.

use super::actions::{ActionLines, ActionSocket};
use super::voice::{QueuedWord, VoiceQueue, speech_ms};
use crate::time::Clock;
use crate::types::{Act, Nanos, UtteranceId, VoiceReport, Word};
use rtrb::{Consumer, Producer, RingBuffer};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Acts that may wait: several ticks' worth. The tick counts what finds no room.
pub const WAITING_ACTS: usize = 256;
/// Reports that may wait for the tick.
const WAITING_REPORTS: usize = 64;
/// Longest sleep without a look at the ring, should a wake-up be lost.
const NAP: Nanos = Nanos::from_ms(5);

/// Something that speaks.
pub trait Voice: Send {
    /// Queues a word.
    fn say(&mut self, now: Nanos, utterance: UtteranceId, index: u16, word: &Word);
    /// The answer has no more words.
    fn end_of_answer(&mut self, now: Nanos, utterance: UtteranceId);
    /// Stops within one audio period.
    fn silence(&mut self, now: Nanos);
    /// What has been played by now.
    fn report(&mut self, now: Nanos) -> VoiceReport;
    /// When the report will change by itself, if known.
    fn next_change(&self) -> Option<Nanos>;
}

/// A voice that makes no sound but takes as long as the words would.
#[derive(Debug, Clone)]
pub struct SilentVoice {
    queue: VoiceQueue,
    words_per_minute: u32,
}

impl SilentVoice {
    /// A silent voice of this rate.
    pub fn new(words_per_minute: u32) -> SilentVoice {
        SilentVoice { queue: VoiceQueue::new(), words_per_minute }
    }
}

impl Voice for SilentVoice {
    fn say(&mut self, now: Nanos, utterance: UtteranceId, index: u16, word: &Word) {
        let lasts = Nanos::from_ms(u64::from(speech_ms(word, self.words_per_minute)));
        self.queue.say(now, QueuedWord { utterance, index, word: *word, lasts });
    }

    fn end_of_answer(&mut self, _: Nanos, _: UtteranceId) {}

    fn silence(&mut self, now: Nanos) {
        self.queue.silence(now);
    }

    fn report(&mut self, now: Nanos) -> VoiceReport {
        self.queue.advance(now);
        self.queue.report(now)
    }

    fn next_change(&self) -> Option<Nanos> {
        self.queue.next_change()
    }
}

/// What the body does with lines besides the socket: the record, the view.
pub type LineListener = Box<dyn FnMut(Nanos, &serde_json::Value) + Send>;

/// What the body needs.
pub struct BodyParts {
    /// Who speaks.
    pub voice: Box<dyn Voice>,
    /// Who turns acts into lines.
    pub lines: ActionLines,
    /// Where lines go; `None`: only to the listener.
    pub socket: Option<PathBuf>,
    /// Sees every line.
    pub listener: LineListener,
    /// The loop's clock.
    pub clock: Arc<dyn Clock>,
}

/// The tick's ends of the body.
pub struct BodyLink {
    /// Acts to the body.
    pub acts: Producer<Act>,
    /// Reports of the voice.
    pub reports: Consumer<VoiceReport>,
    /// The body's thread, to be woken after acts were sent.
    pub thread: std::thread::Thread,
    /// Acts that found no room.
    pub dropped: u64,
}

impl BodyLink {
    /// Sends one act. Never waits; an act without room is counted and lost.
    pub fn send(&mut self, act: Act) {
        if self.acts.push(act).is_err() {
            self.dropped += 1;
        }
    }

    /// Wakes the body after a tick that sent something: one futex wake at most.
    pub fn wake(&self) {
        self.thread.unpark();
    }

    /// The newest report since the last call.
    pub fn newest_report(&mut self) -> Option<VoiceReport> {
        let mut newest = None;
        for _ in 0..self.reports.slots() {
            newest = self.reports.pop().ok().or(newest);
        }
        newest
    }
}

/// The running body.
pub struct Body {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Body {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(parts: BodyParts) -> std::io::Result<(Body, BodyLink)> {
        let (acts, from_tick) = RingBuffer::new(WAITING_ACTS);
        let (to_tick, reports) = RingBuffer::new(WAITING_REPORTS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let handle = std::thread::Builder::new()
            .name("body".to_owned())
            .spawn(move || Worker::new(parts, from_tick, to_tick).run(&stopped))?;
        let thread = handle.thread().clone();
        Ok((Body { stop, thread: Some(handle) }, BodyLink { acts, reports, thread, dropped: 0 }))
    }
}

impl Drop for Body {
    /// Does what is still in the ring, then ends.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(handle) = self.thread.take() {
            handle.thread().unpark();
            let _ = handle.join();
        }
    }
}

struct Worker {
    parts: BodyParts,
    socket: Option<ActionSocket>,
    acts: Consumer<Act>,
    reports: Producer<VoiceReport>,
    reported: VoiceReport,
}

impl Worker {
    fn new(parts: BodyParts, acts: Consumer<Act>, reports: Producer<VoiceReport>) -> Worker {
        let socket = parts.socket.as_deref().map(ActionSocket::new);
        Worker { parts, socket, acts, reports, reported: VoiceReport::default() }
    }

    fn run(mut self, stop: &AtomicBool) {
        loop {
            let stopping = stop.load(Ordering::Acquire);
            let now = self.parts.clock.now();
            while let Ok(act) = self.acts.pop() {
                self.act(now, &act);
            }
            if let Some(line) = self.parts.lines.repeat(now) {
                self.send(now, &line);
            }
            self.report(now);
            if stopping {
                return;
            }
            let until = [self.parts.voice.next_change(), self.parts.lines.next_repeat(), Some(now.after(NAP))];
            let until = until.into_iter().flatten().min().unwrap_or(now);
            std::thread::park_timeout(Duration::from_nanos(until.since(now).0.max(100_000)));
        }
    }

    fn act(&mut self, now: Nanos, act: &Act) {
        match act {
            Act::Say { utterance, index, word } => self.parts.voice.say(now, *utterance, *index, word),
            Act::EndOfAnswer { utterance } => self.parts.voice.end_of_answer(now, *utterance),
            Act::Silence => self.parts.voice.silence(now),
            other => {
                if let Some(line) = self.parts.lines.accept(now, other) {
                    self.send(now, &line);
                }
            }
        }
    }

    fn send(&mut self, now: Nanos, line: &serde_json::Value) {
        if let Some(socket) = &mut self.socket {
            socket.send(now, line);
        }
        (self.parts.listener)(now, line);
    }

    fn report(&mut self, now: Nanos) {
        let report = self.parts.voice.report(now);
        // The time that queued words take falls by itself; only a change of anything else is news.
        let news = VoiceReport { queued: self.reported.queued, ..report } != self.reported;
        if news && self.reports.push(report).is_ok() {
            self.reported = report;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Virtual;
    use crate::types::ActionId;
    use std::sync::mpsc::{Receiver, channel};

    fn start(clock: &Virtual) -> (Body, BodyLink, Receiver<String>) {
        let (to_test, lines) = channel();
        let parts = BodyParts {
            voice: Box::new(SilentVoice::new(170)),
            lines: ActionLines::new(vec!["front".to_owned()], Nanos::from_ms(100)),
            socket: None,
            listener: Box::new(move |_, line| {
                let _ = to_test.send(line["name"].as_str().unwrap_or_default().to_owned());
            }),
            clock: Arc::new(clock.clone()),
        };
        let (body, link) = Body::start(parts).unwrap();
        (body, link, lines)
    }

    /// Waits for a report that satisfies `wanted`; the body sends one for every change.
    fn wait(link: &mut BodyLink, wanted: impl Fn(&VoiceReport) -> bool) -> VoiceReport {
        loop {
            link.wake();
            if let Some(report) = link.newest_report().filter(&wanted) {
                return report;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn words_are_spoken_in_time_and_silenced_at_once() {
        let clock = Virtual::default();
        clock.set(Nanos::from_ms(100));
        let (_body, mut link, _lines) = start(&clock);
        for index in 0..3 {
            let word = Word::from("corridor").unwrap();
            link.send(Act::Say { utterance: UtteranceId(1), index, word });
        }
        let report = wait(&mut link, |r| r.queued_words == 3);
        assert_eq!((report.played_words, report.playing), (0, true));
        clock.set(Nanos::from_ms(100 + 20 + u64::from(speech_ms("corridor", 170)) + 50));
        assert_eq!(wait(&mut link, |r| r.played_words == 1).queued_words, 2);
        link.send(Act::Silence);
        let report = wait(&mut link, |r| !r.playing);
        assert_eq!((report.played_words, report.queued_words), (1, 0));
        assert!(report.silent_since <= clock.now().after(super::super::voice::AUDIO_PERIOD));
    }

    #[test]
    fn halt_goes_out_and_again_even_while_the_tick_is_silent() {
        let clock = Virtual::default();
        let (body, mut link, lines) = start(&clock);
        link.send(Act::Halt { id: ActionId(1), on: true, issued: Nanos::ZERO, cause: Nanos::ZERO });
        link.wake();
        assert_eq!(lines.recv().unwrap(), "halt");
        clock.set(Nanos::from_ms(150));
        assert_eq!(lines.recv().unwrap(), "halt");
        link.send(Act::Halt { id: ActionId(1), on: false, issued: Nanos::ZERO, cause: Nanos::ZERO });
        drop(body);
        assert_eq!(lines.iter().last().as_deref(), Some("release"), "what is in the ring is done before the end");
    }
}

//! The recorder on its own thread. The tick writes its records into a byte ring (no allocation, no lock, no system
//! call), sources and other threads into bounded queues; whatever does not fit is dropped and counted, and the log says
//! so. The thread drains them into a `Recorder`.

use super::writer::{Level, Recorder, Summary};
use crate::types::{AudioBlock, Frame, Inputs, Nanos, Outputs, SourceId};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Room for ticks that wait for the disk, bytes: about half a minute of ordinary ticks.
const RING_BYTES: usize = 8 << 20;
/// Largest record of one tick, bytes.
const RECORD_BYTES: usize = 256 << 10;
/// Frames that may wait.
const FRAMES: usize = 64;
/// Blocks of sound that may wait: 10 s.
const BLOCKS: usize = 512;
/// Log lines that may wait.
const LINES: usize = 256;
/// The thread looks this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

const KIND_TICK: u8 = 1;
const KIND_KEYFRAME: u8 = 2;

/// The tick's end of the recorder.
pub struct TickTap {
    ring: rtrb::Producer<u8>,
    scratch: Box<[u8]>,
    /// Records lost since the last that found room; also told to the thread, for those at the very end.
    lost: u32,
    lost_ticks: Arc<AtomicU64>,
    lost_keyframes: Arc<AtomicU64>,
}

impl TickTap {
    /// Hands over one tick; false if there was no room, which is counted and written into the log.
    pub fn tick(&mut self, inputs: &Inputs, outputs: &Outputs, woke: Nanos, work: Nanos) -> bool {
        let record = (self.lost, woke, work, inputs, outputs);
        let done = match postcard::to_slice(&record, &mut self.scratch) {
            Ok(bytes) => push(&mut self.ring, KIND_TICK, &[bytes]),
            Err(_) => false,
        };
        self.lost = if done { 0 } else { self.lost.saturating_add(1) };
        self.lost_ticks.store(u64::from(self.lost), Ordering::Release);
        done
    }

    /// Hands over the core's state before tick `next_tick`.
    pub fn keyframe(&mut self, next_tick: u64, state: &[u8]) -> bool {
        let done = push(&mut self.ring, KIND_KEYFRAME, &[&next_tick.to_le_bytes(), state]);
        if !done {
            self.lost_keyframes.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

/// One record into the ring: length, kind, bytes; all or nothing.
fn push(ring: &mut rtrb::Producer<u8>, kind: u8, parts: &[&[u8]]) -> bool {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let Ok(mut chunk) = ring.write_chunk(5 + len) else { return false };
    let (first, second) = chunk.as_mut_slices();
    let head = (len as u32).to_le_bytes();
    let mut at = 0;
    for part in [&head[..], &[kind]].into_iter().chain(parts.iter().copied()) {
        let in_first = part.len().min(first.len().saturating_sub(at));
        first[at..at + in_first].copy_from_slice(&part[..in_first]);
        if in_first < part.len() {
            let from = (at + in_first) - first.len();
            second[from..from + part.len() - in_first].copy_from_slice(&part[in_first..]);
        }
        at += part.len();
    }
    chunk.commit_all();
    true
}

/// Takes one record out of the ring; `None` if there is none. The kind is returned, the bytes replace `into`.
fn pull(ring: &mut rtrb::Consumer<u8>, into: &mut Vec<u8>) -> Option<u8> {
    if ring.slots() < 5 {
        return None;
    }
    // Records are committed whole, so the head is never there without the rest.
    let head = ring.read_chunk(5).ok()?;
    let (first, second) = head.as_slices();
    let mut bytes = [0u8; 5];
    bytes[..first.len()].copy_from_slice(first);
    bytes[first.len()..].copy_from_slice(second);
    head.commit_all();
    let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let chunk = ring.read_chunk(len).ok()?;
    into.clear();
    let (first, second) = chunk.as_slices();
    into.extend_from_slice(first);
    into.extend_from_slice(second);
    chunk.commit_all();
    Some(bytes[4])
}

enum Sensed {
    Frame(SourceId, Arc<Frame>),
    Line(Level, String),
}

/// A source's end of the recorder; may be cloned for each source.
#[derive(Clone)]
pub struct SensorTap {
    frames: Sender<Sensed>,
    blocks: Sender<(SourceId, AudioBlock)>,
    lines: Sender<Sensed>,
    lost_frames: Arc<AtomicU64>,
    lost_blocks: Arc<AtomicU64>,
    lost_lines: Arc<AtomicU64>,
}

impl SensorTap {
    /// Hands over a frame; dropped and counted if too many wait.
    pub fn frame(&self, source: SourceId, frame: &Arc<Frame>) {
        count(self.frames.try_send(Sensed::Frame(source, frame.clone())), &self.lost_frames);
    }

    /// Hands over a block of sound; dropped and counted if too many wait.
    pub fn audio(&self, source: SourceId, block: &AudioBlock) {
        count(self.blocks.try_send((source, *block)), &self.lost_blocks);
    }

    /// Hands over a line of text; dropped and counted if too many wait.
    pub fn log(&self, level: Level, text: &str) {
        count(self.lines.try_send(Sensed::Line(level, text.to_owned())), &self.lost_lines);
    }
}

fn count<T>(sent: Result<(), TrySendError<T>>, lost: &AtomicU64) {
    if sent.is_err() {
        lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// The running thread.
pub struct RecordThread {
    thread: JoinHandle<Summary>,
    stop: Arc<AtomicBool>,
}

/// The ends of a recorder that was just started.
pub struct RecordHandle {
    /// For the tick.
    pub tick: TickTap,
    /// For sources and everybody else.
    pub sensors: SensorTap,
    /// To end it.
    pub thread: RecordThread,
}

impl RecordThread {
    /// Puts the recorder on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(recorder: Recorder) -> std::io::Result<RecordHandle> {
        let (ring, ticks) = rtrb::RingBuffer::new(RING_BYTES);
        let (frames, frame_queue) = crossbeam_channel::bounded(FRAMES);
        let (blocks, block_queue) = crossbeam_channel::bounded(BLOCKS);
        let (lines, line_queue) = crossbeam_channel::bounded(LINES);
        let counter = || Arc::new(AtomicU64::new(0));
        let tick = TickTap {
            ring,
            scratch: vec![0; RECORD_BYTES].into_boxed_slice(),
            lost: 0,
            lost_ticks: counter(),
            lost_keyframes: counter(),
        };
        let sensors =
            SensorTap { frames, blocks, lines, lost_frames: counter(), lost_blocks: counter(), lost_lines: counter() };
        let lost = [
            ("/keyframe", tick.lost_keyframes.clone()),
            ("/camera", sensors.lost_frames.clone()),
            ("/mic", sensors.lost_blocks.clone()),
            ("/log", sensors.lost_lines.clone()),
        ];
        let stop = Arc::new(AtomicBool::new(false));
        let queues = Queues {
            ticks,
            frames: frame_queue,
            blocks: block_queue,
            lines: line_queue,
            lost_ticks: tick.lost_ticks.clone(),
            lost,
        };
        let stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name("record".to_owned()).spawn(move || run(recorder, queues, &stopped))?;
        Ok(RecordHandle { tick, sensors, thread: RecordThread { thread, stop } })
    }

    /// Writes what waits, ends the file and tells what was recorded.
    pub fn close(self) -> Summary {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

struct Queues {
    ticks: rtrb::Consumer<u8>,
    frames: Receiver<Sensed>,
    blocks: Receiver<(SourceId, AudioBlock)>,
    lines: Receiver<Sensed>,
    lost_ticks: Arc<AtomicU64>,
    lost: [(&'static str, Arc<AtomicU64>); 4],
}

fn run(mut recorder: Recorder, mut queues: Queues, stop: &AtomicBool) -> Summary {
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    loop {
        // Read the flag first: what was handed over before it was set is still drained below.
        let last = stop.load(Ordering::Acquire);
        let busy = drain(&mut recorder, &mut queues, &mut bytes);
        recorder.poll();
        if last && !busy {
            // Lost after the last record that found room.
            recorder.lost("/tick", queues.lost_ticks.load(Ordering::Acquire));
            return recorder.close();
        }
        if !busy {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Moves what waits into the recorder, at most a queue's length of each; true if there was anything.
fn drain(recorder: &mut Recorder, queues: &mut Queues, bytes: &mut Vec<u8>) -> bool {
    let mut busy = false;
    for (what, count) in &queues.lost {
        recorder.lost(what, count.swap(0, Ordering::Relaxed));
    }
    for sensed in queues.frames.try_iter().take(FRAMES).chain(queues.lines.try_iter().take(LINES)) {
        busy = true;
        match sensed {
            Sensed::Frame(source, frame) => recorder.frame(source, &frame),
            Sensed::Line(level, text) => recorder.log(level, &text),
        }
    }
    for (source, block) in queues.blocks.try_iter().take(BLOCKS) {
        busy = true;
        recorder.audio(source, &block);
    }
    for _ in 0..BLOCKS {
        let Some(kind) = pull(&mut queues.ticks, bytes) else { break };
        busy = true;
        match kind {
            KIND_KEYFRAME => {
                if let Some((next, state)) = bytes.split_first_chunk::<8>() {
                    recorder.keyframe(u64::from_le_bytes(*next), state);
                }
            }
            _ => match postcard::from_bytes::<(u32, Nanos, Nanos, Inputs, Outputs)>(bytes) {
                Ok((lost, woke, work, inputs, outputs)) => {
                    recorder.lost("/tick", u64::from(lost));
                    recorder.tick(&inputs, &outputs, woke, work);
                }
                Err(_) => recorder.lost("/tick", 1),
            },
        }
    }
    busy
}

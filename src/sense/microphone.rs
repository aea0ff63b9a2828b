//! Microphones through cpal (ALSA). A device of any rate and format flows in; 16 kHz mono blocks with the instant of their
//! first sample, and with what the loudspeaker played then, flow to the feed. The audio callback only copies into a
//! ring; the microphone's own thread does the rest, notices when nothing comes any more, and opens the device anew.
//!
//! An overrun ends a stream of cpal 0.17 for good: the kernel then answers every poll with POLLERR, as for a device that
//! is gone. So a stream that failed is first opened anew without a word; only a device that does not open is reported.

use super::assemble::BlockAssembler;
use super::feed::SourceFeed;
use super::played::PlayedSound;
use super::reference::EchoReference;
use super::resample::Resampler;
use super::sound_device::{self, Way};
use crate::config::MicrophoneConfig;
use crate::time::Clock;
use crate::types::{Nanos, Stamp};
use cpal::traits::{DeviceTrait, StreamTrait};
use cpal::{BufferSize, StreamConfig, StreamError};
use rtrb::{Consumer, Producer, RingBuffer};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// A missing device is looked for again this often.
const RETRY: Duration = Duration::from_millis(500);
/// No sound for this long: the device is opened anew. Many periods even of a slow device.
const STALLED: Nanos = Nanos::from_ms(800);
/// Until the first sound of a device: some take their time.
const STARTING: Nanos = Nanos::from_s(3);
/// The thread looks at the ring at least this often.
const NAP: Duration = Duration::from_millis(4);
/// A stream that fails sooner than this was given too short periods for this machine: they are doubled.
const SETTLED: Nanos = Nanos::from_s(10);
/// Longest periods, in multiples of the shortest.
const LONGEST: u32 = 4;
/// Chunks that may wait between callback and thread.
const CHUNKS: usize = 64;

/// What the microphone counted.
#[derive(Debug, Default)]
pub struct MicrophoneCounters {
    /// Blocks handed on.
    pub blocks: AtomicU64,
    /// Overruns: streams that failed and could be opened anew at once, and what the device itself reported.
    pub overruns: AtomicU64,
    /// Chunks that found no room in the ring.
    pub dropped: AtomicU64,
    /// Times the device was opened.
    pub opened: AtomicU64,
}

/// A microphone's thread.
pub struct Microphone {
    stop: Arc<AtomicBool>,
    counters: Arc<MicrophoneCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Microphone {
    /// Starts listening; the device need not be there yet. `played` is what the loudspeaker plays, if there is one.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(
        config: MicrophoneConfig,
        feed: SourceFeed,
        played: Option<Arc<PlayedSound>>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Microphone> {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(MicrophoneCounters::default());
        let worker = Worker {
            config,
            feed,
            played,
            clock,
            counters: Arc::clone(&counters),
            stop: Arc::clone(&stop),
            assembler: BlockAssembler::new(),
            reference: EchoReference::new(),
            found: None,
            periods: 1,
        };
        let thread = std::thread::Builder::new().name("microphone".to_owned()).spawn(move || worker.run())?;
        Ok(Microphone { stop, counters, thread: Some(thread) })
    }

    /// What it counted so far.
    pub fn counters(&self) -> &MicrophoneCounters {
        &self.counters
    }
}

impl Drop for Microphone {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A piece of sound on its way from the callback: its samples are in the ring of samples.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    captured: Nanos,
    stamp: Stamp,
    samples: usize,
}

struct Opened {
    stream: Option<cpal::Stream>,
    chunks: Consumer<Chunk>,
    samples: Consumer<f32>,
    /// What the device said when it failed.
    failed: Arc<OnceLock<String>>,
    resampler: Resampler,
    /// Time by which the resampler's output lags behind its input.
    delay: Nanos,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            sound_device::close(stream);
        }
    }
}

/// Why there is no sound any more.
enum Fault {
    /// The stream ended by itself: an overrun, or the device is gone.
    Failed(String),
    /// The device cannot be opened, or is silent.
    Absent(String),
}

struct Worker {
    config: MicrophoneConfig,
    feed: SourceFeed,
    played: Option<Arc<PlayedSound>>,
    clock: Arc<dyn Clock>,
    counters: Arc<MicrophoneCounters>,
    stop: Arc<AtomicBool>,
    assembler: BlockAssembler,
    /// Finds what was played while the next block was captured.
    reference: EchoReference,
    /// The device, while it is known to be there.
    found: Option<cpal::Device>,
    /// Length of the periods asked for, in multiples of the shortest.
    periods: u32,
}

impl Worker {
    fn run(mut self) {
        // Said once per absence, however often it is tried again.
        let mut told = false;
        while !self.stop.load(Ordering::Relaxed) {
            let (heard, begun) = (self.counters.blocks.load(Ordering::Relaxed), self.clock.now());
            let outcome = self.open().map_err(Fault::Absent).and_then(|mut opened| {
                self.counters.opened.fetch_add(1, Ordering::Relaxed);
                self.listen(&mut opened, &mut told)
            });
            let Err(fault) = outcome else { continue };
            self.assembler.interrupted();
            self.reference.interrupted();
            let delivered = self.counters.blocks.load(Ordering::Relaxed) > heard;
            match fault {
                // A stream that fails before it delivers is given longer periods first, too.
                Fault::Failed(why) if delivered || self.periods < LONGEST => {
                    self.overrun(self.clock.now().since(begun), &why)
                }
                Fault::Failed(why) | Fault::Absent(why) => {
                    (self.found, self.periods) = (None, 1);
                    self.feed.present(false);
                    if !std::mem::replace(&mut told, true) || delivered {
                        tracing::warn!(microphone = %self.config.name, device = %self.config.device,
                            "the microphone does not deliver ({why}); it is taken up when it returns");
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Counts an overrun after a stream of this length, and asks for longer periods if it came soon.
    fn overrun(&mut self, lasted: Nanos, why: &str) {
        let overruns = self.counters.overruns.fetch_add(1, Ordering::Relaxed) + 1;
        if lasted < SETTLED && self.periods < LONGEST {
            self.periods *= 2;
            tracing::info!(microphone = %self.config.name, device = %self.config.device, overruns,
                "sound was lost ({why}); from now on {} times the shortest period", self.periods);
        }
    }

    fn open(&mut self) -> Result<Opened, String> {
        let device = match self.found.take() {
            Some(device) => device,
            None => sound_device::find(&self.config.device, Way::In)?,
        };
        let offered = device.default_input_config().map_err(|why| format!("it offers no sound: {why}"))?;
        let format = offered.sample_format();
        if !sound_device::is_known(format) {
            return Err(format!("its samples ({format}) are not supported"));
        }
        let (rate_hz, channels) = (offered.sample_rate(), offered.channels());
        let resampler = Resampler::new(rate_hz, 1)?;
        let delay = Nanos(resampler.delay_samples() as u64 * 1_000_000_000 / u64::from(rate_hz));
        let build = |buffer_size| {
            let (to_thread, chunks) = RingBuffer::new(CHUNKS);
            // A second of sound.
            let (samples_to_thread, samples) = RingBuffer::new(rate_hz as usize);
            let failed = Arc::new(OnceLock::new());
            let mut callback = Callback {
                channels: usize::from(channels),
                chunks: to_thread,
                samples: samples_to_thread,
                counters: Arc::clone(&self.counters),
                clock: Arc::clone(&self.clock),
            };
            let (failing, counters) = (Arc::clone(&failed), Arc::clone(&self.counters));
            let stream = device.build_input_stream_raw(
                &StreamConfig { channels, sample_rate: rate_hz, buffer_size },
                format,
                move |data, info| callback.take(data, info),
                move |error| match error {
                    StreamError::BufferUnderrun => {
                        counters.overruns.fetch_add(1, Ordering::Relaxed);
                    }
                    // It is said again and again until the stream is closed.
                    error => {
                        let _ = failing.get_or_init(|| error.to_string());
                    }
                },
                Some(Duration::from_millis(200)),
            );
            stream.map(|stream| (stream, chunks, samples, failed))
        };
        let built = build(BufferSize::Fixed(self.periods * sound_device::period_frames(rate_hz)));
        let built = built.or_else(|_| build(BufferSize::Default)).map_err(|why| format!("it cannot be opened: {why}"));
        let (stream, chunks, samples, failed) = built?;
        stream.play().map_err(|why| format!("it cannot be started: {why}"))?;
        tracing::info!(microphone = %self.config.name, device = %self.config.device,
            "microphone opened: {rate_hz} Hz, {channels} channels, {format}");
        self.found = Some(device);
        Ok(Opened { stream: Some(stream), chunks, samples, failed, resampler, delay })
    }

    fn listen(&mut self, opened: &mut Opened, told: &mut bool) -> Result<(), Fault> {
        let mut last = self.clock.now();
        let mut patience = STARTING;
        let mut mono = Vec::with_capacity(8_192);
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(why) = opened.failed.get() {
                return Err(Fault::Failed(why.clone()));
            }
            let Ok(chunk) = opened.chunks.pop() else {
                if self.clock.now().since(last) > patience {
                    return Err(Fault::Absent(format!("no sound for {} ms", patience.as_ms())));
                }
                std::thread::sleep(NAP);
                continue;
            };
            if std::mem::take(told) {
                tracing::info!(microphone = %self.config.name, device = %self.config.device, "the microphone is back");
            }
            (last, patience) = (self.clock.now(), STALLED);
            mono.clear();
            if let Ok(read) = opened.samples.read_chunk(chunk.samples) {
                opened.resampler.push(read, |sample| mono.push(sample));
            }
            let captured = chunk.captured.since(opened.delay);
            let (feed, played, counters) = (&mut self.feed, &self.played, &self.counters);
            let (reference, name) = (&mut self.reference, &self.config.name);
            self.assembler.push(captured, chunk.stamp, &mono, |mut block| {
                if let Some(played) = played {
                    let (sound, corrected) = reference.of(block.captured, &block.samples, played);
                    block.played = sound;
                    if let Some(lag_ms) = corrected {
                        tracing::info!(microphone = %name, "its echo was {lag_ms} ms after the reference: corrected");
                    }
                }
                counters.blocks.fetch_add(1, Ordering::Relaxed);
                feed.sound(&block);
            });
        }
        Ok(())
    }
}

/// The audio callback's side: no allocation, no lock.
struct Callback {
    channels: usize,
    chunks: Producer<Chunk>,
    samples: Producer<f32>,
    counters: Arc<MicrophoneCounters>,
    clock: Arc<dyn Clock>,
}

impl Callback {
    fn take(&mut self, data: &cpal::Data, info: &cpal::InputCallbackInfo) {
        let now = self.clock.now();
        let frames = data.len() / self.channels;
        if self.chunks.is_full() || self.samples.slots() < frames {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let stamps = info.timestamp();
        // The device says how long ago the first sample was captured; cpal's own clock may be another one.
        let (captured, stamp) = match stamps.callback.duration_since(&stamps.capture) {
            Some(age) if age < Duration::from_secs(2) => (now.since(Nanos(age.as_nanos() as u64)), Stamp::Device),
            _ => (now, Stamp::Arrival),
        };
        let (mut sum, mut channel) = (0.0, 0);
        let (samples, channels) = (&mut self.samples, self.channels);
        sound_device::read(data, |sample| {
            sum += sample;
            channel += 1;
            if channel == channels {
                // There is room: checked above.
                let _ = samples.push(sum / channels as f32);
                (sum, channel) = (0.0, 0);
            }
        });
        let _ = self.chunks.push(Chunk { captured, stamp, samples: frames });
    }
}

//! V4L2 cameras. A device file flows in; decoded frames with the instant of their exposure flow to the feed, on the
//! camera's own thread. A device that is missing, goes away or stands still is reported once, shows as absent, and is
//! taken up again when it returns.

use super::capture_ring::{CaptureRing, Filled};
use super::feed::SourceFeed;
use super::mjpeg;
use crate::config::CameraConfig;
use crate::record::pixels;
use crate::time::Clock;
use crate::types::{Frame, Nanos, PixelFormat, Stamp};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use v4l::FourCC;
use v4l::buffer::Flags;
use v4l::device::Device;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::video::Capture;
use v4l::video::capture::Parameters;

/// A missing device is looked for again this often.
const RETRY: Duration = Duration::from_millis(500);
/// A device that delivers nothing for this long is opened anew.
const STALLED: Nanos = Nanos::from_s(2);
/// Longest wait without a look at the stop flag.
const NAP: Duration = Duration::from_millis(200);
/// A time stamp older than this is not believed.
const OLDEST: Nanos = Nanos::from_s(2);

/// How a camera's bytes become a picture; most wanted first where size and rate are equal (no decoding, no loss).
const FORMATS: [([u8; 4], Coding); 7] = [
    (*b"YUYV", Coding::Raw("yuyv")),
    (*b"UYVY", Coding::Raw("uyvy")),
    (*b"RGB3", Coding::Raw("rgb8")),
    (*b"BGR3", Coding::Raw("bgr8")),
    (*b"MJPG", Coding::Jpeg),
    (*b"JPEG", Coding::Jpeg),
    (*b"GREY", Coding::Raw("mono8")),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Jpeg,
    /// Encoding as `record::pixels` names it.
    Raw(&'static str),
}

/// Whether pictures of this format can be decoded.
pub fn is_known(format: FourCC) -> bool {
    FORMATS.iter().any(|(code, _)| format.repr == *code)
}

/// What the camera counted.
#[derive(Debug, Default)]
pub struct CameraCounters {
    /// Frames handed on.
    pub frames: AtomicU64,
    /// Frames that the device lost (gaps in its sequence).
    pub lost: AtomicU64,
    /// Frames that the device marked as broken.
    pub broken: AtomicU64,
    /// Pictures that could not be decoded.
    pub undecoded: AtomicU64,
    /// Times the device was opened.
    pub opened: AtomicU64,
}

/// A camera's thread.
pub struct Camera {
    stop: Arc<AtomicBool>,
    counters: Arc<CameraCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Camera {
    /// Starts capturing; the device need not be there yet.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(config: CameraConfig, feed: SourceFeed, clock: Arc<dyn Clock>) -> io::Result<Camera> {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(CameraCounters::default());
        let worker = Worker {
            config,
            feed,
            clock,
            counters: Arc::clone(&counters),
            stop: Arc::clone(&stop),
            next_seq: 0,
            completed: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("camera".to_owned()).spawn(move || worker.run())?;
        Ok(Camera { stop, counters, thread: Some(thread) })
    }

    /// What it counted so far.
    pub fn counters(&self) -> &CameraCounters {
        &self.counters
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    config: CameraConfig,
    feed: SourceFeed,
    clock: Arc<dyn Clock>,
    counters: Arc<CameraCounters>,
    stop: Arc<AtomicBool>,
    next_seq: u64,
    /// A JPEG made complete.
    completed: Vec<u8>,
}

/// An open camera.
struct Opened {
    ring: CaptureRing,
    coding: Coding,
    width: u32,
    height: u32,
    stride: u32,
    last_sequence: Option<u32>,
}

impl Worker {
    fn run(mut self) {
        // Said once per absence, however often it is tried again.
        let mut told = false;
        while !self.stop.load(Ordering::Relaxed) {
            let outcome = open(&self.config).and_then(|mut opened| {
                if std::mem::take(&mut told) {
                    tracing::info!(camera = %self.config.name, device = %self.config.device, "the camera is back");
                }
                self.counters.opened.fetch_add(1, Ordering::Relaxed);
                self.capture(&mut opened)
            });
            if let Err(why) = outcome {
                self.feed.present(false);
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(camera = %self.config.name, device = %self.config.device,
                        "the camera does not deliver ({why}); it is taken up when it returns");
                }
                self.pause();
            }
        }
    }

    fn pause(&self) {
        let mut left = RETRY;
        while left > Duration::ZERO && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(left.min(NAP));
            left = left.saturating_sub(NAP);
        }
    }

    fn capture(&mut self, opened: &mut Opened) -> io::Result<()> {
        let mut last = self.clock.now();
        while !self.stop.load(Ordering::Relaxed) {
            let filled = opened.ring.next(NAP)?;
            let now = self.clock.now();
            let Some(filled) = filled else {
                if now.since(last) > STALLED {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no frame for two seconds"));
                }
                continue;
            };
            last = now;
            let frame = self.take(opened, &filled, now);
            opened.ring.give_back(filled.index)?;
            if let Some(frame) = frame {
                self.counters.frames.fetch_add(1, Ordering::Relaxed);
                self.feed.frame(frame);
            }
        }
        Ok(())
    }

    /// The frame in a filled buffer, if it is whole.
    fn take(&mut self, opened: &mut Opened, filled: &Filled, now: Nanos) -> Option<Frame> {
        let gap = opened.last_sequence.map_or(0, |last| filled.sequence.wrapping_sub(last).saturating_sub(1));
        opened.last_sequence = Some(filled.sequence);
        // A counter that jumps by thousands was reset, not a thousand frames lost.
        let gap = if gap < 10_000 { u64::from(gap) } else { 0 };
        self.counters.lost.fetch_add(gap, Ordering::Relaxed);
        self.next_seq += gap + 1;
        if filled.flags.contains(Flags::ERROR) || filled.used == 0 {
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let bytes = opened.ring.bytes(filled);
        let mut frame = self.feed.frame_buffer();
        let decoded = match opened.coding {
            Coding::Jpeg => {
                mjpeg::complete(bytes, &mut self.completed);
                pixels::jpeg(&self.completed)
            }
            Coding::Raw(encoding) => pixels::raw(encoding, opened.width, opened.height, opened.stride, bytes),
        };
        let picture = match decoded {
            Ok(picture) => picture,
            Err(why) => {
                if self.counters.undecoded.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(camera = %self.config.name, "a picture is dropped: {why}");
                }
                return None;
            }
        };
        let (captured, stamp) = capture_instant(filled, now, Nanos::from_ms(u64::from(self.config.readout_ms)));
        frame.seq = self.next_seq - 1;
        frame.captured = captured;
        frame.stamp = stamp;
        frame.width = picture.width;
        frame.height = picture.height;
        frame.format = PixelFormat::Rgb8;
        frame.bytes = picture.rgb;
        frame.jpeg = match opened.coding {
            Coding::Jpeg => {
                let mut jpeg = frame.jpeg.take().unwrap_or_default();
                jpeg.clear();
                jpeg.extend_from_slice(&self.completed);
                Some(jpeg)
            }
            Coding::Raw(_) => None,
        };
        Some(frame)
    }
}

/// Start of exposure, from the driver's stamp if it is on CLOCK_MONOTONIC and plausible, else the arrival.
fn capture_instant(filled: &Filled, now: Nanos, readout: Nanos) -> (Nanos, Stamp) {
    let monotonic = filled.flags & Flags::TIMESTAMP_MASK == Flags::TIMESTAMP_MONOTONIC;
    let at = Nanos((filled.stamp.0.max(0) as u64) * 1_000_000_000 + (filled.stamp.1.max(0) as u64) * 1_000);
    if !monotonic || at > now || now.since(at) > OLDEST {
        return (now, Stamp::Arrival);
    }
    let at_start = filled.flags & Flags::TSTAMP_SRC_MASK == Flags::TSTAMP_SRC_SOE;
    (if at_start { at } else { at.since(readout) }, Stamp::Device)
}

fn open(config: &CameraConfig) -> io::Result<Opened> {
    let device = Device::with_path(&config.device)?;
    let (format, coding) = negotiate(&device, config)?;
    // A driver without a frame rate to set delivers what it likes.
    let _ = device.set_params(&Parameters::with_fps(config.rate_hz));
    let ring = CaptureRing::start(&device)?;
    tracing::info!(camera = %config.name, device = %config.device,
        "camera delivers {}x{} {}", format.width, format.height, format.fourcc);
    let (width, height, stride) = (format.width, format.height, format.stride);
    Ok(Opened { ring, coding, width, height, stride, last_sequence: None })
}

/// Sets the format that comes nearest to what is wanted.
fn negotiate(device: &Device, config: &CameraConfig) -> io::Result<(v4l::Format, Coding)> {
    let offered: Vec<FourCC> = device.enum_formats()?.into_iter().map(|f| f.fourcc).collect();
    let mut best: Option<(u64, v4l::Format, Coding)> = None;
    for (code, coding) in FORMATS.iter().filter(|(code, _)| offered.iter().any(|o| o.repr == *code)) {
        let wanted = v4l::Format::new(config.width, config.height, FourCC::new(code));
        let Ok(got) = device.set_format(&wanted) else { continue };
        if got.fourcc.repr != *code {
            continue;
        }
        let pixels = u64::from(got.width.abs_diff(config.width)) + u64::from(got.height.abs_diff(config.height));
        let missing_hz = u64::from(config.rate_hz.saturating_sub(fastest_hz(device, &got).unwrap_or(config.rate_hz)));
        let miss = pixels * 10 + missing_hz * 100;
        if best.as_ref().is_none_or(|(least, ..)| miss < *least) {
            best = Some((miss, got, *coding));
        }
    }
    let Some((_, format, coding)) = best else {
        let names: Vec<String> = offered.iter().map(ToString::to_string).collect();
        let why = format!("its formats ({}) are not supported; YUYV and MJPG are", names.join(", "));
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    };
    Ok((device.set_format(&format)?, coding))
}

/// The highest frame rate of a format, if the driver says.
fn fastest_hz(device: &Device, format: &v4l::Format) -> Option<u32> {
    let intervals = device.enum_frameintervals(format.fourcc, format.width, format.height).ok()?;
    let hz = |fraction: v4l::Fraction| fraction.denominator.checked_div(fraction.numerator).unwrap_or(0);
    intervals
        .into_iter()
        .map(|interval| match interval.interval {
            FrameIntervalEnum::Discrete(fraction) => hz(fraction),
            FrameIntervalEnum::Stepwise(range) => hz(range.min),
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(flags: Flags, sec: i64) -> Filled {
        Filled { index: 0, used: 1, flags, stamp: (sec, 500_000), sequence: 0 }
    }

    #[test]
    fn the_instant_is_the_start_of_exposure_if_the_driver_says_enough() {
        let (now, readout) = (Nanos::from_s(11), Nanos::from_ms(30));
        let at = |flags, sec| capture_instant(&filled(flags, sec), now, readout);
        let monotonic = Flags::TIMESTAMP_MONOTONIC;
        assert_eq!(at(monotonic | Flags::TSTAMP_SRC_SOE, 10), (Nanos::from_ms(10_500), Stamp::Device));
        assert_eq!(at(monotonic, 10), (Nanos::from_ms(10_470), Stamp::Device), "end of frame: readout is subtracted");
        assert_eq!(at(Flags::TIMESTAMP_COPY, 10), (now, Stamp::Arrival));
        assert_eq!(at(monotonic, 12), (now, Stamp::Arrival), "from the future");
        assert_eq!(at(monotonic, 1), (now, Stamp::Arrival), "from long ago");
    }
}

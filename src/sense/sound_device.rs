//! Finding ALSA devices and reading their samples whatever their format: shared by microphone, loudspeaker and the list
//! of devices. Names flow in; open devices, and samples as `f32`, flow out.

use cpal::traits::{DeviceTrait, HostTrait};
use cpal::{Data, SampleFormat};
use std::ffi::{c_char, c_int};
use std::sync::{Once, mpsc};
use std::time::Duration;

/// A period asked for, in ms: short enough for a quick "stop", long enough for a busy machine. Rounded up to a power of
/// two of frames, for other periods gave overruns (cpal issue 1250).
const PERIOD_MS: u32 = 16;

/// Closing a stream may take this long before the device counts as gone.
const CLOSING: Duration = Duration::from_millis(500);

/// Which way the sound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a microphone.
    In,
    /// To a loudspeaker.
    Out,
}

type ErrorHandler = unsafe extern "C" fn(*const c_char, c_int, *const c_char, c_int, *const c_char);

// SAFETY: as alsa-lib's error.h declares it, but for the handler's variable arguments: a handler that reads none of them is
// called in the same way.
unsafe extern "C" {
    fn snd_lib_error_set_handler(handler: Option<ErrorHandler>) -> c_int;
}

unsafe extern "C" fn unheard(_: *const c_char, _: c_int, _: *const c_char, _: c_int, _: *const c_char) {}

/// Keeps ALSA from writing to standard error. It writes several lines for each device that is tried and is not there,
/// which is each half second; callers get the error as a value and say it once.
pub fn hush() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler is a function that lives for ever and reads nothing.
    ONCE.call_once(|| unsafe {
        snd_lib_error_set_handler(Some(unheard));
    });
}

/// The device of this name: "default", or a name as `sage devices` prints it (an ALSA PCM such as `hw:CARD=0,DEV=0`).
///
/// # Errors
/// A sentence if there is none.
pub fn find(name: &str, way: Way) -> Result<cpal::Device, String> {
    hush();
    let host = cpal::default_host();
    let found = if name == "default" {
        match way {
            Way::In => host.default_input_device(),
            Way::Out => host.default_output_device(),
        }
    } else {
        let devices = host.devices().map_err(|why| format!("sound devices cannot be listed: {why}"))?;
        devices.into_iter().find(|device| device.id().is_ok_and(|id| id.1 == name))
    };
    found.ok_or_else(|| format!("there is no sound device {name:?}; `sage devices` lists what there is"))
}

/// Closes a stream, so that its device can be opened again. Closing a device whose server died may hang: then it hangs in a
/// thread of its own, and the caller goes on.
pub fn close(stream: cpal::Stream) {
    let (tell, told) = mpsc::channel();
    let close = move || {
        drop(stream);
        let _ = tell.send(());
    };
    if std::thread::Builder::new().name("close-sound".to_owned()).spawn(close).is_ok() {
        let _ = told.recv_timeout(CLOSING);
    }
}

/// Whether samples of this format can be read and written here.
pub fn is_known(format: SampleFormat) -> bool {
    use SampleFormat::{F32, F64, I8, I16, I32, U8, U16};
    matches!(format, F32 | F64 | I8 | I16 | I32 | U8 | U16)
}

/// The period to ask for, frames.
pub fn period_frames(rate_hz: u32) -> u32 {
    (rate_hz * PERIOD_MS / 1_000).max(64).next_power_of_two()
}

/// Hands each sample to `each`, full scale 1, interleaved as they are.
pub fn read(data: &Data, mut each: impl FnMut(f32)) {
    if let Some(samples) = data.as_slice::<f32>() {
        samples.iter().for_each(|s| each(*s));
    } else if let Some(samples) = data.as_slice::<i16>() {
        samples.iter().for_each(|s| each(f32::from(*s) / 32_768.0));
    } else if let Some(samples) = data.as_slice::<i32>() {
        samples.iter().for_each(|s| each((f64::from(*s) / 2_147_483_648.0) as f32));
    } else if let Some(samples) = data.as_slice::<u16>() {
        samples.iter().for_each(|s| each((f32::from(*s) - 32_768.0) / 32_768.0));
    } else if let Some(samples) = data.as_slice::<u8>() {
        samples.iter().for_each(|s| each((f32::from(*s) - 128.0) / 128.0));
    } else if let Some(samples) = data.as_slice::<i8>() {
        samples.iter().for_each(|s| each(f32::from(*s) / 128.0));
    } else if let Some(samples) = data.as_slice::<f64>() {
        samples.iter().for_each(|s| each(*s as f32));
    }
}

/// Fills the buffer with what `next` gives for each frame, on all channels.
pub fn write(data: &mut Data, channels: usize, mut next: impl FnMut() -> f32) {
    if let Some(samples) = data.as_slice_mut::<f32>() {
        fill(samples, channels, || next().clamp(-1.0, 1.0));
    } else if let Some(samples) = data.as_slice_mut::<i16>() {
        fill(samples, channels, || (next() * 32_767.0) as i16);
    } else if let Some(samples) = data.as_slice_mut::<i32>() {
        fill(samples, channels, || (f64::from(next()) * 2_147_483_647.0) as i32);
    } else if let Some(samples) = data.as_slice_mut::<u16>() {
        fill(samples, channels, || (next() * 32_767.0 + 32_768.0) as u16);
    } else if let Some(samples) = data.as_slice_mut::<u8>() {
        fill(samples, channels, || (next() * 127.0 + 128.0) as u8);
    } else if let Some(samples) = data.as_slice_mut::<i8>() {
        fill(samples, channels, || (next() * 127.0) as i8);
    } else if let Some(samples) = data.as_slice_mut::<f64>() {
        fill(samples, channels, || f64::from(next()));
    }
}

fn fill<T: Copy>(samples: &mut [T], channels: usize, mut next: impl FnMut() -> T) {
    for frame in samples.chunks_mut(channels.max(1)) {
        frame.fill(next());
    }
}

//! How fast the device's memory is, and how long a camera frame takes to it and back. A device flows in; bytes per second and
//! microseconds flow out.

use super::{Bench, rounded, spread_us};
use crate::engine::cuda::{CudaError, Device, Event, Priority, Stream};
use anyhow::ensure;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A colour picture of 640 by 480.
const FRAME: usize = 640 * 480 * 3;
/// Bytes copied within the device.
const COPIED: usize = 256_000_000;
/// Repetitions of a copy; the best counts, since anything else is disturbance.
const COPIES: usize = 10;

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Value> {
    let copy = copy_bandwidth(&bench.device)?;
    let read = read_bandwidth(bench)?;
    let (up, down) = frame(bench)?;
    Ok(json!({
        "copy_gb_per_s": rounded(copy / 1e9),
        "read_gb_per_s": rounded(read / 1e9),
        "step_bytes": bench.weights.bytes(),
        "frame_bytes": FRAME,
        "frame_to_device_us": up,
        "frame_from_device_us": down,
    }))
}

/// Bytes per second of a copy within the device, each byte counted twice: read and written.
///
/// # Errors
/// The driver refuses.
pub fn copy_bandwidth(device: &Arc<Device>) -> Result<f64, CudaError> {
    let bytes = COPIED.min(device.free_bytes()? as usize / 8);
    let (from, to) = (device.memory(bytes)?, device.memory(bytes)?);
    let stream = Stream::new(device, Priority::Lowest)?;
    let (begin, end) = (Event::new(device, true)?, Event::new(device, true)?);
    stream.fill(&from, 0)?;
    let mut best = f32::MAX;
    for _ in 0..COPIES {
        stream.record(&begin)?;
        stream.copy((&from, 0), (&to, 0), bytes)?;
        stream.record(&end)?;
        stream.synchronize()?;
        best = best.min(end.ms_since(&begin)?);
    }
    Ok(2.0 * bytes as f64 / (f64::from(best.max(1e-6)) / 1e3))
}

/// Bytes per second of reading the weights of a step, as a decoder does.
fn read_bandwidth(bench: &Bench) -> Result<f64, CudaError> {
    let (begin, end) = (Event::new(&bench.device, true)?, Event::new(&bench.device, true)?);
    let bytes = bench.weights.bytes();
    let mut best = f32::MAX;
    for _ in 0..COPIES {
        bench.stream.record(&begin)?;
        bench.sweep.queue(&bench.stream, &bench.weights, bytes, bench.sweep.filling_blocks())?;
        bench.stream.record(&end)?;
        bench.stream.synchronize()?;
        best = best.min(end.ms_since(&begin)?);
    }
    Ok(bytes as f64 / (f64::from(best.max(1e-6)) / 1e3))
}

/// A frame from pinned memory to the device, and back into other pinned memory, where it must be the same.
fn frame(bench: &Bench) -> anyhow::Result<(Value, Value)> {
    let (from, back) = (bench.device.pinned(FRAME)?, bench.device.pinned(FRAME)?);
    let on_device = bench.device.memory(FRAME)?;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        for (index, byte) in from.bytes().iter().enumerate() {
            byte.store((index * 7 + round) as u8, Relaxed);
        }
        let begun = Instant::now();
        bench.stream.upload((&from, 0), (&on_device, 0), FRAME)?;
        bench.stream.synchronize()?;
        up.push(begun.elapsed());
        let begun = Instant::now();
        bench.stream.download((&on_device, 0), (&back, 0), FRAME)?;
        bench.stream.synchronize()?;
        down.push(begun.elapsed());
        let same = from.bytes().iter().zip(back.bytes()).all(|(a, b)| a.load(Relaxed) == b.load(Relaxed));
        ensure!(same, "a frame came back from the device changed");
    }
    Ok((spread_us(&up), spread_us(&down)))
}

//! How long something urgent waits for heavy work, by how the two are kept apart; and how soon a chain of steps is over after a
//! cancel. A device flows in; microseconds flow out. Times are those the host sees, from the call to the answer.

use super::{Bench, rounded, spread_us};
use crate::dispatch::virtual_lane::Dice;
use crate::engine::cuda::{CudaError, Event, Priority, Stream, Sweep, split};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// What the urgent work reads, bytes: a small network's weights.
const URGENT: usize = 1_000_000;
/// Heavy sweeps queued ahead of the urgent work.
const AHEAD: usize = 3;
/// Grains that a thread of a short heavy block reads: 64 KB per block.
const SHORT: usize = 16;
/// Steps of a chain: layer groups of a token.
const CHAIN: u64 = 4;

/// Latency of a small kernel, alone and beside a stream that keeps the device busy.
pub(super) fn urgent(bench: &Bench) -> anyhow::Result<Value> {
    let (device, bytes) = (&bench.device, bench.weights.bytes());
    let (lowest, highest) = (Stream::new(device, Priority::Lowest)?, Stream::new(device, Priority::Highest)?);
    let many = Sweep::blocks_for(bytes, SHORT);
    let few = bench.sweep.filling_blocks();
    let mut report = Map::new();
    report.insert("alone".to_owned(), spread_us(&alone(bench, &highest)?));
    for (name, urgent, blocks) in [
        ("same stream", &bench.stream, many),
        ("another stream, short blocks", &lowest, many),
        ("another stream, blocks that fill the device", &lowest, few),
        ("stream of highest priority, short blocks", &highest, many),
        ("stream of highest priority, blocks that fill the device", &highest, few),
    ] {
        report.insert(name.to_owned(), spread_us(&beside(bench, &bench.stream, urgent, blocks)?));
    }
    match split(device, (device.multiprocessors / 8).max(1)) {
        Ok((small, large)) => {
            let (urgent, heavy) = (small.stream(Priority::Highest)?, large.stream(Priority::Lowest)?);
            report.insert("partitions: multiprocessors for the urgent".to_owned(), json!(small.multiprocessors));
            report.insert("partitions: multiprocessors for the rest".to_owned(), json!(large.multiprocessors));
            for (name, blocks) in [("short blocks", many), ("blocks that fill the device", few)] {
                report.insert(format!("partitions, {name}"), spread_us(&beside(bench, &heavy, &urgent, blocks)?));
            }
        }
        Err(error) => {
            report.insert("partitions".to_owned(), json!(error.to_string()));
        }
    }
    Ok(Value::Object(report))
}

fn one(bench: &Bench, urgent: &Stream) -> Result<Duration, CudaError> {
    let bytes = URGENT.min(bench.weights.bytes());
    let begun = Instant::now();
    bench.sweep.queue(urgent, &bench.weights, bytes, Sweep::blocks_for(bytes, SHORT))?;
    urgent.synchronize()?;
    Ok(begun.elapsed())
}

fn alone(bench: &Bench, urgent: &Stream) -> Result<Vec<Duration>, CudaError> {
    (0..bench.rounds).map(|_| one(bench, urgent)).collect()
}

/// The urgent work comes somewhere within the first of three heavy sweeps.
fn beside(bench: &Bench, heavy: &Stream, urgent: &Stream, blocks: u32) -> Result<Vec<Duration>, CudaError> {
    let (bytes, mut dice) = (bench.weights.bytes(), Dice::new(1));
    let sweep = |_| bench.sweep.queue(heavy, &bench.weights, bytes, blocks);
    let begun = Instant::now();
    (0..AHEAD).try_for_each(sweep)?;
    heavy.synchronize()?;
    let each = begun.elapsed() / AHEAD as u32;
    let mut times = Vec::with_capacity(bench.rounds);
    for _ in 0..bench.rounds {
        let begun = Instant::now();
        (0..AHEAD).try_for_each(sweep)?;
        wait_until(begun + each.mul_f64(0.1 + 0.8 * dice.unit()));
        times.push(one(bench, urgent)?);
        heavy.synchronize()?;
    }
    Ok(times)
}

/// A chain of steps as a lane runs it: the next is queued when the last has passed, and none after a cancel.
pub(super) fn cancel(bench: &Bench) -> anyhow::Result<Value> {
    let bytes = bench.weights.bytes();
    let blocks = Sweep::blocks_for(bytes, SHORT);
    let passed = Event::new(&bench.device, false)?;
    let step = || -> Result<(), CudaError> {
        bench.sweep.queue(&bench.stream, &bench.weights, bytes, blocks)?;
        bench.stream.record(&passed)
    };
    let finish = || -> Result<(), CudaError> {
        while !passed.is_passed()? {
            std::hint::spin_loop();
        }
        Ok(())
    };
    let (mut dice, mut steps, mut frees) = (Dice::new(2), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        // Steps that run to their end, then one inside which the cancel comes.
        let mut each = Duration::ZERO;
        for _ in 0..1 + dice.below(CHAIN - 1) {
            let begun = Instant::now();
            step()?;
            finish()?;
            each = begun.elapsed();
            steps.push(each);
        }
        let begun = Instant::now();
        step()?;
        wait_until(begun + each.mul_f64(dice.unit()));
        let cancelled = Instant::now();
        finish()?;
        frees.push(cancelled.elapsed());
    }
    Ok(json!({
        "step_bytes": bytes,
        "step_mb_at_14b_4bit": rounded(super::STEP_BYTES as f64 / 1e6),
        "step_us": spread_us(&steps),
        "cancel_to_free_us": spread_us(&frees),
    }))
}

fn wait_until(when: Instant) {
    while Instant::now() < when {
        std::hint::spin_loop();
    }
}

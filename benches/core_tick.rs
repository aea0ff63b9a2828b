//! What one tick of the core costs, and that it costs the same after any number of ticks. Prints figures; asserts
//! nothing. `cargo bench --bench core_tick [-- TICKS]`, by default a million.

#[path = "../tests/core_support/mod.rs"]
mod core_support;

use core_support::{Day, config};
use sage::core::Core;
use sage::types::{Inputs, Nanos, Outputs};
use std::time::Instant;

/// Ticks of the day that is played again and again.
const DAY: usize = 6_000;

fn main() {
    let ticks: usize = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let mut day = Day::new(1);
    let inputs: Vec<Inputs> = (0..DAY).map(|_| day.tick().0.clone()).collect();
    let (mut core, mut out) = (Core::new(config()), Outputs::default());
    let (mut all, mut framed) = (Vec::with_capacity(ticks), Vec::with_capacity(ticks));
    let rss_before = rss_kib();
    for tick in 0..ticks {
        let mut inputs = inputs[tick % DAY].clone();
        let later = Nanos::from_s((tick / DAY) as u64 * 60);
        inputs.tick = tick as u64;
        inputs.now += later;
        inputs.camera.iter_mut().for_each(|frame| frame.captured += later);
        inputs.audio.iter_mut().for_each(|block| block.captured += later);
        let began = Instant::now();
        core.tick(&inputs, &mut out);
        let took = began.elapsed().as_nanos() as u32;
        all.push(took);
        if !inputs.camera.is_empty() {
            framed.push(took);
        }
    }
    let (early, late) = (&all[ticks.min(10_000)..ticks.min(100_000)], &all[ticks.saturating_sub(100_000)..]);
    let mean = |some: &[u32]| some.iter().map(|ns| u64::from(*ns)).sum::<u64>() as f64 / some.len().max(1) as f64;
    println!("last 10^5 ticks / ticks 10^4 to 10^5: {:.3}", mean(late) / mean(early).max(1.0));
    println!("resident memory: {rss_before} KiB before, {} KiB after (figures themselves included)", rss_kib());
    for (name, some) in [("all ticks", &mut all), ("ticks with a new frame", &mut framed)] {
        some.sort_unstable();
        let at = |share: f64| f64::from(some[((some.len() - 1) as f64 * share) as usize]) / 1e3;
        let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
        println!("{name}: p50 {p50:.1} us, p99 {p99:.1} us, p99.9 {p999:.1} us, max {most:.1} us (n = {})", some.len());
    }
    let began = Instant::now();
    let bytes = core.keyframe().len();
    println!("keyframe: {bytes} bytes in {:.0} us", began.elapsed().as_secs_f64() * 1e6);
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

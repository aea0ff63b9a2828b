//! What the live lane does under load: how long a reflex waits while background work saturates it, how soon a cancelled
//! step leaves it free, and what sending costs the tick. Prints figures; asserts nothing.
//! `cargo bench --bench lane [-- ROUNDS]`, by default a thousand rounds.

use sage::dispatch::load::Load;
use sage::dispatch::{Executor, LaneHandle};
use sage::engine::NoSensors;
use sage::time::{Clock, Monotonic, sleep_until};
use sage::types::*;
use std::sync::Arc;

/// Cost of a background step.
const STEP_US: u32 = 5_000;

fn load(id: u64, class: Class, steps: u32, step_us: u32) -> Command {
    Command::Submit(Job {
        id: JobId(id),
        capability: Capability::Load,
        source: SourceId(0),
        generation: 0,
        class,
        input: JobInput::Steps { steps, step_us },
        created: Nanos::ZERO,
        deadline: Nanos::NEVER,
        fresh_until: Nanos::NEVER,
        credit_words: 0,
        based_on: Default::default(),
    })
}

/// Looks for events every 100 µs until one of the job is found by `found`.
fn wait<T>(handle: &mut LaneHandle, mut found: impl FnMut(&LaneEvent) -> Option<T>) -> T {
    loop {
        while let Some(event) = handle.event() {
            if let Some(found) = found(&event) {
                return found;
            }
        }
        sleep_until(Monotonic.now() + Nanos::from_us(100));
    }
}

fn main() {
    let rounds: u64 = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000);
    let clock: Arc<dyn Clock> = Arc::new(Monotonic);
    let engine = Box::new(Load::busy(Arc::clone(&clock)));
    let (lane, mut handle) = match Executor::spawn("lane", vec![engine], Arc::new(NoSensors), clock) {
        Ok(started) => started,
        Err(error) => return eprintln!("no thread for the lane: {error}"),
    };
    let (mut waits, mut sends, mut idles, mut longest) = (Vec::new(), Vec::new(), Vec::new(), Nanos::ZERO);
    for round in 0..rounds {
        let (background, reflex) = (JobId(2 * round + 1), JobId(2 * round + 2));
        handle.send(&load(background.0, Class::Background, 1_000, STEP_US));
        handle.wake();
        wait(&mut handle, |event| matches!(event, LaneEvent::Started { job, .. } if *job == background).then_some(()));
        // Anywhere inside a step.
        sleep_until(Monotonic.now() + Nanos::from_us(round * 377 % u64::from(STEP_US)));
        let sent = Monotonic.now();
        handle.send(&load(reflex.0, Class::Reflex, 1, 100));
        handle.wake();
        sends.push(Monotonic.now().since(sent));
        let started = wait(&mut handle, |event| match event {
            LaneEvent::Started { job, at } if *job == reflex => Some(*at),
            _ => None,
        });
        waits.push(started.since(sent));
        sleep_until(Monotonic.now() + Nanos::from_us(1_000 + round * 577 % 3_000));
        handle.send(&Command::Cancel(background));
        handle.wake();
        wait(&mut handle, |event| match event {
            LaneEvent::Done { job, outcome: Outcome::Cancelled { idle_after }, longest: step, .. }
                if *job == background =>
            {
                idles.push(*idle_after);
                longest = longest.max(*step);
                Some(())
            }
            _ => None,
        });
    }
    lane.stop();
    println!("longest background step: {} us (asked for {STEP_US})", longest.as_us());
    for (name, mut spans) in [
        ("a reflex's wait on a saturated lane", waits),
        ("from cancel to the lane being free", idles),
        ("sending a job and waking the lane", sends),
    ] {
        spans.sort_unstable();
        let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize].0 as f64 / 1e3;
        let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
        println!("{name}: p50 {p50:.1} us, p99 {p99:.1} us, p99.9 {p999:.1} us, max {most:.1} us");
    }
}

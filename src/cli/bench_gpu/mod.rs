//! `sage bench gpu`: what the device below TensorRT does: bandwidth, transfers, what a launch costs, how long something urgent
//! waits beside heavy work, how soon a cancelled chain of steps is over. A device flows in; figures flow out, as a table or as
//! JSON. Needs NVIDIA's driver and nothing else.

mod launch;
mod memory;
mod power;
mod waiting;

pub use memory::copy_bandwidth;
pub use power::power;

use super::{BadInput, Verdict};
use crate::engine::cuda::{Device, DeviceMemory, Priority, Stream, Sweep};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `sage bench gpu`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which device, as the driver counts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: i32,
    /// Weights of one step of the chain, MB; default: a quarter of Qwen2.5-14B's layers in 4 bits, or what fits.
    #[arg(long, value_name = "MB")]
    step_mb: Option<u64>,
    /// Repetitions of each measurement.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    rounds: u32,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the JSON object to this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A quarter of the 8.4 GB that Qwen2.5-14B reads per token in 4 bits: four layer groups.
const STEP_BYTES: u64 = 2_100_000_000;

/// What every measurement works with.
struct Bench {
    device: Arc<Device>,
    sweep: Sweep,
    stream: Arc<Stream>,
    /// The weights of one step.
    weights: Arc<DeviceMemory>,
    rounds: usize,
}

/// Runs the command.
///
/// # Errors
/// There is no GPU, or its driver refuses.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    let device = Device::open(args.device)?;
    let most = device.free_bytes()? / 4;
    let step = args.step_mb.map_or(STEP_BYTES.min(most), |mb| mb.saturating_mul(1_000_000));
    if step < 1_000_000 || step > most {
        let text = format!("a step of {} MB does not fit: 1 to {} are free for it", step / 1_000_000, most / 1_000_000);
        return Err(BadInput(text).into());
    }
    let bench = Bench {
        sweep: Sweep::new(&device)?,
        stream: Stream::new(&device, Priority::Lowest)?,
        weights: device.memory(step as usize / 4096 * 4096)?,
        rounds: args.rounds as usize,
        device,
    };
    bench.stream.fill(&bench.weights, 0)?;
    bench.stream.synchronize()?;
    let report = json!({
        "bench": "gpu",
        "device": about(&bench.device),
        "power": power(),
        "memory": memory::measure(&bench)?,
        "launch": launch::measure(&bench)?,
        "urgent_work_us": waiting::urgent(&bench)?,
        "cancel": waiting::cancel(&bench)?,
    });
    if let Some(file) = &args.out {
        super::show::write_whole(file, format!("{report:#}\n").as_bytes())?;
    }
    if args.json {
        println!("{report}")
    } else {
        print_table("", &report)
    }
    Ok(Verdict::Good)
}

/// What the driver says about a device.
pub fn about(device: &Device) -> Value {
    json!({
        "name": device.name,
        "compute_capability": format!("{}.{}", device.capability / 10, device.capability % 10),
        "multiprocessors": device.multiprocessors,
        "memory_bytes": device.memory_bytes,
        "shares_memory_with_the_host": device.integrated,
        "clock_mhz": device.clock_mhz,
        "driver_supports_cuda": format!("{}.{}", device.driver_version / 1000, device.driver_version % 1000 / 10),
    })
}

/// One line per figure, under the names of the objects it lies in; a spread is one figure.
fn print_table(place: &str, value: &Value) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        match value {
            Value::Object(spread) if spread.contains_key("p50") => {
                let [p50, p99, max] = ["p50", "p99", "max"].map(|rank| spread[rank].as_f64().unwrap_or_default());
                println!("  {name:<56} p50 {p50:>9.1}  p99 {p99:>9.1}  max {max:>9.1}");
            }
            Value::Object(_) => {
                let place = if place.is_empty() { name.clone() } else { format!("{place}, {name}") };
                println!("{place}");
                print_table(&place, value);
            }
            Value::String(text) => println!("  {name:<56} {text}"),
            other => println!("  {name:<56} {other}"),
        }
    }
}

/// Median, 99th percentile and largest, µs.
pub fn spread_us(times: &[Duration]) -> Value {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        rounded(sorted.get(index).copied().unwrap_or_default())
    };
    let mut spread = Map::new();
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        spread.insert(name.to_owned(), json!(at(share)));
    }
    spread.insert("n".to_owned(), json!(sorted.len()));
    Value::Object(spread)
}

/// To a tenth.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_taken_from_the_values_themselves() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let spread = spread_us(&times);
        assert_eq!(spread, json!({"p50": 100.0, "p99": 198.0, "max": 200.0, "n": 200}));
        assert_eq!(spread_us(&[])["max"], json!(0.0));
    }
}

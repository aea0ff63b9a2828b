//! The ratios: lines of JSON that both programs printed, in rounds, flow in; a table with the bars of the project flows out, and
//! the same as JSON.

use crate::Failure;
use serde_json::{Value, json};
use std::path::Path;

/// Weights and mode of sage, and what sage / llama.cpp shall reach: decode with 1 thread and with 2, prefill. 0: no bar.
const BARS: [(&str, [f64; 3]); 4] = [
    ("bf16 exact", [1.0, 1.0, 0.65]),
    ("bf16 fast", [0.0, 0.0, 1.1]),
    ("8bit", [1.3, 1.2, 1.7]),
    ("4bit", [1.15, 1.1, 1.4]),
];
const DECODE: &str = "decode_tokens_per_s";
const PREFILL: &str = "prefill_tokens_per_s_at_512";

/// One figure of every round.
fn figures(lines: &[Value], who: &str, weights: &str, threads: u64, name: &str) -> Vec<f64> {
    let mine = |line: &&Value| line["who"] == who && line["weights"] == weights && line["threads"] == threads;
    lines.iter().filter(mine).filter_map(|line| line[name].as_f64()).collect()
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        n if n % 2 == 1 => Some(figures[middle]),
        _ => Some((figures[middle - 1] + figures[middle]) / 2.0),
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Prints the table and writes it as JSON.
pub fn print(lines: &Path, file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(lines)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let rounds = lines.iter().filter_map(|line| line["round"].as_u64()).max().unwrap_or_default();
    println!("medians of {rounds} rounds, sage and llama.cpp in turn; ratio: median of the rounds' ratios");
    println!(
        "{:<12} {:>7} {:<8} {:>9} {:>9} {:>7} {:>6}  {:>9}",
        "weights", "threads", "what", "sage", "llama.cpp", "ratio", "bar", "bandwidth"
    );
    let mut rows = Vec::new();
    for (weights, bars) in BARS {
        let peer_weights = weights.split(' ').next().unwrap_or(weights);
        for threads in [1, 2] {
            for (name, what, bar) in [(DECODE, "decode", bars[threads - 1]), (PREFILL, "prefill", bars[2])] {
                let threads = threads as u64;
                let own = figures(&lines, "sage", weights, threads, name);
                let peer = figures(&lines, "llama.cpp", peer_weights, threads, name);
                // Every round measured the peer once for each mode of sage; the ratio is within the round.
                let ratios = own.iter().zip(&peer).map(|(own, peer)| own / peer).collect();
                let (Some(own), Some(peer), Some(ratio)) = (median(own), median(peer), median(ratios)) else {
                    continue;
                };
                let share = figures(&lines, "sage", weights, threads, "share_of_bandwidth");
                let share = median(share).filter(|_| what == "decode");
                let bar = (bar > 0.0).then_some(bar);
                let or_none = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
                println!(
                    "{weights:<12} {threads:>7} {what:<8} {own:>9.1} {peer:>9.1} {ratio:>7.2} {:>6}  {:>9}",
                    or_none(bar),
                    or_none(share)
                );
                rows.push(json!({
                    "weights": weights, "threads": threads, "what": what, "sage_tokens_per_s": own,
                    "llama_cpp_tokens_per_s": peer, "ratio": round(ratio), "bar": bar, "share_of_bandwidth": share,
                }));
            }
        }
    }
    let others: Vec<&Value> = lines.iter().filter(|line| line["round"].is_null()).collect();
    for line in &others {
        println!("{line}");
    }
    let report = json!({ "rounds": rounds, "rows": rows, "others": others, "lines": lines });
    std::fs::write(file, format!("{report:#}\n"))?;
    println!("wrote {}", file.display());
    Ok(())
}

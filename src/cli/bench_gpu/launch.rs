//! What it costs the host to start the kernels of a decode step, one by one and as a graph. A device flows in; microseconds
//! flow out.

use super::{Bench, rounded, spread_us};
use crate::engine::cuda::{CudaError, Graph};
use serde_json::{Value, json};
use std::time::Instant;

/// Kernels of a small decode step: 24 layers of 8.
const KERNELS: usize = 192;
/// What each of them reads, bytes.
const EACH: usize = 65_536;

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Value> {
    let queue_all = || -> Result<(), CudaError> {
        (0..KERNELS).try_for_each(|_| bench.sweep.queue(&bench.stream, &bench.weights, EACH, 4))
    };
    let (mut singly, mut singly_done) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let begun = Instant::now();
        queue_all()?;
        singly.push(begun.elapsed());
        bench.stream.synchronize()?;
        singly_done.push(begun.elapsed());
    }
    let begun = Instant::now();
    // SAFETY: the kernel and the weights belong to `bench`, which outlives the graph.
    let mut graph = unsafe { Graph::record(&bench.stream, queue_all) }?;
    let recording = begun.elapsed();
    graph.launch()?;
    bench.stream.synchronize()?;
    let (mut whole, mut whole_done) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let begun = Instant::now();
        graph.launch()?;
        whole.push(begun.elapsed());
        bench.stream.synchronize()?;
        whole_done.push(begun.elapsed());
    }
    Ok(json!({
        "kernels": KERNELS,
        "one_by_one_host_us": spread_us(&singly),
        "one_by_one_done_us": spread_us(&singly_done),
        "record_graph_us": rounded(recording.as_secs_f64() * 1e6),
        "graph_host_us": spread_us(&whole),
        "graph_done_us": spread_us(&whole_done),
    }))
}

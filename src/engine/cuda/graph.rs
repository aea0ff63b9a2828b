//! CUDA graphs: what a closure queues on a stream, recorded once and launched with one call. A closure flows in; a graph that
//! does the same to the same memory flows out.

use super::{CudaError, Stream, cuda};
use cudarc::driver::sys;
use std::sync::Arc;

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    executable: sys::CUgraphExec,
    graph: sys::CUgraph,
    stream: Arc<Stream>,
}

// SAFETY: handles may be used from any thread, one at a time: launching takes `&mut self`, and it is not `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `queue` queues on `stream`; nothing of it runs.
    ///
    /// # Errors
    /// The closure's own, something it did cannot be recorded, or the driver refuses.
    ///
    /// # Safety
    /// Everything that the closure's work reads and writes, on host or device, must live and stay where it is until the graph is
    /// dropped.
    pub unsafe fn record<E: From<CudaError>>(
        stream: &Arc<Stream>,
        queue: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        stream.device().bind()?;
        // Other threads may go on using the device meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        cuda!(cuStreamBeginCapture_v2(stream.handle(), mode))?;
        let queued = queue();
        let mut graph: sys::CUgraph = std::ptr::null_mut();
        let ended = cuda!(cuStreamEndCapture(stream.handle(), &mut graph));
        // From here on the graph is dropped with its owner, whatever happens.
        let mut recorded = Graph { executable: std::ptr::null_mut(), graph, stream: Arc::clone(stream) };
        queued?;
        ended?;
        cuda!(cuGraphInstantiateWithFlags(&mut recorded.executable, graph, 0))?;
        Ok(recorded)
    }

    /// Queues the recorded work on the stream it was recorded on.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn launch(&mut self) -> Result<(), CudaError> {
        self.stream.device().bind()?;
        cuda!(cuGraphLaunch(self.executable, self.stream.handle()))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // A graph that still runs is destroyed when it is done.
        let _ = self.stream.device().bind();
        if !self.executable.is_null() {
            let _ = cuda!(cuGraphExecDestroy(self.executable));
        }
        if !self.graph.is_null() {
            let _ = cuda!(cuGraphDestroy(self.graph));
        }
    }
}

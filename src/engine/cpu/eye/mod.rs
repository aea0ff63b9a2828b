//! The eye: finds people, obstacles, the charger and raised hands in a camera frame, with the network that ships with the program.
//! A weights file flows in once; then frames flow in and detections flow out, in five steps of bounded work each.

pub mod decode;
pub mod input;
pub mod kernel;
pub mod net;

use std::path::Path;
use std::sync::{Arc, Mutex};

use arrayvec::ArrayVec;

use self::decode::FoundList;
use self::net::{Activations, Network, STEPS, Tensors};
use crate::engine::cpu::simd::Simd;
use crate::engine::{CancelToken, Engine, EngineError, Progress, SensorReader, Session, StepSink};
use crate::types::{Capability, Frame, Job, JobInput, Nanos, Output};

/// Scores below this are not reported.
pub const LEAST_SCORE: f32 = 0.35;
/// Sets of buffers made at load; more frames at once than this allocate.
const SPARE: usize = 2;

/// The loaded eye.
pub struct Eye {
    network: Arc<Network>,
    spare: Arc<Mutex<Vec<Activations>>>,
    parameters: usize,
    hash: [u8; 16],
    activation_bytes: u64,
}

impl Eye {
    /// Loads `eye.safetensors` for a kernel set (one the machine lacks is replaced by the best it has).
    ///
    /// # Errors
    /// The file cannot be read or does not hold this network's tensors.
    pub fn load(file: &Path, simd: Simd) -> Result<Self, EngineError> {
        let failed = |why: String| EngineError::Load { what: file.display().to_string(), why };
        let bytes = std::fs::read(file).map_err(|e| {
            failed(format!("cannot be read ({e}); give the folder that holds the engines with --assets"))
        })?;
        let tensors = tensors(&bytes).map_err(&failed)?;
        let network = Network::new(&tensors, simd.supported())
            .map_err(|e| failed(format!("{e}; the file and this program do not belong together")))?;
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        let spare: Vec<_> = (0..SPARE).map(|_| network.activations()).collect();
        Ok(Self {
            activation_bytes: spare.iter().map(Activations::bytes).sum(),
            parameters: tensors.values().map(|t| t.1.len()).sum(),
            network: Arc::new(network),
            spare: Arc::new(Mutex::new(spare)),
            hash,
        })
    }

    /// Looks at a picture of 640 x 480 x 3 bytes, all steps at once; scores under `least` are left out.
    #[must_use]
    pub fn look(&self, rgb: &[u8], least: f32) -> FoundList {
        let mut work = Look::new(self);
        work.feed(rgb);
        while work.step(&|| false) {}
        work.found(least)
    }

    /// Starts looking at a picture, to be carried on step by step.
    #[must_use]
    pub fn begin(&self, rgb: &[u8]) -> Look {
        let mut work = Look::new(self);
        work.feed(rgb);
        work
    }
}

impl Eye {
    /// Starts looking at a picture that [`input::reduce`] already made small (160 x 120 x 3 bytes).
    #[must_use]
    pub fn begin_reduced(&self, small: &[u8]) -> Look {
        let mut work = Look::new(self);
        if let Some(b) = &mut work.buffers {
            self.network.feed_reduced(small, b);
        }
        work
    }
}

/// The tensors of a safetensors file, as f32.
fn tensors(bytes: &[u8]) -> Result<Tensors, String> {
    let file = safetensors::SafeTensors::deserialize(bytes).map_err(|e| format!("is not a safetensors file ({e})"))?;
    let mut out = Tensors::new();
    for (name, t) in file.tensors() {
        let halves = || t.data().chunks_exact(2).map(|b| [b[0], b[1]]);
        let numbers = match t.dtype() {
            safetensors::Dtype::F16 => halves().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
            safetensors::Dtype::BF16 => halves().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            safetensors::Dtype::F32 => {
                t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            other => return Err(format!("holds `{name}` as {other:?}; f16, bf16 or f32 is needed")),
        };
        out.insert(name, (t.shape().to_vec(), numbers));
    }
    Ok(out)
}

/// One picture being looked at.
pub struct Look {
    network: Arc<Network>,
    spare: Arc<Mutex<Vec<Activations>>>,
    /// `None` only while being dropped.
    buffers: Option<Activations>,
    done: usize,
}

impl Look {
    fn new(eye: &Eye) -> Self {
        let kept = eye.spare.lock().ok().and_then(|mut s| s.pop());
        let buffers = kept.unwrap_or_else(|| eye.network.activations());
        Self { network: Arc::clone(&eye.network), spare: Arc::clone(&eye.spare), buffers: Some(buffers), done: 0 }
    }

    fn feed(&mut self, rgb: &[u8]) {
        if let Some(b) = &mut self.buffers {
            self.network.feed(rgb, b);
        }
        self.done = 0;
    }

    /// Runs the next step; false once there is none left or `stop` said so (then the step is run anew by the next call).
    pub fn step(&mut self, stop: &dyn Fn() -> bool) -> bool {
        let Some(b) = &mut self.buffers else { return false };
        if self.done >= STEPS || !self.network.step(self.done, b, stop) {
            return false;
        }
        self.done += 1;
        self.done < STEPS
    }

    /// Steps done.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done
    }

    /// What was found; empty before the last step.
    #[must_use]
    pub fn found(&self, least: f32) -> FoundList {
        if self.done < STEPS { FoundList::new() } else { decode::decode(self.grid(), least) }
    }

    /// The network's output grid, of shape [`net::GRID`].
    #[must_use]
    pub fn grid(&self) -> &[f32] {
        self.buffers.as_ref().map_or(&[], |b| self.network.grid(b))
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let (Some(b), Ok(mut spare)) = (self.buffers.take(), self.spare.lock())
            && spare.len() < SPARE
        {
            spare.push(b);
        }
    }
}

impl Engine for Eye {
    fn capability(&self) -> Capability {
        Capability::See
    }

    fn describe(&self) -> String {
        format!("eye ({:.2} M parameters, cpu/{})", self.parameters as f64 / 1e6, self.network.simd().name())
    }

    fn weights_hash(&self) -> [u8; 16] {
        self.hash
    }

    fn memory_bytes(&self) -> u64 {
        self.network.weight_bytes() as u64 + self.activation_bytes
    }

    fn open(&mut self, job: &Job, sensors: &dyn SensorReader) -> Result<Box<dyn Session>, EngineError> {
        let JobInput::Frame { seq } = job.input else {
            return Err(EngineError::Unsupported("the eye looks at frames only".into()));
        };
        let frame = sensors.frame(job.source, seq).ok_or_else(|| EngineError::InputGone(format!("frame {seq}")))?;
        if frame.width as usize != input::CAMERA_WIDTH
            || frame.height as usize != input::CAMERA_HEIGHT
            || frame.bytes.len() != input::CAMERA_BYTES
        {
            return Err(EngineError::Unsupported(format!(
                "the eye needs frames of 640x480, this one has {}x{}; set the camera to 640x480",
                frame.width, frame.height
            )));
        }
        Ok(Box::new(EyeSession {
            look: Look::new(self),
            frame: Some(frame),
            seq,
            captured: Nanos::default(),
            last: Progress::More,
        }))
    }
}

/// A job of the eye.
struct EyeSession {
    look: Look,
    /// Until the first step has reduced it.
    frame: Option<Arc<Frame>>,
    seq: u64,
    captured: Nanos,
    last: Progress,
}

impl Session for EyeSession {
    fn submit(&mut self, cancel: &CancelToken, sink: &mut StepSink) -> Result<(), EngineError> {
        if let Some(f) = self.frame.take() {
            self.captured = f.captured;
            self.look.feed(&f.bytes);
        }
        let before = self.look.done();
        let more = self.look.step(&|| cancel.is_cancelled());
        self.last = if more {
            Progress::More
        } else if self.look.done() == before && before < STEPS {
            Progress::Stopped
        } else {
            let detections: ArrayVec<_, { crate::types::MAX_DETECTIONS }> =
                self.look.found(LEAST_SCORE).iter().map(decode::detection).collect();
            sink.output = Some(Output::Seen { seq: self.seq, captured: self.captured, detections });
            Progress::Done
        };
        Ok(())
    }

    fn poll(&mut self, _sink: &mut StepSink) -> Result<Progress, EngineError> {
        Ok(self.last)
    }

    fn energy(&self) -> Option<f32> {
        Some(1.0 - self.look.done() as f32 / STEPS as f32)
    }
}

//! The engines of a folder on a device, with what all conversations share. A folder flows in; a row of engines, or the one
//! sentence why it cannot run here, flows out.

use super::foreign;
use super::layout::ALIGNMENT;
use super::row::{Limits, Pass, Row};
use super::seat::{Parts, Seat, Shape};
use crate::engine::EngineError;
use crate::engine::cuda::{Device, DeviceMemory, Priority, Stream};
use crate::engine::tensorrt::abi::Plan;
use crate::engine::tensorrt::{Manifest, TrtError, at, locate, working};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Engines in a row. Fields are dropped in order.
pub struct Engines {
    plans: Vec<Arc<Plan>>,
    scratch: Arc<DeviceMemory>,
    keys: Arc<DeviceMemory>,
    stream: Arc<Stream>,
    device: Arc<Device>,
    manifest: Manifest,
    shape: Shape,
}

/// Where engines are to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Where<'a> {
    /// Device, as the driver counts.
    pub device: i32,
    /// Folder with TensorRT's libraries; `None`: where the system finds them.
    pub tensorrt: Option<&'a Path>,
    /// Also on a GPU that the manifest does not name: TensorRT decides.
    pub any_gpu: bool,
}

impl Engines {
    /// Loads the engines of `folder`. Their work yields to that of streams with a higher priority.
    ///
    /// # Errors
    /// The folder holds no whole engine, there is no device or no TensorRT, or they do not belong together.
    pub fn load(folder: &Path, place: Where<'_>) -> Result<Engines, TrtError> {
        let manifest = Manifest::load(folder)?;
        let device = Device::open(place.device)?;
        let library = Arc::new(locate::find(place.tensorrt)?);
        let capability = (!place.any_gpu).then_some(device.capability);
        if let Some(why) = foreign(&manifest, &library.describe(), capability) {
            return Err(TrtError::Stale(why));
        }
        manifest.check_files(folder)?;
        let mut plans = Vec::new();
        for engine in &manifest.engines {
            let path = folder.join(&engine.file);
            let file = std::fs::File::open(&path).map_err(at(&path))?;
            // SAFETY: the file is only read; one that is cut while it is mapped ends the process, as with any mapped weights.
            let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(at(&path))?;
            let plan = Plan::load(&library, &bytes)?;
            if plan.profiles() != manifest.profiles.len() as i32 {
                let text = format!(
                    "{}: {} profiles, its manifest names {}",
                    path.display(),
                    plan.profiles(),
                    manifest.profiles.len()
                );
                return Err(TrtError::Stale(text));
            }
            plans.push(Arc::new(plan));
        }
        let (network, graph) = (&manifest.network, &manifest.recipe.graph);
        let shape = Shape {
            form: graph.form,
            layers: network.layers,
            hidden: network.hidden,
            kv_heads: network.kv_heads,
            head_dim: network.head_dim,
            vocabulary: network.vocabulary,
            capacity: graph.capacity,
            chunk: manifest.recipe.chunk,
            number: graph.precision.bytes(),
        };
        let profiles = 0..manifest.profiles.len() as i32;
        let scratch = profiles.flat_map(|profile| plans.iter().map(move |plan| plan.scratch_bytes(profile))).max();
        let (asked, counted) = (scratch.unwrap_or(0), working::shared_bytes(&manifest));
        if asked > counted {
            tracing::warn!(
                "{}: TensorRT asks for {asked} bytes to work in, `sage plan` counts {counted}",
                folder.display()
            );
        }
        let scratch = device.memory((asked as usize).max(ALIGNMENT))?;
        let stream = Stream::new(&device, Priority::Lowest)?;
        let keys = positions(&device, &stream, shape.capacity)?;
        Ok(Engines { plans, scratch, keys, stream, device, manifest, shape })
    }

    /// What the folder says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes that the engines hold, without conversations: weights and working memory.
    pub fn memory_bytes(&self) -> u64 {
        self.manifest.engines.iter().map(|engine| engine.bytes).sum::<u64>() + self.scratch.bytes() as u64
    }

    fn new_seat(&self) -> Result<Seat, TrtError> {
        self.device.bind()?;
        Seat::new(&Parts {
            device: &self.device,
            stream: &self.stream,
            plans: &self.plans,
            scratch: &self.scratch,
            keys: &self.keys,
            shape: self.shape,
        })
    }
}

/// 0 .. count - 1 on the device.
fn positions(device: &Arc<Device>, stream: &Stream, count: usize) -> Result<Arc<DeviceMemory>, TrtError> {
    let (host, memory) = (device.pinned(8 * count)?, device.memory(8 * count)?);
    for (index, word) in host.long_words().iter().enumerate() {
        word.store(index as u64, Relaxed);
    }
    stream.upload((&host, 0), (&memory, 0), 8 * count)?;
    stream.synchronize()?;
    Ok(memory)
}

fn fault(error: TrtError) -> EngineError {
    EngineError::Device(error.to_string())
}

impl Row for Engines {
    type Seat = Seat;

    fn limits(&self) -> Limits {
        let Shape { capacity, chunk, vocabulary, .. } = self.shape;
        Limits { context: capacity, chunk, vocabulary, groups: self.plans.len() }
    }

    fn seat(&mut self) -> Result<Seat, EngineError> {
        self.new_seat().map_err(fault)
    }

    fn queue(&mut self, seat: &mut Seat, pass: &Pass<'_>, group: usize) -> Result<(), EngineError> {
        seat.queue(pass, group).map_err(fault)
    }

    fn is_done(&self, seat: &Seat) -> Result<bool, EngineError> {
        seat.is_done().map_err(fault)
    }

    fn wait(&self, seat: &Seat) -> Result<(), EngineError> {
        seat.wait().map_err(fault)
    }

    fn logits(&self, seat: &Seat, into: &mut [f32]) {
        seat.logits(into);
    }
}

//! What one conversation has on the device: its cache, its inputs and outputs, a context per engine and profile, and recorded
//! decode steps. Passes flow in; work queued on the lane's stream flows out.

use super::layout::{ALIGNMENT, Block, Half, Role, role, sizes};
use super::row::Pass;
use crate::engine::cuda::{Device, DeviceMemory, Event, Graph, HostMemory, Stream};
use crate::engine::tensorrt::TrtError;
use crate::engine::tensorrt::abi::{Context, Place, Plan};
use crate::model::onnx::Form;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Profile of one new token, as the manifest orders them.
const DECODE: usize = 0;
/// Profile of a chunk.
const PREFILL: usize = 1;

/// Sizes that all conversations share.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub form: Form,
    pub layers: usize,
    pub hidden: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub capacity: usize,
    pub chunk: usize,
    /// Bytes of a number.
    pub number: usize,
}

impl Shape {
    /// Bytes of keys or values of one layer.
    fn cache_bytes(&self) -> usize {
        self.kv_heads * self.capacity * self.head_dim * self.number
    }
}

/// What a seat is made of.
pub struct Parts<'a> {
    pub device: &'a Arc<Device>,
    pub stream: &'a Arc<Stream>,
    pub plans: &'a [Arc<Plan>],
    /// Working memory of all contexts: they run one after the other on one stream.
    pub scratch: &'a Arc<DeviceMemory>,
    /// 0 .. capacity - 1.
    pub keys: &'a Arc<DeviceMemory>,
    pub shape: Shape,
}

/// One conversation on the device. Fields are dropped in order: recorded steps before what they use.
pub struct Seat {
    /// A recorded decode step per engine, for `recorded_keys` positions.
    graphs: Vec<Option<Graph>>,
    /// Engines that have run once with the sizes of the recording: TensorRT prepares itself in the first run.
    warm: Vec<bool>,
    recorded_keys: usize,
    records: bool,
    contexts: Vec<[Context; 2]>,
    /// Sizes that were set last, by engine and profile.
    set: Vec<[(usize, usize); 2]>,
    /// Tensors with sizes to set, by engine.
    dynamic: Vec<Vec<(usize, Role)>>,
    stream: Arc<Stream>,
    done: Event,
    block: Block,
    staging: Arc<HostMemory>,
    inputs: Arc<DeviceMemory>,
    caches: Vec<[Arc<DeviceMemory>; 2]>,
    fresh: Vec<[Arc<DeviceMemory>; 2]>,
    layers: Vec<Vec<usize>>,
    logits: Arc<DeviceMemory>,
    answer: Arc<HostMemory>,
    shape: Shape,
}

impl Seat {
    /// Allocates everything and makes the contexts.
    pub fn new(parts: &Parts<'_>) -> Result<Seat, TrtError> {
        let (device, shape) = (parts.device, parts.shape);
        let block = Block::new(shape.chunk);
        let row = shape.chunk * shape.hidden * shape.number;
        let hidden = [device.memory(row)?, device.memory(row)?];
        let pair = |bytes: usize| -> Result<[Arc<DeviceMemory>; 2], TrtError> {
            Ok([device.memory(bytes)?, device.memory(bytes)?])
        };
        let caches: Vec<_> = (0..shape.layers).map(|_| pair(shape.cache_bytes())).collect::<Result<_, _>>()?;
        for memory in caches.iter().flatten() {
            // A masked key counts for nothing only if it is a number.
            parts.stream.fill(memory, 0)?;
        }
        let rows = if shape.form == Form::Primitive { shape.layers } else { 0 };
        let fresh_bytes = shape.kv_heads * shape.chunk * shape.head_dim * shape.number;
        let mut seat = Seat {
            graphs: parts.plans.iter().map(|_| None).collect(),
            warm: vec![false; parts.plans.len()],
            recorded_keys: 0,
            records: true,
            contexts: Vec::new(),
            set: vec![[(0, 0); 2]; parts.plans.len()],
            dynamic: Vec::new(),
            stream: Arc::clone(parts.stream),
            done: Event::new(device, false)?,
            block,
            staging: device.pinned(block.bytes)?,
            inputs: device.memory(block.bytes)?,
            caches,
            fresh: (0..rows).map(|_| pair(fresh_bytes)).collect::<Result<_, _>>()?,
            layers: Vec::new(),
            logits: device.memory(4 * shape.vocabulary)?,
            answer: device.pinned(4 * shape.vocabulary)?,
            shape,
        };
        let next_token = device.memory(ALIGNMENT)?;
        for (group, plan) in parts.plans.iter().enumerate() {
            let mut pair = [
                plan.context(DECODE as i32, parts.stream, parts.scratch)?,
                plan.context(PREFILL as i32, parts.stream, parts.scratch)?,
            ];
            let (mut dynamic, mut layers) = (Vec::new(), Vec::new());
            for (index, tensor) in plan.tensors().iter().enumerate() {
                let name = tensor.name.to_string_lossy();
                let role = role(&name).ok_or_else(|| unknown(&name))?;
                let shares = tensor.shares.as_deref().and_then(self::role);
                if let (Role::Updated(half, layer), Some(shares)) = (role, shares)
                    && shares != Role::Cache(half, layer)
                {
                    return Err(unknown(&name));
                }
                let memory = match role {
                    Role::Ids | Role::Positions | Role::WriteIndex | Role::Last => &seat.inputs,
                    Role::Keys => parts.keys,
                    Role::Hidden => &hidden[(group + 1) % 2],
                    Role::HiddenOut => &hidden[group % 2],
                    Role::Logits => &seat.logits,
                    Role::NextToken => &next_token,
                    Role::Cache(half, layer) | Role::Updated(half, layer) => of(&seat.caches, half, layer, &name)?,
                    Role::Fresh(half, layer) => of(&seat.fresh, half, layer, &name)?,
                };
                let at = block.place(role);
                let place = match (tensor.on_host, at) {
                    (true, Some(at)) => Place::Host(Arc::clone(&seat.staging), at),
                    (true, None) => return Err(unknown(&name)),
                    (false, at) => Place::Device(Arc::clone(memory), at.unwrap_or(0)),
                };
                for context in &mut pair {
                    context.place(index, place.clone())?;
                }
                if sizes(role, 1, 1, shape.hidden).is_some() {
                    dynamic.push((index, role));
                }
                if let Role::Fresh(Half::Keys, layer) = role {
                    layers.push(layer);
                }
            }
            seat.contexts.push(pair);
            seat.dynamic.push(dynamic);
            seat.layers.push(layers);
        }
        parts.stream.record(&seat.done)?;
        Ok(seat)
    }

    /// Queues one group of a pass.
    pub fn queue(&mut self, pass: &Pass<'_>, group: usize) -> Result<(), TrtError> {
        self.stream.device().bind()?;
        if group == 0 {
            self.stage(pass);
        }
        let (tokens, keys) = (pass.tokens.len(), pass.keys(self.shape.capacity));
        let decode = tokens == 1;
        let profile = if decode { DECODE } else { PREFILL };
        if decode && keys != self.recorded_keys {
            self.graphs.iter_mut().for_each(|graph| *graph = None);
            self.warm.fill(false);
            self.recorded_keys = keys;
        }
        if self.set[group][profile] != (tokens, keys) {
            for &(index, role) in &self.dynamic[group] {
                if let Some(sizes) = sizes(role, tokens, keys, self.shape.hidden) {
                    self.contexts[group][profile].set_shape(index, &sizes)?;
                }
            }
            self.set[group][profile] = (tokens, keys);
        }
        if decode && self.warm[group] && self.records {
            self.launch(group)?;
        } else {
            self.run(group, profile, pass.answers)?;
            self.warm[group] |= decode;
        }
        if self.shape.form == Form::Primitive {
            self.append(pass, group)?;
        }
        Ok(self.stream.record(&self.done)?)
    }

    /// Writes the inputs of a pass where the device will fetch them. The pass before it is done.
    fn stage(&self, pass: &Pass<'_>) {
        let words = self.staging.long_words();
        let put = |at: usize, value: u64| words[at / 8].store(value, Relaxed);
        put(self.block.write_index, pass.position as u64);
        put(self.block.last, pass.tokens.len() as u64 - 1);
        for (index, &token) in pass.tokens.iter().enumerate() {
            put(self.block.positions + 8 * index, (pass.position + index) as u64);
            put(self.block.ids + 8 * index, u64::from(token));
        }
    }

    /// Queues inputs, engine and logits of one group.
    fn run(&mut self, group: usize, profile: usize, answers: bool) -> Result<(), TrtError> {
        if group == 0 {
            self.stream.upload((&self.staging, 0), (&self.inputs, 0), self.block.bytes)?;
        }
        self.contexts[group][profile].queue()?;
        if answers && group + 1 == self.contexts.len() {
            self.stream.download((&self.logits, 0), (&self.answer, 0), 4 * self.shape.vocabulary)?;
        }
        Ok(())
    }

    /// Queues a decode step as it was recorded, recording it first if need be. An engine that cannot be recorded is run as it is.
    fn launch(&mut self, group: usize) -> Result<(), TrtError> {
        if self.graphs[group].is_none() {
            let stream = Arc::clone(&self.stream);
            // SAFETY: what the step uses belongs to this seat and is dropped after its graphs (order of fields); contexts keep
            // their plans, working memory and places.
            let recorded = unsafe { Graph::record(&stream, || self.run(group, DECODE, true)) };
            match recorded {
                Ok(graph) => self.graphs[group] = Some(graph),
                Err(error) => {
                    tracing::info!("decode steps are not recorded: {error}");
                    self.records = false;
                    return self.run(group, DECODE, true);
                }
            }
        }
        match &mut self.graphs[group] {
            Some(graph) => Ok(graph.launch()?),
            None => self.run(group, DECODE, true),
        }
    }

    /// Writes the new rows of a group's layers into their caches: per head one run of tokens.
    fn append(&self, pass: &Pass<'_>, group: usize) -> Result<(), TrtError> {
        let shape = &self.shape;
        let row = shape.head_dim * shape.number;
        let (width, to_pitch) = (pass.tokens.len() * row, shape.capacity * row);
        for &layer in &self.layers[group] {
            for (fresh, cache) in self.fresh[layer].iter().zip(&self.caches[layer]) {
                let to = (&**cache, pass.position * row, to_pitch);
                self.stream.copy_rows((fresh, 0, width), to, (width, shape.kv_heads))?;
            }
        }
        Ok(())
    }

    /// Whether everything queued for this seat is done.
    pub fn is_done(&self) -> Result<bool, TrtError> {
        Ok(self.done.is_passed()?)
    }

    /// Waits for it.
    pub fn wait(&self) -> Result<(), TrtError> {
        Ok(self.done.synchronize()?)
    }

    /// The logits that came back last.
    pub fn logits(&self, into: &mut [f32]) {
        self.answer.read_floats(into);
    }
}

fn unknown(name: &str) -> TrtError {
    TrtError::Stale(format!("the engine has a tensor \"{name}\" that this program does not know; build it again"))
}

/// The buffer of one half of a layer.
fn of<'a>(
    list: &'a [[Arc<DeviceMemory>; 2]],
    half: Half,
    layer: usize,
    name: &str,
) -> Result<&'a Arc<DeviceMemory>, TrtError> {
    let pair = list.get(layer).ok_or_else(|| unknown(name))?;
    Ok(&pair[usize::from(half == Half::Values)])
}

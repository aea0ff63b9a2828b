//! Running what was built: plans that TensorRT has taken, and execution contexts on them. A plan's bytes, shapes and memory
//! flow in; work queued on a stream flows out. What a context reads and writes lives as long as the context, which waits for
//! its stream before it goes.

use super::callbacks::text;
use super::{DELETE, Dims, Flavor, Library, c_text};
use crate::engine::cuda::{DeviceMemory, HostMemory, Stream};
use crate::engine::tensorrt::TrtError;
use crate::engine::tensorrt::slots::ABSENT;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;

/// An object of TensorRT's, deleted when dropped; its library outlives it because its owner keeps both, the library last.
struct Handle(*mut c_void);

impl Handle {
    fn new(object: *mut c_void, what: &str, library: &Library) -> Result<Handle, TrtError> {
        // As in `Owned::new`: small numbers are errors too.
        if (object as usize) < 4096 { Err(library.failed(what)) } else { Ok(Handle(object)) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        call_directly!(self.0, DELETE, fn() -> ());
    }
}

/// An input or output of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: CString,
    /// Sizes; -1: dynamic.
    pub shape: Vec<i64>,
    /// TensorRT's number of its element type.
    pub kind: i32,
    /// Whether it is an input.
    pub input: bool,
    /// Whether TensorRT reads it on the host.
    pub on_host: bool,
    /// The input whose memory this output must share.
    pub shares: Option<String>,
}

/// A plan that TensorRT has taken: its weights are on the device. Fields are dropped in order.
pub struct Plan {
    engine: Handle,
    _runtime: Handle,
    library: Arc<Library>,
    tensors: Vec<Tensor>,
}

// SAFETY: TensorRT's guide names what is done here, reading an engine and making contexts of it, as safe from any thread.
unsafe impl Send for Plan {}
// SAFETY: as for `Send`.
unsafe impl Sync for Plan {}

impl Plan {
    /// Loads a plan onto the device whose context is this thread's.
    ///
    /// # Errors
    /// TensorRT does not take it: another version, another GPU, too little memory.
    pub fn load(library: &Arc<Library>, bytes: &[u8]) -> Result<Plan, TrtError> {
        let runtime = Handle::new(library.create_runtime()?, "no runtime, is the NVIDIA driver there?", library)?;
        let slots = library.slots;
        let deserialize = slots.runtime_deserialize_cuda_engine;
        let (data, size) = (bytes.as_ptr().cast::<c_void>(), bytes.len());
        let engine = call!(runtime.0, deserialize, fn(*const c_void, usize) -> *mut c_void, data, size);
        let engine = Handle::new(engine, "the plan is not taken", library)?;
        let mut plan = Plan { engine, _runtime: runtime, library: Arc::clone(library), tensors: Vec::new() };
        let count = call!(plan.engine.0, slots.cuda_engine_get_nb_io_tensors, fn() -> i32);
        plan.tensors = (0..count).map(|index| plan.tensor(index)).collect::<Result<_, _>>()?;
        Ok(plan)
    }

    fn tensor(&self, index: i32) -> Result<Tensor, TrtError> {
        let (slots, engine) = (self.library.slots, self.engine.0);
        let name = call!(engine, slots.cuda_engine_get_io_tensor_name, fn(i32) -> *const c_char, index);
        let name = c_text(&text(name).unwrap_or_default())?;
        let ask = name.as_ptr();
        let mode = call!(engine, slots.cuda_engine_get_tensor_io_mode, fn(*const c_char) -> c_int, ask);
        let place = call!(engine, slots.cuda_engine_get_tensor_location, fn(*const c_char) -> c_int, ask);
        let input = mode == c_int::from(slots.tensor_iomode_input);
        let shares = match !input && self.knows_sharing() {
            true => {
                let alias = slots.cuda_engine_get_aliased_input_tensor;
                text(call!(engine, alias, fn(*const c_char) -> *const c_char, ask)).map(|name| name.into_owned())
            }
            false => None,
        };
        Ok(Tensor {
            shape: call!(engine, slots.cuda_engine_get_tensor_shape, fn(*const c_char) -> Dims, ask).to_vec(),
            kind: call!(engine, slots.cuda_engine_get_tensor_data_type, fn(*const c_char) -> c_int, ask),
            input,
            on_host: place == c_int::from(slots.tensor_location_host),
            shares,
            name,
        })
    }

    /// Version 10 got in-place caches with 10.15; the table of an older one is shorter than ours, and must not be read there.
    fn knows_sharing(&self) -> bool {
        let library = &self.library;
        let slot = library.slots.cuda_engine_get_aliased_input_tensor;
        slot != ABSENT && (library.flavor != Flavor::Ten || library.version >= 101_500)
    }

    /// Inputs and outputs.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Optimisation profiles.
    pub fn profiles(&self) -> i32 {
        call!(self.engine.0, self.library.slots.cuda_engine_get_nb_optimization_profiles, fn() -> i32)
    }

    /// Least, usual and largest sizes of an input in a profile.
    ///
    /// # Errors
    /// The name has a zero byte.
    pub fn profile_shape(&self, name: &str, profile: i32) -> Result<[Vec<i64>; 3], TrtError> {
        let (slots, name) = (self.library.slots, c_text(name)?);
        let get = slots.cuda_engine_get_profile_shape;
        let each = [slots.opt_profile_selector_min, slots.opt_profile_selector_opt, slots.opt_profile_selector_max];
        Ok(each.map(|which| {
            let (engine, which) = (self.engine.0, c_int::from(which));
            call!(engine, get, fn(*const c_char, i32, c_int) -> Dims, name.as_ptr(), profile, which).to_vec()
        }))
    }

    /// Working memory that a context needs in this profile, bytes.
    pub fn scratch_bytes(&self, profile: i32) -> u64 {
        let get = self.library.slots.cuda_engine_get_device_memory_size_for_profile_v2;
        call!(self.engine.0, get, fn(i32) -> i64, profile).max(0) as u64
    }

    /// A context in one profile, with working memory that it shares with others on the same stream.
    ///
    /// # Errors
    /// TensorRT refuses, or the memory is too small for the profile.
    pub fn context(
        self: &Arc<Plan>,
        profile: i32,
        stream: &Arc<Stream>,
        scratch: &Arc<DeviceMemory>,
    ) -> Result<Context, TrtError> {
        let slots = self.library.slots;
        if (scratch.bytes() as u64) < self.scratch_bytes(profile) {
            return Err(TrtError::Refused("the working memory is smaller than the profile needs".to_owned()));
        }
        let create = slots.cuda_engine_create_execution_context;
        let strategy = c_int::from(slots.execution_context_allocation_strategy_user_managed);
        let object = call!(self.engine.0, create, fn(c_int) -> *mut c_void, strategy);
        let context = Context {
            object: Handle::new(object, "no execution context", &self.library)?,
            plan: Arc::clone(self),
            stream: Arc::clone(stream),
            rooms: vec![None; self.tensors.len()],
            _scratch: Arc::clone(scratch),
            checked: false,
        };
        let (set, raw) = (slots.execution_context_set_optimization_profile_async, stream.raw());
        if !call!(context.object.0, set, fn(i32, *mut c_void) -> bool, profile, raw) {
            return Err(self.library.failed("an optimisation profile is not taken"));
        }
        let set = slots.execution_context_set_device_memory_v2;
        let (at, size) = (scratch.address() as *mut c_void, scratch.bytes() as i64);
        call!(context.object.0, set, fn(*mut c_void, i64) -> (), at, size);
        Ok(context)
    }
}

/// Memory from a byte on.
#[derive(Debug, Clone)]
pub enum Place {
    /// On the device.
    Device(Arc<DeviceMemory>, usize),
    /// On the host, for tensors that TensorRT reads there.
    Host(Arc<HostMemory>, usize),
}

/// A place that a tensor has.
#[derive(Debug, Clone)]
struct Room {
    _place: Place,
    bytes: u64,
}

/// One use of a plan, with its own shapes and addresses, on one stream. Fields are dropped in order.
pub struct Context {
    object: Handle,
    plan: Arc<Plan>,
    stream: Arc<Stream>,
    /// Where each tensor of the plan lies, kept until the context is gone.
    rooms: Vec<Option<Room>>,
    _scratch: Arc<DeviceMemory>,
    /// Sizes and places have not changed since they were checked.
    checked: bool,
}

// SAFETY: a context may be used from any thread, one at a time: every use takes `&mut self`, and it is not `Sync`.
unsafe impl Send for Context {}

impl Context {
    /// Says where the plan's tensor number `index` lies; it may take all that is there from that byte on.
    ///
    /// # Errors
    /// It is not aligned to 256 bytes, or on the wrong side, or TensorRT refuses.
    pub fn place(&mut self, index: usize, place: Place) -> Result<(), TrtError> {
        let plan = Arc::clone(&self.plan);
        let Some(tensor) = plan.tensors.get(index) else {
            return Err(TrtError::Refused(format!("the plan has no tensor number {index}")));
        };
        let (start, size, at, on_host) = match &place {
            Place::Device(memory, at) => (memory.address(), memory.bytes(), *at, false),
            Place::Host(memory, at) => (memory.address(), memory.bytes().len(), *at, true),
        };
        let address = start + at as u64;
        if at >= size || !address.is_multiple_of(256) || on_host != tensor.on_host {
            return Err(TrtError::Refused(format!("{:?} cannot lie at {at} of {size} bytes", tensor.name)));
        }
        let set = plan.library.slots.execution_context_set_tensor_address;
        let (name, pointer) = (tensor.name.as_ptr(), address as *mut c_void);
        if !call!(self.object.0, set, fn(*const c_char, *mut c_void) -> bool, name, pointer) {
            return Err(plan.library.failed(&format!("the place of {:?} is not taken", tensor.name)));
        }
        self.rooms[index] = Some(Room { _place: place, bytes: (size - at) as u64 });
        self.checked = false;
        Ok(())
    }

    /// Sets the sizes of a dynamic input.
    ///
    /// # Errors
    /// They are not within the profile.
    pub fn set_shape(&mut self, index: usize, sizes: &[i64]) -> Result<(), TrtError> {
        let plan = Arc::clone(&self.plan);
        let Some(tensor) = plan.tensors.get(index) else {
            return Err(TrtError::Refused(format!("the plan has no tensor number {index}")));
        };
        let set = plan.library.slots.execution_context_set_input_shape;
        let (name, dims) = (tensor.name.as_ptr(), Dims::new(sizes));
        if !call!(self.object.0, set, fn(*const c_char, *const Dims) -> bool, name, &raw const dims) {
            return Err(plan.library.failed(&format!("sizes {sizes:?} of {:?} are not taken", tensor.name)));
        }
        self.checked = false;
        Ok(())
    }

    /// Whether all sizes are known and every tensor has the room that it needs.
    fn check(&self) -> Result<(), TrtError> {
        let (plan, slots) = (&self.plan, self.plan.library.slots);
        let mut names: [*const c_char; 4] = [std::ptr::null(); 4];
        let (most, list) = (names.len() as i32, names.as_mut_ptr());
        let infer = slots.execution_context_infer_shapes;
        if call!(self.object.0, infer, fn(i32, *mut *const c_char) -> i32, most, list) != 0 {
            let names: Vec<String> = names.iter().filter_map(|&name| Some(text(name)?.into_owned())).collect();
            return Err(plan.library.failed(&format!("inputs are not complete: {}", names.join(", "))));
        }
        for (tensor, room) in plan.tensors.iter().zip(&self.rooms) {
            let (get, name) = (slots.execution_context_get_tensor_shape, tensor.name.as_ptr());
            let sizes = call!(self.object.0, get, fn(*const c_char) -> Dims, name).to_vec();
            let wanted = bytes_of(&sizes, tensor.kind);
            if wanted.is_none_or(|wanted| room.as_ref().is_none_or(|room| room.bytes < wanted)) {
                let text = format!("{:?} with sizes {sizes:?} has no room, or one that is too small", tensor.name);
                return Err(TrtError::Refused(text));
            }
        }
        Ok(())
    }

    /// Queues one run on the context's stream.
    ///
    /// # Errors
    /// An input has no size, a tensor no room, or TensorRT refuses.
    pub fn queue(&mut self) -> Result<(), TrtError> {
        if !self.checked {
            self.check()?;
            self.checked = true;
        }
        let enqueue = self.plan.library.slots.execution_context_enqueue_v3;
        let raw = self.stream.raw();
        match call!(self.object.0, enqueue, fn(*mut c_void) -> bool, raw) {
            true => Ok(()),
            false => Err(self.plan.library.failed("the engine does not run")),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // TensorRT may still work with it; a driver that refuses to wait has stopped working altogether.
        let _ = self.stream.synchronize();
    }
}

/// Bytes of a tensor; `None` if a size or the type is not known.
fn bytes_of(sizes: &[i64], kind: i32) -> Option<u64> {
    let each = match kind {
        0 | 3 => 4,
        1 | 7 => 2,
        2 | 4 | 5 | 6 => 1,
        8 => 8,
        _ => return None,
    };
    sizes.iter().try_fold(each, |bytes: u64, &size| bytes.checked_mul(u64::try_from(size).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_known_only_when_every_size_is() {
        assert_eq!(bytes_of(&[1, 8, 4096, 128], 7), Some(8 * 4096 * 128 * 2));
        assert_eq!(bytes_of(&[], 8), Some(8));
        assert_eq!(bytes_of(&[1, -1], 8), None);
        assert_eq!(bytes_of(&[1], 10), None);
        assert_eq!(bytes_of(&[i64::MAX, i64::MAX], 0), None);
    }
}

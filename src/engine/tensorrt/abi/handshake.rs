//! A runtime for the handshake: does the library that was found answer as its table says, and would it take a plan? A library
//! flows in; yes, or TensorRT's reason, flows out. `execute` runs engines.

use super::{Library, Owned};
use crate::engine::tensorrt::TrtError;
use std::ffi::c_void;

impl Library {
    /// A runtime.
    ///
    /// # Errors
    /// The driver is missing where this TensorRT needs one, or it refuses.
    pub fn runtime(&self) -> Result<Runtime<'_>, TrtError> {
        let object = self.create_runtime()?;
        Ok(Runtime { object: Owned::new(object, "no runtime, is the NVIDIA driver there?", self)?, library: self })
    }
}

/// A runtime.
pub struct Runtime<'a> {
    object: Owned<'a>,
    library: &'a Library,
}

impl Runtime<'_> {
    /// Whether calls arrive where they should: the runtime hands back the logger it was given and keeps a setting.
    pub fn answers(&self) -> bool {
        let (slots, runtime) = (self.library.slots, self.object.object);
        let logger = call!(runtime, slots.runtime_get_logger, fn() -> *mut c_void);
        let set = call!(runtime, slots.runtime_set_max_threads, fn(i32) -> bool, 3);
        let kept = call!(runtime, slots.runtime_get_max_threads, fn() -> i32);
        logger == self.library.logger() && set && kept == 3
    }

    /// Whether it takes the plan. Without a device none is taken, and this says why.
    ///
    /// # Errors
    /// What TensorRT says about the plan or the machine.
    pub fn load(&self, plan: &[u8]) -> Result<(), TrtError> {
        let deserialize = self.library.slots.runtime_deserialize_cuda_engine;
        let (data, size) = (plan.as_ptr().cast::<c_void>(), plan.len());
        let engine = call!(self.object.object, deserialize, fn(*const c_void, usize) -> *mut c_void, data, size);
        Owned::new(engine, "the plan is not taken", self.library).map(drop)
    }
}

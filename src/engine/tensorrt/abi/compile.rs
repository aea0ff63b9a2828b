//! Compiling: a network that TensorRT parsed from ONNX becomes a plan. Bytes, shapes and weights flow in; a plan, a timing cache
//! and what the network's inputs and outputs are flow out. `execute` runs engines.

use super::callbacks::{Monitor, Watch, text};
use super::{Create, CreateFor, Dims, Flavor, Library, Owned, Plain, c_text, open, symbol};
use crate::engine::tensorrt::TrtError;
use crate::engine::tensorrt::slots::{ABSENT, Slots};
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

impl Library {
    /// A builder.
    ///
    /// # Errors
    /// The driver is missing where this TensorRT needs one, or it refuses.
    pub fn builder(&self) -> Result<Builder<'_>, TrtError> {
        if self.flavor != Flavor::Rtx && open(Path::new("libcuda.so.1")).is_err() {
            let text = "libcuda.so.1: TensorRT builds need the NVIDIA driver; `--emit-only` writes what to build from on the device itself";
            return Err(TrtError::NotThere(text.to_owned()));
        }
        let create = symbol::<Create>(&self.file, "createInferBuilder_INTERNAL")?;
        // SAFETY: an exported C function; the logger lives as long as the library, which the builder borrows.
        let object = unsafe { create(self.logger(), self.version) };
        Ok(Builder { object: Owned::new(object, "no builder", self)?, library: self })
    }
}

/// Least, usual and largest sizes of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes {
    /// The input.
    pub name: String,
    /// Least.
    pub min: Vec<i64>,
    /// What is optimised for.
    pub opt: Vec<i64>,
    /// Largest.
    pub max: Vec<i64>,
}

/// An input or output of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Io {
    /// Its name.
    pub name: String,
    /// Sizes; -1: dynamic.
    pub shape: Vec<i64>,
    /// TensorRT's number of its element type.
    pub kind: i32,
}

/// What is to be built.
pub struct Request<'a> {
    /// The bytes of the `.onnx` file.
    pub onnx: &'a [u8],
    /// Where it lies: external data are looked for beside it.
    pub onnx_path: &'a Path,
    /// Weights by name, handed over as they are.
    pub weights: &'a [(&'a str, &'a [u8])],
    /// One list of shapes per optimisation profile.
    pub profiles: &'a [Vec<Shapes>],
    /// Compute capabilities (89, 120); RTX only, else the machine's own.
    pub capabilities: &'a [i32],
    /// What an earlier build measured.
    pub timing_cache: Option<&'a [u8]>,
}

/// What was built.
pub struct Built<'a> {
    /// The engine.
    pub plan: Memory<'a>,
    /// What was measured, for the next build.
    pub timing_cache: Option<Memory<'a>>,
    /// Inputs and outputs of the network.
    pub inputs: Vec<Io>,
    /// Outputs.
    pub outputs: Vec<Io>,
    /// Layers of the network as parsed.
    pub layers: u32,
}

/// Bytes that TensorRT owns.
pub struct Memory<'a> {
    object: Owned<'a>,
    slots: &'static Slots,
}

impl Memory<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let data = call!(self.object.object, self.slots.host_memory_data, fn() -> *const u8);
        let size = call!(self.object.object, self.slots.host_memory_size, fn() -> usize);
        // SAFETY: TensorRT's own block of that size, which lives as long as its object.
        if data.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(data, size) } }
    }
}

/// Builds engines.
pub struct Builder<'a> {
    object: Owned<'a>,
    library: &'a Library,
}

/// Held while the builder compiles: two builds for different GPUs in one process disturb each other (TensorRT-RTX 1.7 then says
/// "Target SM 120 is not found in the accelerator list").
static COMPILING: Mutex<()> = Mutex::new(());

impl<'a> Builder<'a> {
    /// Parses and builds; one build at a time in a process, others wait.
    ///
    /// # Errors
    /// What the parser or the builder refuses, or a cancelled build.
    pub fn build(&self, request: &Request<'_>, watch: &dyn Watch) -> Result<Built<'a>, TrtError> {
        let _alone = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        let (library, slots, builder) = (self.library, self.library.slots, self.object.object);
        // Version 10 must be told to take types as they are; the later ones know nothing else.
        let strongly =
            u32::from(library.flavor == Flavor::Ten) << slots.network_definition_creation_flag_strongly_typed;
        let network = call!(builder, slots.builder_create_network_v2, fn(u32) -> *mut c_void, strongly);
        let network = Owned::new(network, "no network", library)?;
        let _parser = self.parse(&network, request)?;
        let config = call!(builder, slots.builder_create_builder_config, fn() -> *mut c_void);
        let config = Owned::new(config, "no configuration", library)?;
        self.target(&config, request.capabilities)?;
        for shapes in request.profiles {
            self.add_profile(&config, shapes)?;
        }
        let cache = request.timing_cache.unwrap_or_default();
        let create = slots.builder_config_create_timing_cache;
        let (data, size) = (cache.as_ptr().cast::<c_void>(), cache.len());
        let cache = call!(config.object, create, fn(*const c_void, usize) -> *mut c_void, data, size);
        // A cache of another version is no cache: the build goes on without.
        let cache = Owned::new(cache, "no timing cache", library).ok();
        if let Some(cache) = &cache {
            let set = slots.builder_config_set_timing_cache;
            let _ = call!(config.object, set, fn(*mut c_void, bool) -> bool, cache.object, false);
        }
        library.complaints();
        let monitor = Monitor::new(watch);
        let pointer = std::ptr::from_ref(&monitor).cast_mut().cast::<c_void>();
        call!(config.object, slots.builder_config_set_progress_monitor, fn(*mut c_void) -> (), pointer);
        let build = slots.builder_build_serialized_network;
        let plan = call!(builder, build, fn(*mut c_void, *mut c_void) -> *mut c_void, network.object, config.object);
        let plan = Memory { object: Owned::new(plan, "the build failed", library)?, slots };
        let timing_cache = cache.as_ref().and_then(|cache| {
            let memory = call!(cache.object, slots.timing_cache_serialize, fn() -> *mut c_void);
            Owned::new(memory, "", library).ok().map(|object| Memory { object, slots })
        });
        // The configuration goes before the cache that it refers to.
        drop(config);
        drop(cache);
        let list = |count: u16, get: u16| -> Vec<Io> {
            let count = call!(network.object, count, fn() -> i32);
            (0..count).map(|index| io(call!(network.object, get, fn(i32) -> *mut c_void, index), slots)).collect()
        };
        Ok(Built {
            plan,
            timing_cache,
            inputs: list(slots.network_definition_get_nb_inputs, slots.network_definition_get_input),
            outputs: list(slots.network_definition_get_nb_outputs, slots.network_definition_get_output),
            layers: call!(network.object, slots.network_definition_get_nb_layers, fn() -> i32).max(0) as u32,
        })
    }

    fn parse(&self, network: &Owned<'_>, request: &Request<'_>) -> Result<Owned<'a>, TrtError> {
        let (library, slots) = (self.library, self.library.slots);
        let Some(file) = &library.parser else {
            return Err(TrtError::NotThere("the library that parses ONNX is not beside TensorRT".to_owned()));
        };
        let create = symbol::<CreateFor>(file, "createNvOnnxParser_INTERNAL")?;
        let version = symbol::<Plain>(file, "getNvOnnxParserVersion")?;
        // SAFETY: exported C functions; the parser is dropped before the network and the logger.
        let parser = unsafe { create(network.object, library.logger(), version()) };
        let mut parser = Owned::new(parser, "no ONNX parser", library)?;
        parser.delete = slots.parser_destroy + 1;
        let path = c_text(&request.onnx_path.to_string_lossy())?;
        let (data, size) = (request.onnx.as_ptr().cast::<c_void>(), request.onnx.len());
        let load = slots.parser_load_model_proto;
        let mut good = call_directly!(
            parser.object,
            load,
            fn(*const c_void, usize, *const c_char) -> bool,
            data,
            size,
            path.as_ptr()
        );
        for (name, bytes) in request.weights {
            let name = c_text(name)?;
            let (data, size) = (bytes.as_ptr().cast::<c_void>(), bytes.len());
            good = good
                && call_directly!(
                    parser.object,
                    slots.parser_load_initializer,
                    fn(*const c_char, *const c_void, usize) -> bool,
                    name.as_ptr(),
                    data,
                    size
                );
        }
        good = good && call_directly!(parser.object, slots.parser_parse_model_proto, fn() -> bool);
        if good {
            return Ok(parser);
        }
        let count = call_directly!(parser.object, slots.parser_get_nb_errors, fn() -> i32);
        let errors: Vec<String> = (0..count.min(8))
            .filter_map(|index| {
                let error = call_directly!(parser.object, slots.parser_get_error, fn(i32) -> *mut c_void, index);
                let said = call_directly!(error, slots.parser_error_desc, fn() -> *const c_char);
                text(said).map(std::borrow::Cow::into_owned)
            })
            .collect();
        Err(library.failed(&format!("the parser refuses {}: {}", request.onnx_path.display(), errors.join("; "))))
    }

    fn target(&self, config: &Owned<'_>, capabilities: &[i32]) -> Result<(), TrtError> {
        let slots = self.library.slots;
        if capabilities.is_empty() {
            return Ok(());
        }
        if slots.builder_config_set_compute_capability == ABSENT {
            let text = "this TensorRT builds for the GPU of its own machine only; `--emit-only` writes what that machine needs";
            return Err(TrtError::Refused(text.to_owned()));
        }
        let count = slots.builder_config_set_nb_compute_capabilities;
        let mut good = call!(config.object, count, fn(i32) -> bool, capabilities.len() as i32);
        for (index, capability) in capabilities.iter().enumerate() {
            let set = slots.builder_config_set_compute_capability;
            good &= call!(config.object, set, fn(i32, i32) -> bool, *capability, index as i32);
        }
        if good { Ok(()) } else { Err(self.library.failed("it does not build for this GPU")) }
    }

    fn add_profile(&self, config: &Owned<'_>, shapes: &[Shapes]) -> Result<(), TrtError> {
        let slots = self.library.slots;
        // The builder owns its profiles.
        let profile = call!(self.object.object, slots.builder_create_optimization_profile, fn() -> *mut c_void);
        if (profile as usize) < 4096 {
            return Err(self.library.failed("no optimisation profile"));
        }
        for shape in shapes {
            let name = c_text(&shape.name)?;
            let each = [
                (slots.opt_profile_selector_min, &shape.min),
                (slots.opt_profile_selector_opt, &shape.opt),
                (slots.opt_profile_selector_max, &shape.max),
            ];
            for (selector, sizes) in each {
                let (set, dims) = (slots.optimization_profile_set_dimensions, Dims::new(sizes));
                let (selector, dims) = (i32::from(selector), &raw const dims);
                if !call!(profile, set, fn(*const c_char, i32, *const Dims) -> bool, name.as_ptr(), selector, dims) {
                    return Err(self.library.failed(&format!("shapes of {} are refused", shape.name)));
                }
            }
        }
        let index =
            call!(config.object, slots.builder_config_add_optimization_profile, fn(*mut c_void) -> i32, profile);
        if index >= 0 { Ok(()) } else { Err(self.library.failed("an optimisation profile is refused")) }
    }
}

fn io(tensor: *mut c_void, slots: &Slots) -> Io {
    let name = call!(tensor, slots.tensor_get_name, fn() -> *const c_char);
    let dims = call!(tensor, slots.tensor_get_dimensions, fn() -> Dims);
    Io {
        name: text(name).unwrap_or_default().into_owned(),
        shape: dims.to_vec(),
        kind: call!(tensor, slots.tensor_get_type, fn() -> i32),
    }
}

//! TensorRT's C++ interfaces, called through their virtual tables: the one place of `unsafe` for TensorRT. A library that was
//! found at run time flows in; builders, networks and plans as safe values flow out. No header and no SDK is needed.
//!
//! A TensorRT object is `{ vptr, implementation }`; its methods lie in the table of the implementation, at slots that
//! `slots.rs` holds per version (Itanium C++ ABI). Callbacks are objects of ours with tables of ours.

mod callbacks;

pub use callbacks::Watch;

use self::callbacks::{Logger, Monitor, text};
use super::TrtError;
use super::slots::{ABSENT, RTX, Slots, V10, V11};
use libloading::Library as File;
use std::ffi::{CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Which TensorRT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// TensorRT 10, as on JetPack 7.
    Ten,
    /// TensorRT 11.
    Eleven,
    /// TensorRT-RTX 1.5 and newer.
    Rtx,
}

/// Sizes of a tensor; -1: chosen at run time.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Dims {
    count: i32,
    sizes: [i64; 8],
}

impl Dims {
    fn new(sizes: &[i64]) -> Dims {
        let mut dims = Dims { count: sizes.len().min(8) as i32, sizes: [0; 8] };
        dims.sizes.iter_mut().zip(sizes).for_each(|(to, from)| *to = *from);
        dims
    }

    #[cfg(feature = "tensorrt")]
    fn to_vec(self) -> Vec<i64> {
        self.sizes[..self.count.clamp(0, 8) as usize].to_vec()
    }
}

/// `{ vptr }` of an implementation or of an interface that is called directly.
#[repr(C)]
struct Implementation {
    table: *const *const c_void,
}

/// `{ vptr, implementation }` of a public object.
#[repr(C)]
struct Public {
    table: *const *const c_void,
    implementation: *mut Implementation,
}

/// Calls the method at a slot of an object's implementation; the signature is `this` and the types given.
macro_rules! call {
    ($object:expr, $slot:expr, fn($($type:ty),*) -> $returns:ty $(, $argument:expr)*) => {{
        let slot: u16 = $slot;
        assert!(slot != $crate::engine::tensorrt::slots::ABSENT, "the caller checks what this version lacks");
        // SAFETY: the object is alive, its wrapper owns it or borrows its owner; slot and signature are those of the
        // version that was loaded, proven against its headers (tests/trt/slots.py).
        unsafe {
            let this = (*$object.cast::<$crate::engine::tensorrt::abi::Public>()).implementation;
            let entry = *(*this).table.add(usize::from(slot));
            let method: unsafe extern "C" fn(*mut $crate::engine::tensorrt::abi::Implementation $(, $type)*) -> $returns =
                std::mem::transmute(entry);
            method(this $(, $argument)*)
        }
    }};
}

/// Calls the method at a slot of the object itself: parsers, their errors, and destructors of all objects.
macro_rules! call_directly {
    ($object:expr, $slot:expr, fn($($type:ty),*) -> $returns:ty $(, $argument:expr)*) => {{
        let slot: u16 = $slot;
        // SAFETY: as in `call!`.
        unsafe {
            let this = $object.cast::<$crate::engine::tensorrt::abi::Implementation>();
            let entry = *(*this).table.add(usize::from(slot));
            let method: unsafe extern "C" fn(*mut $crate::engine::tensorrt::abi::Implementation $(, $type)*) -> $returns =
                std::mem::transmute(entry);
            method(this $(, $argument)*)
        }
    }};
}

#[cfg(feature = "tensorrt")]
mod execute;
mod handshake;
#[cfg(feature = "tensorrt")]
pub use execute::{Context, Place, Plan, Tensor};
pub use handshake::Runtime;

/// Slot of the deleting destructor of TensorRT's public objects, the first virtual method of `INoCopy`.
const DELETE: u16 = 1;

/// An object that is deleted when dropped.
struct Owned<'a> {
    object: *mut c_void,
    delete: u16,
    library: PhantomData<&'a Library>,
}

impl Owned<'_> {
    fn new<'a>(object: *mut c_void, what: &str, library: &Library) -> Result<Owned<'a>, TrtError> {
        // Some versions answer a missing driver with a small number instead of null.
        if (object as usize) < 4096 {
            return Err(library.failed(what));
        }
        Ok(Owned { object, delete: DELETE, library: PhantomData })
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        call_directly!(self.object, self.delete, fn() -> ());
    }
}

/// A TensorRT that was loaded.
pub struct Library {
    file: File,
    parser: Option<File>,
    logger: Box<Logger>,
    slots: &'static Slots,
    /// Which.
    pub flavor: Flavor,
    /// As its headers count: 101602 is 10.16.2, 10701 is RTX 1.7.1.
    pub version: i32,
}

// SAFETY: the logger is behind a mutex, everything else is constant after loading; TensorRT's entry points are thread-safe.
unsafe impl Send for Library {}
// SAFETY: as for `Send`.
unsafe impl Sync for Library {}

type Plain = unsafe extern "C" fn() -> c_int;
type Create = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;
type CreateFor = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> *mut c_void;

fn open(path: &Path) -> Result<File, TrtError> {
    // SAFETY: loading runs the library's initialisers; it is NVIDIA's library or what the user named as such.
    unsafe { File::new(path) }.map_err(|error| TrtError::NotThere(format!("{}: {error}", path.display())))
}

fn symbol<T: Copy>(file: &File, name: &str) -> Result<T, TrtError> {
    // SAFETY: the callers' types are those of NVIDIA's headers for these exported C functions.
    let found = unsafe { file.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| TrtError::Foreign(format!("it does not export {name}")))
}

/// Which table fits a version, or one sentence why none does.
pub fn gate(major: i32, version: i32) -> Result<(Flavor, &'static Slots), TrtError> {
    match (major, version) {
        (10, 101_300..) => Ok((Flavor::Ten, &V10)),
        (11, _) => Ok((Flavor::Eleven, &V11)),
        (1, 10_500..) => Ok((Flavor::Rtx, &RTX)),
        (10, _) => {
            Err(TrtError::Foreign(format!("TensorRT {version} is older than 10.13; JetPack 7.0 or newer has it")))
        }
        (1, _) => Err(TrtError::Foreign(format!("TensorRT-RTX {version} has another layout; 1.5 or newer is needed"))),
        _ => Err(TrtError::Foreign(format!(
            "TensorRT {major} ({version}) is not known; 10.13 to 11 and RTX 1.5 and newer are"
        ))),
    }
}

impl Library {
    /// Loads `library`, and `parser` for reading ONNX.
    ///
    /// # Errors
    /// A file that cannot be loaded, or a version that is not known.
    pub fn open(library: &Path, parser: Option<&Path>) -> Result<Library, TrtError> {
        let file = open(library)?;
        let (major, version) =
            (symbol::<Plain>(&file, "getInferLibMajorVersion")?, symbol::<Plain>(&file, "getInferLibVersion")?);
        // SAFETY: exported C functions without arguments.
        let (major, version) = unsafe { (major(), version()) };
        let (flavor, slots) = gate(major, version)?;
        let logger = Logger::new(flavor);
        Ok(Library { file, parser: parser.map(open).transpose()?, logger, slots, flavor, version })
    }

    /// For people: `TensorRT 10.16.2`, `TensorRT-RTX 1.7.1`.
    pub fn describe(&self) -> String {
        let name = if self.flavor == Flavor::Rtx { "TensorRT-RTX" } else { "TensorRT" };
        let version = self.version;
        format!("{name} {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    fn logger(&self) -> *mut c_void {
        std::ptr::from_ref::<Logger>(&self.logger).cast_mut().cast()
    }

    /// What it complained about since the last call.
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut *self.logger.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, what: &str) -> TrtError {
        let said = self.complaints().join("; ");
        TrtError::Refused(if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") })
    }

    /// A runtime that nobody owns yet, or a small number.
    fn create_runtime(&self) -> Result<*mut c_void, TrtError> {
        let create = symbol::<Create>(&self.file, "createInferRuntime_INTERNAL")?;
        // SAFETY: an exported C function; the logger lives as long as the library, which the runtime's owner keeps. Without a
        // driver TensorRT answers with a small number, which `Owned::new` takes for what it is.
        Ok(unsafe { create(self.logger(), self.version) })
    }

    /// A builder.
    ///
    /// # Errors
    /// The driver is missing where this TensorRT needs one, or it refuses.
    pub fn builder(&self) -> Result<Builder<'_>, TrtError> {
        if self.flavor != Flavor::Rtx && open(Path::new("libcuda.so.1")).is_err() {
            return Err(TrtError::NotThere("libcuda.so.1: TensorRT builds need the NVIDIA driver".to_owned()));
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

fn c_text(text: &str) -> Result<CString, TrtError> {
    CString::new(text).map_err(|_| TrtError::Refused(format!("{text:?} contains a zero byte")))
}

fn io(tensor: *mut c_void, slots: &Slots) -> Io {
    let name = call!(tensor, slots.tensor_get_name, fn() -> *const c_char);
    let dims = call!(tensor, slots.tensor_get_dimensions, fn() -> Dims);
    let count = dims.count.clamp(0, 8) as usize;
    Io {
        name: text(name).unwrap_or_default().into_owned(),
        shape: dims.sizes[..count].to_vec(),
        kind: call!(tensor, slots.tensor_get_type, fn() -> i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_choose_their_table_and_others_are_refused_in_one_sentence() {
        assert_eq!(gate(10, 101_303).map(|(flavor, _)| flavor).ok(), Some(Flavor::Ten));
        assert_eq!(gate(10, 101_602).map(|(flavor, _)| flavor).ok(), Some(Flavor::Ten));
        assert_eq!(gate(11, 110_400).map(|(flavor, _)| flavor).ok(), Some(Flavor::Eleven));
        assert_eq!(gate(1, 10_701).map(|(flavor, _)| flavor).ok(), Some(Flavor::Rtx));
        for (major, version, says) in
            [(1, 10_400, "1.5"), (10, 100_300, "10.13"), (8, 80_601, "not known"), (12, 120_000, "not known")]
        {
            let error = gate(major, version).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{major}: {error}");
        }
    }

    #[test]
    fn a_small_number_instead_of_an_object_is_an_error() {
        // What 10.16 and 11.4 return when the driver is missing.
        let logger = Logger::new(Flavor::Ten);
        let file = open(Path::new("libc.so.6")).expect("Linux");
        let library = Library { file, parser: None, logger, slots: &V10, flavor: Flavor::Ten, version: 101_602 };
        for bogus in [0usize, 0x228] {
            assert!(Owned::new(bogus as *mut c_void, "no builder", &library).is_err());
        }
        assert_eq!(library.describe(), "TensorRT 10.16.2");
    }
}

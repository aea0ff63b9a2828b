//! TensorRT's C++ interfaces, called through their virtual tables: the one place of `unsafe` for TensorRT. A library that was
//! found at run time flows in; builders, networks and plans as safe values flow out. No header and no SDK is needed.
//!
//! A TensorRT object is `{ vptr, implementation }`; its methods lie in the table of the implementation, at slots that
//! `slots.rs` holds per version (Itanium C++ ABI). Callbacks are objects of ours with tables of ours.

mod callbacks;

pub use callbacks::Watch;

use self::callbacks::Logger;
use super::TrtError;
use super::slots::{RTX, Slots, V10, V11};
use libloading::Library as File;
use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::PoisonError;

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

mod compile;
#[cfg(feature = "tensorrt")]
mod execute;
mod handshake;
pub use compile::{Builder, Built, Io, Memory, Request, Shapes};
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
}

fn c_text(text: &str) -> Result<CString, TrtError> {
    CString::new(text).map_err(|_| TrtError::Refused(format!("{text:?} contains a zero byte")))
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

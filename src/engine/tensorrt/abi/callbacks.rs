//! Objects of ours that TensorRT calls: a logger and a progress monitor, with virtual tables made by hand. What TensorRT says
//! flows in; complaints and progress flow out. The layouts are proven with those of the methods (tests/trt/slots.py).

use super::Flavor;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::PoisonError;

#[repr(C)]
struct InterfaceInfo {
    kind: *const c_char,
    major: i32,
    minor: i32,
}

/// A table of ours: pointers to functions, never written.
struct Table<const N: usize>([*const c_void; N]);
// SAFETY: the pointers are to functions and the table is constant.
unsafe impl<const N: usize> Sync for Table<N> {}

extern "C" fn destroy(_: *mut c_void) {}
extern "C" fn language(_: *const c_void) -> c_int {
    0
}
extern "C" fn logger_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo { kind: c"ILogger".as_ptr(), major: 1, minor: 0 }
}
extern "C" fn monitor_info(_: *const c_void) -> InterfaceInfo {
    InterfaceInfo { kind: c"IProgressMonitor".as_ptr(), major: 1, minor: 0 }
}

/// Messages that are kept.
const MESSAGES: usize = 64;

/// Keeps what TensorRT complains about.
#[repr(C)]
pub(super) struct Logger {
    table: *const *const c_void,
    pub(super) said: Mutex<Vec<String>>,
}

extern "C" fn log(logger: *const Logger, severity: c_int, text: *const c_char) {
    if severity > 2 || text.is_null() {
        return;
    }
    // SAFETY: TensorRT calls with the logger it was given, which the library keeps, and a C string.
    let (logger, text) = unsafe { (&*logger, CStr::from_ptr(text)) };
    let text = text.to_string_lossy();
    if severity == 2 {
        return tracing::debug!(target: "tensorrt", "{text}");
    }
    let mut said = logger.said.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() < MESSAGES {
        said.push(text.into_owned());
    }
}

static LOGGER_10: Table<3> = Table([log as *const c_void, destroy as *const c_void, destroy as *const c_void]);
static LOGGER_11: Table<5> = Table([
    language as *const c_void,
    logger_info as *const c_void,
    destroy as *const c_void,
    destroy as *const c_void,
    log as *const c_void,
]);

/// Sees a build while it happens; may be called from several threads.
pub trait Watch: Sync {
    /// A phase of so many steps begins, inside `parent` if there is one.
    fn phase(&self, name: &str, parent: Option<&str>, steps: u32);
    /// A step of a phase is over; false cancels the build.
    fn step(&self, phase: &str, step: u32) -> bool;
    /// A phase is over.
    fn finished(&self, name: &str);
}

/// Tells a watch how a build is going.
#[repr(C)]
pub(super) struct Monitor<'a> {
    table: *const *const c_void,
    watch: &'a dyn Watch,
}

/// A C string of TensorRT's.
pub(super) fn text<'a>(pointer: *const c_char) -> Option<std::borrow::Cow<'a, str>> {
    // SAFETY: TensorRT's strings end with a zero and live as long as their object, which the caller borrows.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy())
}

extern "C" fn phase_start(monitor: *const Monitor<'_>, name: *const c_char, parent: *const c_char, steps: i32) {
    // SAFETY: TensorRT calls with the monitor it was given, which lives until the build returns.
    let watch = unsafe { &*monitor }.watch;
    watch.phase(&text(name).unwrap_or_default(), text(parent).as_deref(), steps.max(0) as u32);
}
extern "C" fn step_complete(monitor: *const Monitor<'_>, name: *const c_char, step: i32) -> bool {
    // SAFETY: as in `phase_start`.
    unsafe { &*monitor }.watch.step(&text(name).unwrap_or_default(), step.max(0) as u32)
}
extern "C" fn phase_finish(monitor: *const Monitor<'_>, name: *const c_char) {
    // SAFETY: as in `phase_start`.
    unsafe { &*monitor }.watch.finished(&text(name).unwrap_or_default());
}

static MONITOR: Table<7> = Table([
    language as *const c_void,
    monitor_info as *const c_void,
    destroy as *const c_void,
    destroy as *const c_void,
    phase_start as *const c_void,
    step_complete as *const c_void,
    phase_finish as *const c_void,
]);

impl Logger {
    /// A logger as this version calls it.
    pub(super) fn new(flavor: Flavor) -> Box<Logger> {
        let table = if flavor == Flavor::Ten { LOGGER_10.0.as_ptr() } else { LOGGER_11.0.as_ptr() };
        Box::new(Logger { table, said: Mutex::new(Vec::new()) })
    }
}

impl<'a> Monitor<'a> {
    /// A monitor that tells `watch`.
    pub(super) fn new(watch: &'a dyn Watch) -> Monitor<'a> {
        Monitor { table: MONITOR.0.as_ptr(), watch }
    }
}

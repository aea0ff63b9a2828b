//! The driver and one of its devices. A number flows in; a device with its properties flows out, or one sentence that says
//! what is missing. `cudarc` panics over a library or a function that is not there, so both are looked for first.

use super::{CudaError, DeviceMemory, HostMemory, cuda};
use cudarc::driver::sys::{self, CUdevice_attribute};
use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

/// Functions that every use of a device needs. Those of partitions are looked for when one is made.
const FUNCTIONS: [&CStr; 39] = [
    c"cuInit",
    c"cuDriverGetVersion",
    c"cuDeviceGetCount",
    c"cuDeviceGet",
    c"cuDeviceGetName",
    c"cuDeviceTotalMem_v2",
    c"cuDeviceGetAttribute",
    c"cuDevicePrimaryCtxRetain",
    c"cuDevicePrimaryCtxRelease_v2",
    c"cuCtxSetCurrent",
    c"cuCtxSynchronize",
    c"cuCtxGetStreamPriorityRange",
    c"cuMemGetInfo_v2",
    c"cuMemAlloc_v2",
    c"cuMemFree_v2",
    c"cuMemHostAlloc",
    c"cuMemFreeHost",
    c"cuMemcpyHtoDAsync_v2",
    c"cuMemcpyDtoHAsync_v2",
    c"cuMemcpyDtoDAsync_v2",
    c"cuMemcpy2DAsync_v2",
    c"cuMemsetD8Async",
    c"cuStreamCreateWithPriority",
    c"cuStreamDestroy_v2",
    c"cuStreamSynchronize",
    c"cuStreamWaitEvent",
    c"cuStreamBeginCapture_v2",
    c"cuStreamEndCapture",
    c"cuEventCreate",
    c"cuEventDestroy_v2",
    c"cuEventRecord",
    c"cuEventQuery",
    c"cuEventSynchronize",
    c"cuEventElapsedTime_v2",
    c"cuGraphInstantiateWithFlags",
    c"cuGraphLaunch",
    c"cuGraphExecDestroy",
    c"cuGraphDestroy",
    c"cuLaunchKernel",
];

/// Whether a driver is installed.
pub fn driver_is_there() -> bool {
    // SAFETY: this loads libcuda and runs its initialisers, nothing else.
    unsafe { sys::is_culib_present() }
}

/// The first of these functions that the driver lacks. The driver must be there.
pub(super) fn lacks(functions: &[&'static CStr]) -> Option<&'static CStr> {
    let missing = |name: &&'static CStr| {
        // SAFETY: the library is there, as the caller knows; the symbol is only looked for, never called through this type.
        unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.to_bytes_with_nul()) }.is_err()
    };
    functions.iter().copied().find(missing)
}

/// A GPU and this process's context on it.
#[derive(Debug)]
pub struct Device {
    number: sys::CUdevice,
    context: sys::CUcontext,
    /// Its name.
    pub name: String,
    /// Compute capability, 110 for 11.0.
    pub capability: i32,
    /// Its memory, bytes.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Whether it shares the host's memory, as a Jetson's does.
    pub integrated: bool,
    /// The most that the driver supports: 13000 is CUDA 13.0.
    pub driver_version: i32,
    /// Highest clock, MHz.
    pub clock_mhz: u32,
}

// SAFETY: the driver's handles may be used from any thread, and the driver synchronises.
unsafe impl Send for Device {}
// SAFETY: as for `Send`; a device is never changed after it was opened.
unsafe impl Sync for Device {}

impl Device {
    /// Opens device `number`, 0 for the first.
    ///
    /// # Errors
    /// No driver, one that is too old, no such device, or a driver that refuses.
    pub fn open(number: i32) -> Result<Arc<Device>, CudaError> {
        if !driver_is_there() {
            let text = "libcuda.so.1 is not there; NVIDIA's driver brings it (on a Jetson, JetPack)";
            return Err(CudaError::Absent(text.to_owned()));
        }
        if let Some(name) = lacks(&FUNCTIONS) {
            let text = format!("the driver has no {}; one for CUDA 13.0 or newer is needed", name.to_string_lossy());
            return Err(CudaError::Absent(text));
        }
        cuda!(cuInit(0)).map_err(|error| CudaError::Absent(error.to_string()))?;
        let (mut count, mut driver_version): (c_int, c_int) = (0, 0);
        cuda!(cuDeviceGetCount(&mut count))?;
        cuda!(cuDriverGetVersion(&mut driver_version))?;
        if !(0..count).contains(&number) {
            return Err(CudaError::Absent(format!(
                "the driver shows {count} devices, number {number} is none of them"
            )));
        }
        let mut device: sys::CUdevice = 0;
        cuda!(cuDeviceGet(&mut device, number))?;
        let mut name = [0 as c_char; 128];
        cuda!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device))?;
        let bytes: Vec<u8> = name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
        let mut memory = 0usize;
        cuda!(cuDeviceTotalMem_v2(&mut memory, device))?;
        let ask = |attribute: CUdevice_attribute| -> Result<c_int, CudaError> {
            let mut value: c_int = 0;
            cuda!(cuDeviceGetAttribute(&mut value, attribute, device))?;
            Ok(value)
        };
        let capability = 10 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
            + ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let integrated = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
        let clock_khz = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        let mut context: sys::CUcontext = std::ptr::null_mut();
        cuda!(cuDevicePrimaryCtxRetain(&mut context, device))?;
        let device = Device {
            number: device,
            context,
            name: String::from_utf8_lossy(&bytes).into_owned(),
            capability,
            memory_bytes: memory as u64,
            multiprocessors: multiprocessors.max(1) as u32,
            integrated,
            driver_version,
            clock_mhz: (clock_khz / 1_000).max(0) as u32,
        };
        device.bind()?;
        Ok(Arc::new(device))
    }

    /// Makes the device's context this thread's own; everything that needs it does so itself, except TensorRT.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn bind(&self) -> Result<(), CudaError> {
        cuda!(cuCtxSetCurrent(self.context))
    }

    /// The driver's number of the device.
    pub(super) fn number(&self) -> sys::CUdevice {
        self.number
    }

    /// Waits until nothing runs on it any more.
    ///
    /// # Errors
    /// The driver refuses, or something that ran failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        cuda!(cuCtxSynchronize())
    }

    /// Memory that is free at the moment, bytes.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn free_bytes(&self) -> Result<u64, CudaError> {
        self.bind()?;
        let (mut free, mut total) = (0usize, 0usize);
        cuda!(cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok(free as u64)
    }

    /// Memory of the device, not initialised.
    ///
    /// # Errors
    /// There is not so much left.
    pub fn memory(self: &Arc<Device>, bytes: usize) -> Result<Arc<DeviceMemory>, CudaError> {
        DeviceMemory::new(self, bytes)
    }

    /// Memory of the host that the device reads and writes directly, filled with zeros.
    ///
    /// # Errors
    /// There is not so much left.
    pub fn pinned(self: &Arc<Device>, bytes: usize) -> Result<Arc<HostMemory>, CudaError> {
        HostMemory::new(self, bytes)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing can be done about a driver that refuses here.
        let _ = cuda!(cuDevicePrimaryCtxRelease_v2(self.number));
    }
}

//! Green contexts: a device divided into two parts of its multiprocessors, with streams of their own. A number of
//! multiprocessors flows in; two parts flow out. They share the memory's bandwidth, and nothing should run on the whole device
//! beside them.

use super::device::lacks;
use super::{CudaError, Device, Priority, Stream, cuda};
use cudarc::driver::sys;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::Arc;

const FUNCTIONS: [&CStr; 6] = [
    c"cuDeviceGetDevResource",
    c"cuDevSmResourceSplitByCount",
    c"cuDevResourceGenerateDesc",
    c"cuGreenCtxCreate",
    c"cuGreenCtxDestroy",
    c"cuGreenCtxStreamCreate",
];

/// A part of a device.
#[derive(Debug)]
pub struct Partition {
    handle: sys::CUgreenCtx,
    device: Arc<Device>,
    /// Multiprocessors that it has.
    pub multiprocessors: u32,
}

// SAFETY: the driver's handles may be used from any thread, and the driver synchronises.
unsafe impl Send for Partition {}
// SAFETY: as for `Send`.
unsafe impl Sync for Partition {}

/// Divides the device: at least `wanted` multiprocessors for the first part, the rest for the second.
///
/// # Errors
/// The driver is too old, or the device cannot be divided so.
pub fn split(device: &Arc<Device>, wanted: u32) -> Result<(Arc<Partition>, Arc<Partition>), CudaError> {
    if let Some(name) = lacks(&FUNCTIONS) {
        return Err(CudaError::Absent(format!("the driver has no {}", name.to_string_lossy())));
    }
    device.bind()?;
    let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    let (mut whole, mut first, mut rest) = (resource(), resource(), resource());
    cuda!(cuDeviceGetDevResource(device.number(), whole.as_mut_ptr(), kind))?;
    let mut groups = 1u32;
    cuda!(cuDevSmResourceSplitByCount(first.as_mut_ptr(), &mut groups, whole.as_ptr(), rest.as_mut_ptr(), 0, wanted))?;
    if groups != 1 {
        let text = format!("{wanted} multiprocessors cannot be set apart");
        return Err(CudaError::Bounds(text));
    }
    Ok((part(device, &mut first)?, part(device, &mut rest)?))
}

/// Zeros until the driver has filled it in.
fn resource() -> MaybeUninit<sys::CUdevResource> {
    MaybeUninit::zeroed()
}

fn part(device: &Arc<Device>, resource: &mut MaybeUninit<sys::CUdevResource>) -> Result<Arc<Partition>, CudaError> {
    // SAFETY: the driver has filled in the resource, and as one of multiprocessors.
    let multiprocessors = unsafe { resource.assume_init_ref().__bindgen_anon_1.sm.smCount };
    let mut description: sys::CUdevResourceDesc = std::ptr::null_mut();
    cuda!(cuDevResourceGenerateDesc(&mut description, resource.as_mut_ptr(), 1))?;
    let mut handle: sys::CUgreenCtx = std::ptr::null_mut();
    let flags = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
    cuda!(cuGreenCtxCreate(&mut handle, description, device.number(), flags))?;
    Ok(Arc::new(Partition { handle, device: Arc::clone(device), multiprocessors }))
}

impl Partition {
    /// A stream whose kernels run on this part only.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn stream(self: &Arc<Partition>, priority: Priority) -> Result<Arc<Stream>, CudaError> {
        let priority = priority.number(&self.device)?;
        let mut handle: sys::CUstream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        cuda!(cuGreenCtxStreamCreate(&mut handle, self.handle, flags, priority))?;
        Ok(Stream::on_partition(handle, &self.device, self))
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        let _ = cuda!(cuGreenCtxDestroy(self.handle));
    }
}

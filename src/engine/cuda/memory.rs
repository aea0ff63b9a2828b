//! Memory of a device, and memory of the host that a device reaches directly. Sizes flow in; shared buffers flow out, freed
//! when the last owner is gone and the device has come to rest.

use super::{CudaError, Device, cuda};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Bytes on a device. The host cannot look into them; streams copy.
#[derive(Debug)]
pub struct DeviceMemory {
    address: sys::CUdeviceptr,
    bytes: usize,
    device: Arc<Device>,
}

impl DeviceMemory {
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Arc<DeviceMemory>, CudaError> {
        device.bind()?;
        let mut address: sys::CUdeviceptr = 0;
        // The driver refuses to allocate nothing.
        cuda!(cuMemAlloc_v2(&mut address, bytes.max(1)))?;
        Ok(Arc::new(DeviceMemory { address, bytes, device: Arc::clone(device) }))
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies, for the device; aligned to 256 bytes.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // Nothing that may still use it runs after this; a driver that refuses keeps the memory.
        let _ = self.device.synchronize();
        let _ = cuda!(cuMemFree_v2(self.address));
    }
}

/// Bytes of the host that stay where they are and that the device reaches directly. They are seen as atomics only, since the
/// device may write them at any time.
#[derive(Debug)]
pub struct HostMemory {
    start: *mut u8,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: it is plain memory, seen as atomics only.
unsafe impl Send for HostMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Arc<HostMemory>, CudaError> {
        device.bind()?;
        let bytes = bytes.max(1).next_multiple_of(8);
        let mut start: *mut c_void = std::ptr::null_mut();
        cuda!(cuMemHostAlloc(&mut start, bytes, sys::CU_MEMHOSTALLOC_PORTABLE))?;
        let memory = Arc::new(HostMemory { start: start.cast(), bytes, device: Arc::clone(device) });
        memory.bytes().iter().for_each(|byte| byte.store(0, Ordering::Relaxed));
        Ok(memory)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the driver allocated so many bytes, which stay until `self` is gone; atomics may change under a reader.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes) }
    }

    /// As words of 32 bits.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: as for `bytes`; the driver's memory begins at a page.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes / 4) }
    }

    /// As words of 64 bits.
    pub fn long_words(&self) -> &[AtomicU64] {
        // SAFETY: as for `words`.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes / 8) }
    }

    /// Where it begins, for the host and, since addresses are shared, for the device.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Copies numbers of 32 bits out of its beginning.
    pub fn read_floats(&self, into: &mut [f32]) {
        for (to, from) in into.iter_mut().zip(self.words()) {
            *to = f32::from_bits(from.load(Ordering::Relaxed));
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // As for `DeviceMemory`.
        let _ = self.device.synchronize();
        let _ = cuda!(cuMemFreeHost(self.start.cast()));
    }
}

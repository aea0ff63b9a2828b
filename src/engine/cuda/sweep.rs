//! A kernel that reads memory and does nothing with it: the load of a decoder without its numbers. A buffer flows in; time
//! flows out. Its PTX is compiled by the driver, so that no CUDA toolkit is needed.

use super::device::lacks;
use super::{CudaError, Device, DeviceMemory, Stream, cuda, within};
use cudarc::driver::sys;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Bytes that one thread reads at a time.
const GRAIN: usize = 16;

/// The kernel, on every stream and partition of its device.
#[derive(Debug)]
pub struct Sweep {
    library: sys::CUlibrary,
    kernel: sys::CUkernel,
    device: Arc<Device>,
    to: Arc<DeviceMemory>,
}

// SAFETY: the driver's handles may be used from any thread, and the driver synchronises.
unsafe impl Send for Sweep {}
// SAFETY: as for `Send`.
unsafe impl Sync for Sweep {}

impl Sweep {
    /// Compiles it for the device.
    ///
    /// # Errors
    /// The driver is too old or cannot compile it.
    pub fn new(device: &Arc<Device>) -> Result<Sweep, CudaError> {
        if let Some(name) = lacks(&[c"cuLibraryLoadData", c"cuLibraryGetKernel", c"cuLibraryUnload"]) {
            return Err(CudaError::Absent(format!("the driver has no {}", name.to_string_lossy())));
        }
        let to = device.memory(256)?;
        let text = CString::new(include_str!("sweep.ptx")).unwrap_or_default();
        let none = std::ptr::null_mut();
        let mut library: sys::CUlibrary = std::ptr::null_mut();
        let code = text.as_ptr().cast::<c_void>();
        cuda!(cuLibraryLoadData(
            &mut library,
            code,
            none,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0
        ))?;
        let mut sweep = Sweep { library, kernel: std::ptr::null_mut(), device: Arc::clone(device), to };
        cuda!(cuLibraryGetKernel(&mut sweep.kernel, library, c"sweep".as_ptr()))?;
        Ok(sweep)
    }

    /// Queues reading `bytes` of a buffer from its beginning, by `blocks` blocks of 256 threads.
    ///
    /// # Errors
    /// It does not fit, or the driver refuses.
    pub fn queue(&self, stream: &Stream, from: &DeviceMemory, bytes: usize, blocks: u32) -> Result<(), CudaError> {
        within("the swept buffer", 0, bytes, from.bytes())?;
        self.device.bind()?;
        let (mut from, mut count, mut to) = (from.address(), (bytes / GRAIN) as u64, self.to.address());
        let mut arguments: [*mut c_void; 3] = [(&raw mut from).cast(), (&raw mut count).cast(), (&raw mut to).cast()];
        // A kernel that is not bound to a context runs in that of the stream.
        let function: sys::CUfunction = self.kernel.cast();
        let (shared, extra) = (0, std::ptr::null_mut());
        cuda!(cuLaunchKernel(
            function,
            blocks.max(1),
            1,
            1,
            BLOCK,
            1,
            1,
            shared,
            stream.handle(),
            arguments.as_mut_ptr(),
            extra
        ))
    }

    /// Blocks that give every thread of a sweep over `bytes` about `each` grains to read.
    pub fn blocks_for(bytes: usize, each: usize) -> u32 {
        (bytes / GRAIN).div_ceil(BLOCK as usize * each.max(1)).clamp(1, 1 << 30) as u32
    }

    /// Blocks that fill the device twice over at full occupancy, each reading in a loop.
    pub fn filling_blocks(&self) -> u32 {
        // 2048 threads fit a multiprocessor.
        self.device.multiprocessors * 2 * 2048 / BLOCK
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        let _ = cuda!(cuLibraryUnload(self.library));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_buffer_once() {
        assert_eq!(Sweep::blocks_for(16 * 256, 1), 1);
        assert_eq!(Sweep::blocks_for(16 * 256 + 16, 1), 2);
        assert_eq!(Sweep::blocks_for(1 << 20, 16), 16);
        assert_eq!(Sweep::blocks_for(0, 0), 1);
    }
}

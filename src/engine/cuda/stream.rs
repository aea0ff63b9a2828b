//! Streams and events: queues of work on a device, and marks in them. Copies flow in, checked against the buffers they name;
//! whether a mark has been passed flows out, without waiting.

use super::{CudaError, Device, DeviceMemory, HostMemory, Partition, cuda, within};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// How urgent a stream's work is. The device prefers waiting blocks of the more urgent stream; it does not stop running ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before everything else.
    Highest,
    /// After everything else.
    Lowest,
}

/// A queue of work on a device, done in order.
#[derive(Debug)]
pub struct Stream {
    handle: sys::CUstream,
    device: Arc<Device>,
    /// The part of the device it runs on, if not all of it.
    _partition: Option<Arc<Partition>>,
}

// SAFETY: the driver's handles may be used from any thread, and the driver synchronises.
unsafe impl Send for Stream {}
// SAFETY: as for `Send`.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream on the whole device.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn new(device: &Arc<Device>, priority: Priority) -> Result<Arc<Stream>, CudaError> {
        let priority = priority.number(device)?;
        let mut handle: sys::CUstream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        cuda!(cuStreamCreateWithPriority(&mut handle, flags, priority))?;
        Ok(Arc::new(Stream { handle, device: Arc::clone(device), _partition: None }))
    }

    pub(super) fn on_partition(handle: sys::CUstream, device: &Arc<Device>, partition: &Arc<Partition>) -> Arc<Stream> {
        Arc::new(Stream { handle, device: Arc::clone(device), _partition: Some(Arc::clone(partition)) })
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The driver's handle, for TensorRT.
    pub fn raw(&self) -> *mut c_void {
        self.handle.cast()
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Queues a copy from the host.
    ///
    /// # Errors
    /// It does not fit, or the driver refuses.
    pub fn upload(
        &self,
        (from, from_at): (&HostMemory, usize),
        (to, to_at): (&DeviceMemory, usize),
        bytes: usize,
    ) -> Result<(), CudaError> {
        within("the host's buffer", from_at, bytes, from.bytes().len())?;
        within("the device's buffer", to_at, bytes, to.bytes())?;
        self.device.bind()?;
        let source = (from.address() + from_at as u64) as *const c_void;
        cuda!(cuMemcpyHtoDAsync_v2(to.address() + to_at as u64, source, bytes, self.handle))
    }

    /// Queues a copy to the host.
    ///
    /// # Errors
    /// It does not fit, or the driver refuses.
    pub fn download(
        &self,
        (from, from_at): (&DeviceMemory, usize),
        (to, to_at): (&HostMemory, usize),
        bytes: usize,
    ) -> Result<(), CudaError> {
        within("the device's buffer", from_at, bytes, from.bytes())?;
        within("the host's buffer", to_at, bytes, to.bytes().len())?;
        self.device.bind()?;
        let target = (to.address() + to_at as u64) as *mut c_void;
        cuda!(cuMemcpyDtoHAsync_v2(target, from.address() + from_at as u64, bytes, self.handle))
    }

    /// Queues a copy within the device.
    ///
    /// # Errors
    /// It does not fit, or the driver refuses.
    pub fn copy(
        &self,
        (from, from_at): (&DeviceMemory, usize),
        (to, to_at): (&DeviceMemory, usize),
        bytes: usize,
    ) -> Result<(), CudaError> {
        within("the source", from_at, bytes, from.bytes())?;
        within("the target", to_at, bytes, to.bytes())?;
        self.device.bind()?;
        let (to, from) = (to.address() + to_at as u64, from.address() + from_at as u64);
        cuda!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.handle))
    }

    /// Queues a copy of `rows` pieces of `width` bytes within the device; places are (buffer, first byte, bytes from one piece
    /// to the next).
    ///
    /// # Errors
    /// It does not fit, or the driver refuses.
    pub fn copy_rows(
        &self,
        (from, from_at, from_pitch): (&DeviceMemory, usize, usize),
        (to, to_at, to_pitch): (&DeviceMemory, usize, usize),
        (width, rows): (usize, usize),
    ) -> Result<(), CudaError> {
        if rows == 0 || width == 0 {
            return Ok(());
        }
        if from_pitch < width || to_pitch < width {
            return Err(CudaError::Bounds(format!("rows of {width} bytes overlap")));
        }
        within("the source", from_at, (rows - 1) * from_pitch + width, from.bytes())?;
        within("the target", to_at, (rows - 1) * to_pitch + width, to.bytes())?;
        self.device.bind()?;
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: from.address() + from_at as u64,
            srcArray: std::ptr::null_mut(),
            srcPitch: from_pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: to.address() + to_at as u64,
            dstArray: std::ptr::null_mut(),
            dstPitch: to_pitch,
            WidthInBytes: width,
            Height: rows,
        };
        cuda!(cuMemcpy2DAsync_v2(&copy, self.handle))
    }

    /// Queues filling a buffer with one byte.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn fill(&self, memory: &DeviceMemory, byte: u8) -> Result<(), CudaError> {
        self.device.bind()?;
        cuda!(cuMemsetD8Async(memory.address(), byte, memory.bytes(), self.handle))
    }

    /// Sets the mark behind everything queued so far.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn record(&self, event: &Event) -> Result<(), CudaError> {
        self.device.bind()?;
        cuda!(cuEventRecord(event.handle, self.handle))
    }

    /// Lets what is queued from now on wait for the mark.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        self.device.bind()?;
        cuda!(cuStreamWaitEvent(self.handle, event.handle, 0))
    }

    /// Waits on the host until everything queued is done.
    ///
    /// # Errors
    /// The driver refuses, or something that ran failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        cuda!(cuStreamSynchronize(self.handle))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What is queued is still done.
        let _ = self.device.bind();
        let _ = cuda!(cuStreamDestroy_v2(self.handle));
    }
}

impl Priority {
    pub(super) fn number(self, device: &Device) -> Result<c_int, CudaError> {
        device.bind()?;
        let (mut lowest, mut highest): (c_int, c_int) = (0, 0);
        cuda!(cuCtxGetStreamPriorityRange(&mut lowest, &mut highest))?;
        Ok(if self == Priority::Highest { highest } else { lowest })
    }
}

/// A mark in a stream.
#[derive(Debug)]
pub struct Event {
    handle: sys::CUevent,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread, and the driver synchronises.
unsafe impl Send for Event {}
// SAFETY: as for `Send`.
unsafe impl Sync for Event {}

impl Event {
    /// A mark that counts as passed until it is set.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn new(device: &Arc<Device>, timed: bool) -> Result<Event, CudaError> {
        device.bind()?;
        let mut handle: sys::CUevent = std::ptr::null_mut();
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        cuda!(cuEventCreate(&mut handle, if timed { 0 } else { untimed }))?;
        Ok(Event { handle, device: Arc::clone(device) })
    }

    /// Whether it has been passed. Never waits.
    ///
    /// # Errors
    /// Something that was queued before it failed.
    pub fn is_passed(&self) -> Result<bool, CudaError> {
        // SAFETY: the handle is alive; the driver has this function (`Device::open`).
        match unsafe { sys::cuEventQuery(self.handle) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            answer => super::check("cuEventQuery", answer).map(|()| true),
        }
    }

    /// Waits on the host until it has been passed.
    ///
    /// # Errors
    /// Something that was queued before it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        cuda!(cuEventSynchronize(self.handle))
    }

    /// Time on the device since `earlier`, ms; both timed and passed.
    ///
    /// # Errors
    /// One of them is not.
    pub fn ms_since(&self, earlier: &Event) -> Result<f32, CudaError> {
        let mut ms = 0.0f32;
        cuda!(cuEventElapsedTime_v2(&mut ms, earlier.handle, self.handle))?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.device.bind();
        let _ = cuda!(cuEventDestroy_v2(self.handle));
    }
}

//! V4L2 buffers in their proper order: poll, dequeue, use, queue again. An open device flows in; filled buffers with their
//! time stamps flow out. (The `v4l` crate's own stream queues a buffer that the kernel still owns after a timeout, and
//! panics on drop when the device is gone; its device, formats and ioctls are used here.)

use std::io;
use std::sync::Arc;
use std::time::Duration;
use v4l::buffer::{Flags, Type};
use v4l::device::{Device, Handle};
use v4l::memory::Memory;
use v4l::v4l_sys::{v4l2_buffer, v4l2_requestbuffers};
use v4l::v4l2::{self, vidioc};

/// Buffers asked for; drivers may give more or fewer.
const BUFFERS: u32 = 4;

/// A filled buffer, still the program's until it is given back.
#[derive(Debug, Clone, Copy)]
pub struct Filled {
    /// Which buffer.
    pub index: usize,
    /// Bytes of it that hold the picture.
    pub used: usize,
    /// Error and time stamp flags.
    pub flags: Flags,
    /// Time stamp, seconds and microseconds.
    pub stamp: (i64, i64),
    /// The driver's frame counter.
    pub sequence: u32,
}

struct Mapped {
    start: *mut u8,
    length: usize,
}

/// Mapped buffers of a device that streams. Dropping it stops the stream.
pub struct CaptureRing {
    handle: Arc<Handle>,
    buffers: Vec<Mapped>,
}

// SAFETY: the mappings belong to this value alone and are only reached through `&self` and `&mut self`.
unsafe impl Send for CaptureRing {}

impl CaptureRing {
    /// Maps buffers, queues them all and starts the stream.
    ///
    /// # Errors
    /// What the driver says.
    pub fn start(device: &Device) -> io::Result<CaptureRing> {
        let mut ring = CaptureRing { handle: device.handle(), buffers: Vec::new() };
        let count = ring.request(BUFFERS)?;
        for index in 0..count {
            let mut buffer = ring.describe(index);
            ring.control(vidioc::VIDIOC_QUERYBUF, &mut buffer)?;
            let length = buffer.length as usize;
            // SAFETY: for mapped buffers the driver has set `offset`; the length and offset are the driver's own.
            let start = unsafe {
                v4l2::mmap(
                    std::ptr::null_mut(),
                    length,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED,
                    ring.handle.fd(),
                    libc::off_t::from(buffer.m.offset),
                )?
            };
            ring.buffers.push(Mapped { start: start.cast(), length });
        }
        for index in 0..ring.buffers.len() {
            ring.give_back(index)?;
        }
        let mut kind = Type::VideoCapture as u32;
        ring.control(vidioc::VIDIOC_STREAMON, &mut kind)?;
        Ok(ring)
    }

    /// Waits for the next filled buffer; `None` if there was none in time.
    ///
    /// # Errors
    /// The device is gone or failed.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Option<Filled>> {
        let mut poll = libc::pollfd { fd: self.handle.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd for the length of the call.
        let ready = unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as i32) };
        match ready {
            0 => return Ok(None),
            1 if poll.revents & libc::POLLIN != 0 => {}
            1 => return Err(io::Error::from_raw_os_error(libc::ENODEV)),
            _ => {
                let why = io::Error::last_os_error();
                return if why.kind() == io::ErrorKind::Interrupted { Ok(None) } else { Err(why) };
            }
        }
        let mut buffer = self.describe(0);
        match self.control(vidioc::VIDIOC_DQBUF, &mut buffer) {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(why) => return Err(why),
        }
        let index = buffer.index as usize;
        let Some(mapped) = self.buffers.get(index) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the driver named a buffer that does not exist"));
        };
        Ok(Some(Filled {
            index,
            used: (buffer.bytesused as usize).min(mapped.length),
            flags: Flags::from(buffer.flags),
            #[allow(clippy::useless_conversion)] // the field's width differs between architectures
            stamp: (i64::from(buffer.timestamp.tv_sec), i64::from(buffer.timestamp.tv_usec)),
            sequence: buffer.sequence,
        }))
    }

    /// The picture in a filled buffer.
    pub fn bytes(&self, filled: &Filled) -> &[u8] {
        let Some(mapped) = self.buffers.get(filled.index) else { return &[] };
        // SAFETY: the buffer is mapped for its whole length, was dequeued, and is not written by the driver until
        // `give_back`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(mapped.start, filled.used.min(mapped.length)) }
    }

    /// Lets the driver fill the buffer again.
    ///
    /// # Errors
    /// What the driver says.
    pub fn give_back(&mut self, index: usize) -> io::Result<()> {
        let mut buffer = self.describe(index as u32);
        self.control(vidioc::VIDIOC_QBUF, &mut buffer)
    }

    fn request(&self, count: u32) -> io::Result<u32> {
        // SAFETY: the structure is plain numbers, for which zero is valid.
        let mut request: v4l2_requestbuffers = unsafe { std::mem::zeroed() };
        request.count = count;
        request.type_ = Type::VideoCapture as u32;
        request.memory = Memory::Mmap as u32;
        self.control(vidioc::VIDIOC_REQBUFS, &mut request)?;
        Ok(request.count)
    }

    fn describe(&self, index: u32) -> v4l2_buffer {
        // SAFETY: the structure is plain numbers and a union of them, for which zero is valid.
        let mut buffer: v4l2_buffer = unsafe { std::mem::zeroed() };
        buffer.index = index;
        buffer.type_ = Type::VideoCapture as u32;
        buffer.memory = Memory::Mmap as u32;
        buffer
    }

    fn control<T>(&self, request: vidioc::_IOC_TYPE, argument: &mut T) -> io::Result<()> {
        // SAFETY: every caller passes the structure that belongs to its request.
        unsafe { v4l2::ioctl(self.handle.fd(), request, std::ptr::from_mut(argument).cast()) }
    }
}

impl Drop for CaptureRing {
    /// A device that is gone refuses all of this; there is nothing left to do about it then.
    fn drop(&mut self) {
        let mut kind = Type::VideoCapture as u32;
        let _ = self.control(vidioc::VIDIOC_STREAMOFF, &mut kind);
        for mapped in self.buffers.drain(..) {
            // SAFETY: the mapping was made by `start` and no slice of it outlives `self`.
            let _ = unsafe { v4l2::munmap(mapped.start.cast(), mapped.length) };
        }
        let _ = self.request(0);
    }
}

//! CUDA through its driver, which is looked for at run time and never linked: the one place of `unsafe` for CUDA. A machine
//! flows in; a device, or one sentence why there is none, flows out, and from it memory, streams, events, graphs.
//!
//! What the device works on lives as long as anything that may still touch it: memory is shared (`Arc`), and freeing it
//! waits for the device. The host never sees memory that the device writes as a plain slice, only as atomics.

mod device;
mod graph;
mod memory;
mod partition;
mod stream;
mod sweep;

pub use device::{Device, driver_is_there};
pub use graph::Graph;
pub use memory::{DeviceMemory, HostMemory};
pub use partition::{Partition, split};
pub use stream::{Event, Priority, Stream};
pub use sweep::Sweep;

use cudarc::driver::sys::CUresult;

/// What can go wrong with a device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no driver or no device.
    #[error("no GPU: {0}")]
    Absent(String),
    /// The driver refuses a call.
    #[error("the GPU's driver refuses {call}: {reason}")]
    Refused {
        /// The function.
        call: &'static str,
        /// The driver's name for the reason.
        reason: String,
    },
    /// Something asked for lies outside a buffer.
    #[error("{0}")]
    Bounds(String),
}

impl From<CudaError> for super::EngineError {
    fn from(error: CudaError) -> Self {
        super::EngineError::Device(error.to_string())
    }
}

/// The driver's answer as a result.
fn check(call: &'static str, answer: CUresult) -> Result<(), CudaError> {
    match answer {
        CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(CudaError::Refused { call, reason: format!("{other:?}") }),
    }
}

/// Calls a function of the driver.
macro_rules! cuda {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::engine::cuda::check(
            stringify!($function),
            // SAFETY: the driver has this function (`Device::open`), handles are alive because their wrappers own or borrow
            // them, and pointers are to locals of the caller or to memory whose bounds it checked.
            unsafe { cudarc::driver::sys::$function($($argument),*) },
        )
    };
}
use cuda;

/// Whether `bytes` from `at` on lie within `size`.
fn within(what: &str, at: usize, bytes: usize, size: usize) -> Result<(), CudaError> {
    match at.checked_add(bytes) {
        Some(end) if end <= size => Ok(()),
        _ => Err(CudaError::Bounds(format!("{what}: {bytes} bytes from {at} on are not within its {size}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_a_buffer_is_refused_also_where_the_sum_overflows() {
        assert!(within("a", 4, 4, 8).is_ok());
        assert!(within("a", 5, 4, 8).is_err());
        let error = within("the cache", usize::MAX, 2, 8).unwrap_err().to_string();
        assert!(error.contains("the cache") && error.contains("not within its 8"), "{error}");
    }

    #[test]
    fn a_machine_without_a_driver_says_so_in_one_sentence_and_does_not_crash() {
        if driver_is_there() {
            return eprintln!("skipped: this machine has a driver");
        }
        let error = Device::open(0).expect_err("no driver").to_string();
        assert!(error.contains("libcuda.so.1") && error.lines().count() == 1, "{error}");
    }
}

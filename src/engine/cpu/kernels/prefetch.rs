//! Hints to the processor to fetch weights before they are multiplied: across the ends of pages, where its own guesses stop.
//! Addresses flow in; nothing flows out, for a hint never faults and changes no result.

/// A cache line.
pub(super) const LINE: usize = 64;

/// Asks for the cache line at `address`, which need not be mapped.
#[inline(always)]
pub(super) fn fetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction; it reads nothing that a program can see and cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the intrinsic is not in stable Rust.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Asks for `bytes` from `address` on.
#[inline(always)]
pub(super) fn fetch_bytes(address: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        fetch(address.wrapping_add(at));
        at += LINE;
    }
}

/// A part of the weights that is fetched evenly while other work is done, in `steps` calls.
pub(super) struct Ahead {
    at: *const u8,
    per_step: usize,
}

impl Ahead {
    /// `bytes` from `from` on, in `steps` steps.
    pub(super) fn new(from: *const u8, bytes: usize, steps: usize) -> Ahead {
        Ahead { at: from, per_step: bytes.div_ceil(steps.max(1)).next_multiple_of(LINE) }
    }

    /// One step.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        fetch_bytes(self.at, self.per_step);
        self.at = self.at.wrapping_add(self.per_step);
    }
}

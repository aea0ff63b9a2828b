//! Which instructions the small networks (ear and eye) use. The kernel set that was chosen for all of the processor's work
//! flows in; the loops that were compiled for the same instructions flow out.

use super::kernels::Kernels;

/// Instructions that the loops of ear and eye are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    /// Plain Rust, on every machine the same bits; what 64-bit Arm uses too, where the compiler makes NEON of it.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512F.
    Avx512,
}

impl Simd {
    /// What goes with a kernel set.
    pub fn of(kernels: &Kernels) -> Simd {
        match kernels.name {
            "avx512" => Simd::Avx512,
            "avx2" => Simd::Avx2,
            _ => Simd::Scalar,
        }
    }

    /// The fastest that this machine has.
    pub fn best() -> Simd {
        Simd::of(Kernels::best())
    }

    /// Whether this machine has them.
    pub fn available(self) -> bool {
        Kernels::named(self.name()).is_some()
    }

    /// These if the machine has them, else the fastest that it has.
    #[must_use]
    pub fn supported(self) -> Simd {
        if self.available() { self } else { Simd::best() }
    }

    /// Name for people and the record: that of the kernel set.
    pub fn name(self) -> &'static str {
        match self {
            Simd::Scalar => "scalar",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_set_of_this_machine_has_loops_for_ear_and_eye_that_it_can_run() {
        for kernels in Kernels::available() {
            let simd = Simd::of(kernels);
            assert!(simd.available() && simd.supported() == simd, "{}: {simd:?}", kernels.name);
        }
        assert_eq!(Simd::of(Kernels::scalar()), Simd::Scalar);
        assert!(Simd::Avx512.supported().available());
    }
}

//! TensorRT: engines built from the checkpoint, in Rust, with whichever TensorRT is installed. A model folder flows in; a
//! folder with plans and a manifest flows out. Nothing is linked: where no TensorRT is found, one line says what is missing.

pub mod abi;
pub mod build;
pub mod claim;
pub mod edge_llm;
pub mod locate;
pub mod manifest;
pub mod run;
pub mod shelf;
pub mod slots;
pub mod trtexec;
pub mod words;
pub mod working;

pub use abi::{Flavor, Library, Watch};
pub use manifest::{Manifest, Target};

/// What can go wrong with TensorRT.
#[derive(Debug, thiserror::Error)]
pub enum TrtError {
    /// A library or driver is missing.
    #[error("TensorRT cannot be used: {0}")]
    NotThere(String),
    /// A library of a kind or version that is not known.
    #[error("this TensorRT cannot be used: {0}")]
    Foreign(String),
    /// TensorRT said no.
    #[error("TensorRT: {0}")]
    Refused(String),
    /// The device refuses.
    #[cfg(feature = "tensorrt")]
    #[error(transparent)]
    Device(#[from] super::cuda::CudaError),
    /// The build was cancelled.
    #[error("the build was cancelled; nothing was written")]
    Cancelled,
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// An engine folder that does not fit what is asked.
    #[error("{0}")]
    Stale(String),
    /// A file cannot be read or written.
    #[error("{what}: {error}")]
    Io {
        /// The file.
        what: String,
        /// The system's reason.
        error: std::io::Error,
    },
}

/// Names the file in an error.
pub(crate) fn at(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> TrtError + '_ {
    move |error| TrtError::Io { what: path.display().to_string(), error }
}

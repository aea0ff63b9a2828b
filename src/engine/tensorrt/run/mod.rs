//! Engines at work. An engine's folder flows in; a generator whose steps run on the device flows out.
//!
//! `row` is the order of things, free of any device: what is queued when, what a cancel leaves, which positions are looked
//! at. `layout` says what the tensors of an engine mean. `seat` is what one conversation has on the device and `engines` what all
//! conversations share; both need CUDA and TensorRT.

#[cfg(feature = "tensorrt")]
mod engines;
pub mod layout;
pub mod row;
#[cfg(feature = "tensorrt")]
mod seat;

#[cfg(feature = "tensorrt")]
pub use engines::{Engines, Where};
pub use row::{Limits, Pass, Row, RowGenerator, RowTalk};

use super::manifest::Manifest;

/// Why an engine of this manifest cannot run with that TensorRT on that GPU (110 for compute capability 11.0; `None`: any).
pub fn foreign(manifest: &Manifest, tensorrt: &str, capability: Option<i32>) -> Option<String> {
    let Some(builder) = &manifest.builder else {
        return Some("it was only emitted; `sage engine build` on the device makes an engine of it".to_owned());
    };
    if builder.tensorrt != tensorrt {
        return Some(format!("it was built by {}, here is {tensorrt}; build it again", builder.tensorrt));
    }
    if let Some(here) = capability
        && builder.capability != 0
        && builder.capability != here
    {
        let wanted = builder.capability;
        return Some(format!("it is for sm{wanted}, this GPU is sm{here}; build it again with --target this"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Builder, Recipe};
    use super::*;
    use crate::model::onnx::{Form, Options, Precision};

    #[test]
    fn engines_of_another_tensorrt_or_gpu_are_refused_with_what_to_do() {
        let graph = Options { form: Form::Fused, precision: Precision::Bf16, weights: None, capacity: 64, groups: 1 };
        let mut manifest = Manifest::empty(Recipe { graph, chunk: 8, target: "thor".to_owned() });
        assert!(foreign(&manifest, "TensorRT 10.16.2", Some(110)).expect("emitted").contains("only emitted"));
        manifest.builder = Some(Builder { tensorrt: "TensorRT 10.16.2".to_owned(), capability: 110 });
        assert_eq!(foreign(&manifest, "TensorRT 10.16.2", Some(110)), None);
        assert!(foreign(&manifest, "TensorRT 10.13.3", Some(110)).expect("older").contains("here is TensorRT 10.13.3"));
        assert!(foreign(&manifest, "TensorRT 10.16.2", Some(90)).expect("H200").contains("this GPU is sm90"));
        assert_eq!(foreign(&manifest, "TensorRT 10.16.2", None), None);
        manifest.builder = Some(Builder { tensorrt: "TensorRT 10.16.2".to_owned(), capability: 0 });
        assert_eq!(foreign(&manifest, "TensorRT 10.16.2", Some(90)), None);
    }
}

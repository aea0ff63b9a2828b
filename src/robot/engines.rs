//! Loads the engines that a configuration names. Folders flow in; engines ready for a lane flow out, or one sentence that
//! says which network cannot be used and why.

use crate::assets::engine_dir;
use crate::block::dream::Dreamer;
use crate::block::reason::Reasoner;
use crate::config::EnginesConfig;
use crate::dispatch::load::Load;
use crate::engine::cpu::ear::EarEngine;
use crate::engine::cpu::eye::Eye;
use crate::engine::cpu::kernels::Kernels;
use crate::engine::cpu::simd::Simd;
use crate::engine::{Engine, EngineError};
use crate::time::Clock;
use std::sync::Arc;

/// What a lane serves, and how it is described in records.
pub struct Loaded {
    /// One engine per capability.
    pub engines: Vec<Box<dyn Engine>>,
    /// Name and BLAKE3 of the weights, as hex.
    pub weights: Vec<(String, String)>,
    /// Kernel set of all of them.
    pub kernels: String,
}

/// How synthetic load passes its time.
pub enum LoadKind {
    /// It keeps the processor busy until this clock says that a step is over.
    Busy(Arc<dyn Clock>),
    /// It only counts: for virtual time.
    Counted,
}

/// Loads the ear, the eye, the mind, dreaming and synthetic load.
///
/// # Errors
/// A network is missing or cannot be used.
pub fn load(config: &EnginesConfig, load: LoadKind) -> Result<Loaded, EngineError> {
    let kernels = if config.kernels == "scalar" { Kernels::scalar() } else { Kernels::best() };
    let simd = Simd::of(kernels);
    let engines: Vec<Box<dyn Engine>> = vec![
        Box::new(EarEngine::load(&engine_dir(&config.ear, "ear").join("ear.safetensors"), simd)?),
        Box::new(Eye::load(&engine_dir(&config.eye, "eye").join("eye.safetensors"), simd)?),
        Box::new(Reasoner::load(&engine_dir(&config.mind, "mind"), kernels, usize::from(config.threads))?),
        Box::new(Dreamer),
        Box::new(match load {
            LoadKind::Busy(clock) => Load::busy(clock),
            LoadKind::Counted => Load::counted(),
        }),
    ];
    let weights = engines
        .iter()
        .filter(|engine| engine.weights_hash() != [0; 16])
        .map(|engine| {
            let hex: String = engine.weights_hash().iter().map(|byte| format!("{byte:02x}")).collect();
            (format!("{:?}", engine.capability()).to_lowercase(), hex)
        })
        .collect();
    Ok(Loaded { engines, weights, kernels: kernels.name.to_owned() })
}

//! The real core and the real feature extractors behind the traits that replays use. A session flows in; what decides and
//! what computes features as the live loop does flow out.

use super::from_sensors::Extractors;
use super::session::SessionInfo;
use super::verify::ReplayCore;
use crate::config::{Config, CoreConfig};
use crate::core::Core;
use crate::sense::features::CameraFeatureExtractor;
use crate::sense::sound::AudioFeatureExtractor;
use crate::types::{AudioBlock, AudioFeatures, CameraFeatures, Frame, Inputs, Outputs, SourceId};
use std::collections::BTreeMap;

/// Field of view of a camera whose configuration is not known, degrees.
pub const USUAL_FOV_DEG: f32 = 70.0;

impl ReplayCore for Core {
    fn fresh(config: &CoreConfig) -> Core {
        Core::new(config.clone())
    }

    fn thaw(config: &CoreConfig, keyframe: &[u8]) -> Result<Core, String> {
        Core::from_keyframe(config.clone(), keyframe).map_err(|error| error.to_string())
    }

    fn tick(&mut self, inputs: &Inputs, outputs: &mut Outputs) {
        Core::tick(self, inputs, outputs);
    }

    fn keyframe(&self) -> Vec<u8> {
        Core::keyframe(self)
    }
}

/// One extractor per source, made when the source first delivers.
pub struct RealExtractors {
    config: Config,
    cameras: BTreeMap<SourceId, CameraFeatureExtractor>,
    mics: BTreeMap<SourceId, AudioFeatureExtractor>,
}

impl RealExtractors {
    /// Extractors as the run `session` had them.
    pub fn new(session: &SessionInfo) -> RealExtractors {
        // A log without the whole configuration has the usual field of view.
        let config = serde_json::from_value(session.config.clone()).unwrap_or_default();
        RealExtractors { config, cameras: BTreeMap::new(), mics: BTreeMap::new() }
    }
}

impl Extractors for RealExtractors {
    fn camera(&mut self, source: SourceId, frame: &Frame) -> CameraFeatures {
        let fov_deg = self.config.camera.get(usize::from(source.0)).map_or(USUAL_FOV_DEG, |camera| camera.fov_deg);
        let (width, height) = (frame.width, frame.height);
        self.cameras
            .entry(source)
            .or_insert_with(|| CameraFeatureExtractor::new(source, width, height, fov_deg))
            .extract(frame)
    }

    fn audio(&mut self, source: SourceId, block: &AudioBlock) -> AudioFeatures {
        self.mics.entry(source).or_insert_with(|| AudioFeatureExtractor::new(source)).extract(block)
    }
}

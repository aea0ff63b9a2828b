//! What can be captured and played on this machine. Nothing flows in; one entry per device flows out.

use super::sound_device::Way;
use super::{camera, in_use, sound_device};
use cpal::traits::{DeviceTrait, HostTrait};
use cpal::{DefaultStreamConfigError, SupportedStreamConfig};
use std::path::Path;
use v4l::capability::Flags;
use v4l::video::Capture;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// camera, microphone or loudspeaker.
    pub kind: &'static str,
    /// What to write in `sage.toml`.
    pub device: String,
    /// What it calls itself.
    pub name: String,
    /// Formats, sizes and rates, or why it cannot be used.
    pub offers: String,
}

/// All cameras, then microphones, then loudspeakers.
pub fn list() -> Vec<Listed> {
    let mut all = cameras();
    all.extend(sound());
    all
}

fn cameras() -> Vec<Listed> {
    let mut nodes: Vec<_> = v4l::context::enum_devices();
    nodes.sort_by_key(|node| node.index());
    let mut listed = Vec::new();
    for node in nodes {
        let device = node.path().display().to_string();
        let name = node.name().unwrap_or_else(|| "unnamed".to_owned());
        let opened = match v4l::Device::with_path(node.path()) {
            Ok(opened) => opened,
            Err(why) => {
                listed.push(Listed { kind: "camera", device, name, offers: format!("cannot be opened: {why}") });
                continue;
            }
        };
        // One camera has several nodes; only those that capture pictures count.
        if !opened.query_caps().is_ok_and(|caps| caps.capabilities.contains(Flags::VIDEO_CAPTURE)) {
            continue;
        }
        let formats = opened.enum_formats().unwrap_or_default();
        let (known, others): (Vec<_>, Vec<_>) = formats.iter().partition(|format| camera::is_known(format.fourcc));
        let mut offers: Vec<String> = known.into_iter().map(|format| sizes(&opened, format)).collect();
        if !others.is_empty() {
            offers.push(format!("{} formats that are not supported", others.len()));
        }
        if !offers.is_empty() {
            listed.push(Listed { kind: "camera", device, name, offers: offers.join("; ") });
        }
    }
    listed
}

fn sizes(device: &v4l::Device, format: &v4l::format::Description) -> String {
    let mut sizes = Vec::new();
    for size in device.enum_framesizes(format.fourcc).unwrap_or_default() {
        match size.size {
            v4l::framesize::FrameSizeEnum::Discrete(size) => sizes.push(format!("{}x{}", size.width, size.height)),
            v4l::framesize::FrameSizeEnum::Stepwise(range) => sizes
                .push(format!("{}x{} to {}x{}", range.min_width, range.min_height, range.max_width, range.max_height)),
        }
    }
    format!("{} {}", format.fourcc, sizes.join(" ")).trim().to_owned()
}

fn sound() -> Vec<Listed> {
    sound_device::hush();
    let host = cpal::default_host();
    let Ok(devices) = host.devices() else { return Vec::new() };
    let (mut microphones, mut loudspeakers) = (Vec::new(), Vec::new());
    for device in devices {
        let Ok(id) = device.id() else { continue };
        // ALSA's sink for nothing is always there and is no device.
        if id.1 == "null" {
            continue;
        }
        let name = device.description().map(|d| d.name().to_owned()).unwrap_or_default();
        let mut list = |kind, way, config| {
            if let Some(offers) = offers(&id.1, way, config) {
                let (device, name) = (id.1.clone(), name.clone());
                let list = if way == Way::In { &mut microphones } else { &mut loudspeakers };
                list.push(Listed { kind, device, name, offers });
            }
        };
        if device.supports_input() {
            list("microphone", Way::In, device.default_input_config());
        }
        if device.supports_output() {
            list("loudspeaker", Way::Out, device.default_output_config());
        }
    }
    microphones.extend(loudspeakers);
    microphones
}

/// What the device offers, or who keeps it from being asked; `None` for names that lead to no device.
fn offers(pcm: &str, way: Way, config: Result<SupportedStreamConfig, DefaultStreamConfigError>) -> Option<String> {
    match config {
        Ok(config) => {
            let usable = if sound_device::is_known(config.sample_format()) { "" } else { " (not supported)" };
            let (rate_hz, channels, format) = (config.sample_rate(), config.channels(), config.sample_format());
            Some(format!("{rate_hz} Hz, {channels} channels, {format}{usable}"))
        }
        Err(DefaultStreamConfigError::DeviceNotAvailable) => {
            in_use::holder(Path::new("/proc"), pcm, way).map(|holder| format!("in use by {holder}"))
        }
        Err(_) => None,
    }
}

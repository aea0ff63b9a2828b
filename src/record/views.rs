//! What people look at in a log: one JSON object per feature, observation, decision, job, result and act, made from the
//! `Inputs` and `Outputs` of a tick. Derived values only: a replay never reads them.

use crate::types::{
    Act, AudioFeatures, CameraFeatures, Command, Decision, Inputs, JobId, LaneEvent, Metabolic, Output, Outputs, Vitals,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Topic, schema name and properties (name, JSON type, meaning) of every JSON channel.
pub type View = (&'static str, &'static str, &'static [(&'static str, &'static str, &'static str)]);

/// The JSON channels. `/features` stands for one channel per source, `/features/NAME`.
pub const VIEWS: [View; 12] = [
    (
        "/features",
        "sage.Features",
        &[
            ("seq", "integer", "sequence number of the frame or block"),
            ("captured_ns", "integer", "capture, monotonic"),
            ("stamp", "string", "Device or Arrival"),
            ("lost", "integer", "payloads lost since the one before"),
            ("luma", "array", "camera: mean luma per grid cell, 12 rows of 16"),
            ("motion", "array", "camera: mean absolute luma change per cell, quarters of a step"),
            ("looming", "object", "camera: growth_permille_per_s, cells, bearing_mrad"),
            ("band_cdb", "array", "microphone: level per band, 1/100 dB of full scale"),
            ("level_cdb", "integer", "microphone: level of the block without the robot's own voice"),
            ("heard_cdb", "integer", "microphone: level of the block with it"),
            ("voice_permille", "integer", "microphone: voice activity"),
            ("echo_permille", "integer", "microphone: share of the block that the robot itself said"),
        ],
    ),
    (
        "/observation",
        "sage.Observation",
        &[
            ("tick", "integer", "k"),
            ("kind", "string", "word, utterance or seen"),
            ("job", "integer", "the job that found it"),
        ],
    ),
    (
        "/salience",
        "sage.Salience",
        &[
            ("tick", "integer", "k"),
            ("sources", "array", "per source: surprise, novelty, arousal, reward, conflict, total, trust"),
        ],
    ),
    (
        "/state",
        "sage.State",
        &[
            ("tick", "integer", "k"),
            ("state", "string", "wake, focus, rest, dream or crisis"),
            ("atp_ms", "number", "lane time left"),
            ("atp_max_ms", "number", "size of the tank"),
            ("halted", "boolean", "halt is latched"),
        ],
    ),
    (
        "/decision",
        "sage.Decision",
        &[
            ("tick", "integer", "k"),
            ("kind", "string", "state, focus, admit, shed, cancel, use, discard, cut, act, refuse, halt or starved"),
            ("why", "string", "the reason"),
        ],
    ),
    (
        "/job",
        "sage.Job",
        &[("tick", "integer", "k"), ("kind", "string", "submit, cancel or credit"), ("id", "integer", "the job")],
    ),
    (
        "/result",
        "sage.Result",
        &[
            ("tick", "integer", "k at which the core saw it"),
            ("kind", "string", "started, waiting or done"),
            ("job", "integer", "the job"),
            ("outcome", "object", "how it ended"),
            ("steps", "integer", "steps it ran"),
            ("busy", "integer", "lane time, ns"),
            ("longest", "integer", "longest step, ns"),
        ],
    ),
    ("/act", "sage.Act", &[("tick", "integer", "k"), ("kind", "string", "say, end_of_answer, silence, do or halt")]),
    (
        "/status",
        "sage.Status",
        &[
            ("seq", "integer", "counts up"),
            ("captured", "integer", "when sampled, monotonic ns"),
            ("battery_percent", "integer", "charge"),
            ("range_mm", "integer", "nearest range ahead"),
            ("bumper", "boolean", "pressed"),
            ("estop", "boolean", "engaged"),
        ],
    ),
    (
        "/keyframe",
        "sage.Keyframe",
        &[
            ("next_tick", "integer", "the first tick after this state"),
            ("digest", "string", "digest of all ticks before"),
            ("state", "string", "the core's state, base64"),
        ],
    ),
    (
        "/sensor",
        "sage.Sensor",
        &[
            ("source", "integer", "index of the source"),
            ("seq", "integer", "sequence number"),
            ("blake3", "string", "hash of the payload as recorded, first 16 bytes"),
        ],
    ),
    ("/gap", "sage.Gap", &[("what", "string", "what the recorder had to drop"), ("count", "integer", "how many")]),
];

/// The JSON schema text of a view.
pub fn json_schema(view: &View) -> String {
    let mut properties = Map::new();
    for (name, kind, meaning) in view.2 {
        properties.insert((*name).to_owned(), json!({ "type": kind, "description": meaning }));
    }
    json!({ "title": view.1, "type": "object", "properties": properties }).to_string()
}

/// Turns `{"Admit": {...}}` into `{"tick": k, "kind": "admit", ...}`; enum units and single values are kept under
/// `kind` and `value`.
fn flat(tick: u64, value: &impl Serialize, single: &str) -> Value {
    let mut object = Map::new();
    object.insert("tick".to_owned(), json!(tick));
    match serde_json::to_value(value).unwrap_or_default() {
        Value::Object(outer) => {
            for (kind, inner) in outer {
                object.insert("kind".to_owned(), Value::String(snake(&kind)));
                match inner {
                    Value::Object(inner) => object.extend(inner),
                    other => {
                        object.insert(single.to_owned(), other);
                    }
                }
            }
        }
        Value::String(kind) => {
            object.insert("kind".to_owned(), Value::String(snake(&kind)));
        }
        _ => {}
    }
    Value::Object(object)
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (i, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// `/features/NAME` of a frame.
pub fn camera(features: &CameraFeatures) -> Value {
    json!({
        "seq": features.seq, "captured_ns": features.captured.0, "stamp": features.stamp, "lost": features.lost,
        "luma": features.luma, "motion": features.motion, "looming": features.looming,
    })
}

/// `/features/NAME` of a block of sound.
pub fn audio(features: &AudioFeatures) -> Value {
    json!({
        "seq": features.seq, "captured_ns": features.captured.0, "stamp": features.stamp, "lost": features.lost,
        "band_cdb": features.band_cdb, "level_cdb": features.level_cdb, "heard_cdb": features.heard_cdb,
        "voice_permille": features.voice_permille, "echo_permille": features.echo_permille,
    })
}

/// `/salience`.
pub fn salience(tick: u64, vitals: &Vitals) -> Value {
    json!({ "tick": tick, "sources": vitals.salience })
}

/// `/state`.
pub fn state(tick: u64, vitals: &Vitals) -> Value {
    json!({
        "tick": tick, "state": vitals.state, "atp_ms": vitals.atp_ms, "atp_max_ms": vitals.atp_max_ms,
        "halted": vitals.halted,
    })
}

/// The state's name as the record spells it.
pub fn state_name(state: Metabolic) -> &'static str {
    match state {
        Metabolic::Wake => "wake",
        Metabolic::Focus => "focus",
        Metabolic::Rest => "rest",
        Metabolic::Dream => "dream",
        Metabolic::Crisis => "crisis",
    }
}

fn seen(tick: u64, job: JobId, output: &Output) -> Option<Value> {
    let Output::Seen { seq, captured, detections } = output else { return None };
    Some(json!({
        "tick": tick, "kind": "seen", "job": job, "seq": seq, "captured_ns": captured, "detections": detections,
    }))
}

/// Everything of one tick that has a topic of its own, in order, features and vitals apart.
pub fn of_tick(inputs: &Inputs, outputs: &Outputs, mut each: impl FnMut(&'static str, Value)) {
    let tick = inputs.tick;
    if let Some(status) = &inputs.status {
        each("/status", serde_json::to_value(status).unwrap_or_default());
    }
    for event in &inputs.events {
        match event {
            LaneEvent::Word { .. } | LaneEvent::Utterance { .. } => each("/observation", flat(tick, event, "value")),
            LaneEvent::Done { job, output, .. } => {
                if let Some(seen) = seen(tick, *job, output) {
                    each("/observation", seen);
                }
                each("/result", flat(tick, event, "value"));
            }
            LaneEvent::Started { .. } | LaneEvent::Waiting { .. } | LaneEvent::Piece { .. } => {
                each("/result", flat(tick, event, "value"));
            }
        }
    }
    for decision in &outputs.decisions {
        each("/decision", decision_view(tick, decision));
    }
    for command in &outputs.commands {
        each("/job", command_view(tick, command));
    }
    for act in &outputs.acts {
        if !matches!(act, Act::Heartbeat { .. }) {
            each("/act", flat(tick, act, "value"));
        }
    }
}

/// `/decision`.
pub fn decision_view(tick: u64, decision: &Decision) -> Value {
    flat(tick, decision, "value")
}

/// `/job`.
pub fn command_view(tick: u64, command: &Command) -> Value {
    flat(tick, command, "id")
}

/// Name of the schema of a topic for people.
pub fn schema_of(topic: &str) -> &'static str {
    VIEWS.iter().find(|known| known.0 == topic).map_or("sage.Event", |known| known.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Nanos, Why};

    #[test]
    fn a_decision_reads_as_one_flat_object() {
        let view = decision_view(7, &Decision::Discard { job: JobId(3), age: Nanos(5), why: Why::TooNear });
        assert_eq!(view, json!({"tick": 7, "kind": "discard", "job": 3, "age": 5, "why": "too_near"}));
        assert_eq!(command_view(7, &Command::Cancel(JobId(9))), json!({"tick": 7, "kind": "cancel", "id": 9}));
        assert_eq!(flat(1, &Act::Silence, "value"), json!({"tick": 1, "kind": "silence"}));
    }
}

//! `config.json` of a Qwen2 or Qwen2.5 checkpoint.
//! Flows in: the file. Flows out: the sizes and constants the decoder needs, or one sentence saying what does not fit.

use crate::model::{ModelError, read_json};
use serde_json::Value;
use std::path::Path;

/// Shape and constants of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen2Config {
    /// Rows of the embedding, including padding rows beyond the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f32,
    /// Base of the rotary position angles.
    pub rope_theta: f64,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// Longest context the network was made for.
    pub max_positions: usize,
}

impl Qwen2Config {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// The file is missing, no JSON, of another model type, or asks for something this decoder does not do.
    pub fn load(directory: &Path) -> Result<Qwen2Config, ModelError> {
        let path = directory.join("config.json");
        Self::from_json(&read_json(&path)?).map_err(|reason| ModelError::invalid(&path, reason))
    }

    /// Checks and reads the parsed file; the error is one sentence.
    pub fn from_json(json: &Value) -> Result<Qwen2Config, String> {
        refuse_what_is_not_supported(json)?;
        let heads = size(json, "num_attention_heads")?;
        let hidden_size = size(json, "hidden_size")?;
        let head_dim = match json.get("head_dim") {
            None | Some(Value::Null) if hidden_size % heads != 0 => {
                return Err(format!(
                    "`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` {heads} and `head_dim` is not given"
                ));
            }
            None | Some(Value::Null) => hidden_size / heads,
            Some(_) => size(json, "head_dim")?,
        };
        if head_dim % 2 != 0 {
            return Err(format!("a head of {head_dim} dimensions cannot be rotated; it must be even"));
        }
        let kv_heads = match json.get("num_key_value_heads") {
            None | Some(Value::Null) => heads,
            Some(_) => size(json, "num_key_value_heads")?,
        };
        if heads % kv_heads != 0 {
            return Err(format!("`num_attention_heads` {heads} is not a multiple of `num_key_value_heads` {kv_heads}"));
        }
        let config = Qwen2Config {
            vocab_size: size(json, "vocab_size")?,
            hidden_size,
            intermediate_size: size(json, "intermediate_size")?,
            layers: layers(json)?,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: match number(json, "rms_norm_eps")?.unwrap_or(1e-6) {
                eps if (0.0..1.0).contains(&eps) => eps as f32,
                eps => return Err(format!("`rms_norm_eps` is {eps:e}; expected a small number, such as 1e-6")),
            },
            rope_theta: rope_theta(json)?,
            tied: truth(json, "tie_word_embeddings")?,
            max_positions: match json.get("max_position_embeddings") {
                None | Some(Value::Null) => 32_768,
                Some(_) => size(json, "max_position_embeddings")?,
            },
        };
        Ok(config)
    }

    /// Bytes of keys and values that one token occupies, all layers, in f32.
    pub fn kv_bytes_per_token(&self) -> usize {
        self.layers * self.kv_heads * self.head_dim * 2 * size_of::<f32>()
    }
}

fn refuse_what_is_not_supported(json: &Value) -> Result<(), String> {
    match json.get("model_type").and_then(Value::as_str) {
        Some("qwen2") => {}
        Some(other) => {
            return Err(format!("`model_type` is `{other}`; this decoder runs `qwen2` (Qwen2 and Qwen2.5, dense)"));
        }
        None => return Err("has no `model_type`; expected `qwen2`".into()),
    }
    if truth(json, "use_sliding_window")? {
        return Err(
            "`use_sliding_window` is on; only full attention is supported, set it to false if the checkpoint allows it"
                .into(),
        );
    }
    let kinds = json.get("layer_types").and_then(Value::as_array);
    if let Some(kind) = kinds.and_then(|kinds| kinds.iter().find(|kind| **kind != "full_attention")) {
        return Err(format!("`layer_types` contains {kind}; only full attention is supported"));
    }
    if let Some(activation) = json.get("hidden_act").filter(|activation| **activation != "silu") {
        return Err(format!("`hidden_act` is {activation}; Qwen2 uses \"silu\""));
    }
    Ok(())
}

/// The base of the rotary angles, as `transformers` 5 reads it: what describes the positions is `rope_scaling` (the name of
/// old) or `rope_parameters`, perhaps by kind of layer. A `rope_theta` in there counts more than one at the top, and 10,000 is
/// meant where there is none.
fn rope_theta(json: &Value) -> Result<f64, String> {
    let given = |key: &'static str| Some((key, json.get(key)?.as_object().filter(|fields| !fields.is_empty())?));
    let described = given("rope_scaling").or_else(|| given("rope_parameters"));
    let described = described.map(|(key, fields)| match fields.get("full_attention").and_then(Value::as_object) {
        Some(layers) => (key, layers),
        None => (key, fields),
    });
    let mut theta = number(json, "rope_theta")?;
    if let Some((key, fields)) = described {
        let kind = fields.get("rope_type").or_else(|| fields.get("type"));
        if let Some(kind) = kind.filter(|kind| !kind.is_null() && **kind != "default") {
            return Err(format!(
                "`{key}` asks for {kind} position scaling, which is not supported; remove it to run within the trained context"
            ));
        }
        let inner = fields.get("rope_theta").map(|value| number_of(value, "rope_theta")).transpose()?.flatten();
        theta = inner.or(theta);
    }
    let theta = theta.unwrap_or(10_000.0);
    if theta.is_finite() && theta > 0.0 { Ok(theta) } else { Err(format!("`rope_theta` {theta} is not positive")) }
}

/// Most layers of a network; the published ones have 24 to 80.
const MOST_LAYERS: usize = 4096;

fn layers(json: &Value) -> Result<usize, String> {
    match size(json, "num_hidden_layers")? {
        layers @ ..=MOST_LAYERS => Ok(layers),
        layers => Err(format!("`num_hidden_layers` is {layers}; expected {MOST_LAYERS} at most")),
    }
}

/// A switch, off where it is not given.
fn truth(json: &Value, key: &str) -> Result<bool, String> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is {value}; expected true or false")),
    }
}

/// A size from 1 to 2^24.
fn size(json: &Value, key: &str) -> Result<usize, String> {
    let Some(value) = json.get(key) else { return Err(format!("has no `{key}`")) };
    match value.as_u64() {
        Some(size @ 1..=16_777_216) => Ok(size as usize),
        _ => Err(format!("`{key}` is {value}; expected a whole number from 1 to 16777216")),
    }
}

fn number(json: &Value, key: &str) -> Result<Option<f64>, String> {
    json.get(key).map_or(Ok(None), |value| number_of(value, key))
}

fn number_of(value: &Value, key: &str) -> Result<Option<f64>, String> {
    match value {
        Value::Null => Ok(None),
        value => value.as_f64().map(Some).ok_or_else(|| format!("`{key}` is {value}; expected a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn half_billion() -> Value {
        json!({"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
               "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6,
               "rope_theta": 1e6, "tie_word_embeddings": true, "use_sliding_window": false, "hidden_act": "silu",
               "sliding_window": 32768, "max_window_layers": 21, "max_position_embeddings": 32768})
    }

    fn with(key: &str, value: Value) -> Result<Qwen2Config, String> {
        let mut json = half_billion();
        json[key] = value;
        Qwen2Config::from_json(&json)
    }

    #[test]
    fn the_published_half_billion_shape_is_read() {
        let config = Qwen2Config::from_json(&half_billion()).unwrap();
        assert_eq!((config.head_dim, config.kv_heads, config.tied), (64, 2, true));
        assert_eq!(config.kv_bytes_per_token(), 24 * 2 * 64 * 2 * 4);
    }

    #[test]
    fn the_base_of_positions_is_found_where_transformers_5_finds_it() {
        let theta = |top: Value, parameters: Value, scaling: Value| {
            let mut json = half_billion();
            for (key, value) in [("rope_theta", top), ("rope_parameters", parameters), ("rope_scaling", scaling)] {
                json[key] = value;
            }
            Qwen2Config::from_json(&json).unwrap().rope_theta
        };
        let none = || Value::Null;
        assert_eq!(theta(json!(1e6), none(), none()), 1e6);
        assert_eq!(theta(none(), json!({"rope_theta": 5e5, "rope_type": "default"}), none()), 5e5);
        assert_eq!(theta(json!(1e6), json!({"rope_theta": 5e5, "rope_type": "default"}), none()), 5e5);
        assert_eq!(theta(json!(1e6), json!({"rope_type": "default"}), none()), 1e6);
        assert_eq!(theta(none(), json!({"full_attention": {"rope_theta": 5e5, "rope_type": "default"}}), none()), 5e5);
        assert_eq!(theta(none(), none(), json!({"rope_theta": 2e5, "type": "default"})), 2e5);
        assert_eq!(theta(none(), none(), none()), 1e4);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, says) in [
            ("use_sliding_window", json!(true), "use_sliding_window"),
            ("use_sliding_window", json!("true"), "use_sliding_window"),
            ("tie_word_embeddings", json!("yes"), "tie_word_embeddings"),
            ("num_hidden_layers", json!(16_777_216), "num_hidden_layers"),
            ("rms_norm_eps", json!(-1), "rms_norm_eps"),
            ("rope_parameters", json!({"full_attention": {"rope_type": "yarn"}}), "yarn"),
            ("rope_parameters", json!({"rope_theta": "1e4"}), "rope_theta"),
            ("model_type", json!("qwen3"), "qwen3"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "sliding_attention"),
            ("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "yarn"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("num_key_value_heads", json!(3), "multiple"),
            ("hidden_size", json!(-1), "hidden_size"),
            ("vocab_size", json!("many"), "vocab_size"),
            ("head_dim", json!(63), "even"),
        ] {
            let error = with(key, value).unwrap_err();
            assert!(error.contains(says), "{key}: {error}");
        }
    }
}

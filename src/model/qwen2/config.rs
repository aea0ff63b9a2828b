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
            layers: size(json, "num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: number(json, "rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta: rope_theta(json)?,
            tied: json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
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
    if json.get("use_sliding_window").and_then(Value::as_bool) == Some(true) {
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
    for key in ["rope_scaling", "rope_parameters"] {
        let scaling = json.get(key).filter(|value| !value.is_null());
        let kind = scaling.and_then(|scaling| scaling.get("rope_type").or_else(|| scaling.get("type")));
        if let Some(kind) = kind.filter(|kind| **kind != "default") {
            return Err(format!(
                "`{key}` asks for {kind} position scaling, which is not supported; remove it to run within the trained context"
            ));
        }
    }
    Ok(())
}

/// `rope_theta` at the top (transformers 4) or inside `rope_parameters` (transformers 5).
fn rope_theta(json: &Value) -> Result<f64, String> {
    let inner = json.get("rope_parameters").map(|parameters| number(parameters, "rope_theta")).transpose()?.flatten();
    let theta = match number(json, "rope_theta")?.or(inner) {
        Some(theta) => theta,
        None => return Err("has neither `rope_theta` nor `rope_parameters.rope_theta`".into()),
    };
    if theta.is_finite() && theta > 0.0 { Ok(theta) } else { Err(format!("`rope_theta` {theta} is not positive")) }
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
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("`{key}` is {value}; expected a number")),
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
    fn rope_parameters_of_transformers_5_are_read() {
        let mut json = half_billion();
        json.as_object_mut().unwrap().remove("rope_theta");
        assert!(Qwen2Config::from_json(&json).unwrap_err().contains("rope_theta"));
        json["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
        assert_eq!(Qwen2Config::from_json(&json).unwrap().rope_theta, 10000.0);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, says) in [
            ("use_sliding_window", json!(true), "use_sliding_window"),
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

//! What a folder says about its quantisation: `hf_quant_config.json`, or `quantization_config` in `config.json`.
//! A model folder flows in; the scheme of every module flows out, or one sentence about what is not known.

use super::Scheme;
use crate::model::{ModelError, read_json};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// ModelOpt's file.
pub const QUANT_CONFIG: &str = "hf_quant_config.json";

/// Schemes by module. Which modules are quantised at all is told by the tensors: those with a `weight_scale`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    /// Of all modules that are not in `modules`.
    pub overall: Option<Scheme>,
    /// Of single modules, by full name (`model.layers.0.mlp.up_proj`): ModelOpt's `MIXED_PRECISION`.
    pub modules: BTreeMap<String, Scheme>,
    /// Whether keys and values are cached in FP8, with the scales `k_proj.k_scale` and `v_proj.v_scale`.
    pub kv_fp8: bool,
}

impl Declared {
    /// Reads what `folder` declares; `None` where nothing is quantised in this layout.
    ///
    /// # Errors
    /// A file that does not parse, or a quantisation that is not run: the sentence names it.
    pub fn read(folder: &Path) -> Result<Option<Declared>, ModelError> {
        let own = folder.join(QUANT_CONFIG);
        if own.is_file() {
            let json = read_json(&own)?;
            let Some(quantisation) = json.get("quantization") else {
                return Err(ModelError::invalid(&own, "has no `quantization` object"));
            };
            return Self::from_json(quantisation).map_err(|reason| ModelError::invalid(&own, reason));
        }
        let config = folder.join("config.json");
        let json = read_json(&config)?;
        let Some(quantisation) = json.get("quantization_config").filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let declared = match quantisation.get("quant_method").and_then(Value::as_str) {
            Some("sage") => Ok(None),
            Some("modelopt") => Self::from_json(quantisation),
            Some("compressed-tensors") => Self::from_compressed_tensors(quantisation).map(Some),
            Some(other) => Err(format!(
                "is quantised by `{other}`, which is not run here; give the unquantised checkpoint (`sage calibrate` quantises it) or ModelOpt's"
            )),
            None => Err("has a `quantization_config` without `quant_method`".to_owned()),
        };
        declared.map_err(|reason| ModelError::invalid(&config, reason))
    }

    /// The object with `quant_algo`, `quantized_layers` and the format of the cache.
    fn from_json(json: &Value) -> Result<Option<Declared>, String> {
        let scheme = |value: &Value| -> Result<Option<Scheme>, String> {
            let Some(name) = value.get("quant_algo").and_then(Value::as_str) else { return Ok(None) };
            let known = "FP8, NVFP4, NVFP4_AWQ, W4A16_NVFP4, W4A16_AWQ, W8A8_SQ_PER_CHANNEL and W8A16 are";
            Scheme::named(name).map(Some).ok_or_else(|| format!("`quant_algo` {name} is not run here; {known}"))
        };
        let mut declared = Declared::default();
        if json["quant_algo"] == "MIXED_PRECISION" {
            let Some(layers) = json.get("quantized_layers").and_then(Value::as_object) else {
                return Err("`quant_algo` is MIXED_PRECISION, but there is no `quantized_layers` object".into());
            };
            for (module, layer) in layers {
                if let Some(scheme) = scheme(layer)? {
                    declared.modules.insert(module.clone(), scheme);
                }
            }
        } else {
            declared.overall = scheme(json)?;
        }
        let cache = json.get("kv_cache_quant_algo").or_else(|| json.get("kv_cache_scheme"));
        declared.kv_fp8 = match cache {
            None | Some(Value::Null) => false,
            Some(Value::String(name)) if name == "FP8" => true,
            Some(Value::Object(form))
                if form.get("num_bits") == Some(&8.into()) && form.get("type") == Some(&"float".into()) =>
            {
                true
            }
            Some(other) => return Err(format!("keys and values cached as {other} are not run here; FP8 is")),
        };
        let nothing = declared.overall.is_none() && declared.modules.is_empty() && !declared.kv_fp8;
        Ok(if nothing { None } else { Some(declared) })
    }

    /// llm-compressor's layout, as far as it is ModelOpt's: FP8 with one scale per tensor, fixed beforehand.
    fn from_compressed_tensors(json: &Value) -> Result<Declared, String> {
        let groups = json.get("config_groups").and_then(Value::as_object);
        let plain = |part: &Value| {
            part["num_bits"] == 8
                && part["type"] == "float"
                && part["strategy"].as_str().is_none_or(|strategy| strategy == "tensor")
                && part["dynamic"] != true
        };
        let all_plain = groups.is_some_and(|groups| {
            !groups.is_empty()
                && groups.values().all(|group| plain(&group["weights"]) && plain(&group["input_activations"]))
        });
        let cached = json.get("kv_cache_scheme").is_some_and(|scheme| !scheme.is_null());
        if !all_plain || cached {
            let reason = "is quantised by `compressed-tensors` in a way that is not run here; FP8 with one fixed scale per tensor is";
            return Err(reason.into());
        }
        Ok(Declared { overall: Scheme::named("FP8"), ..Declared::default() })
    }

    /// The scheme of a module that is quantised.
    pub fn scheme(&self, module: &str) -> Option<Scheme> {
        self.modules.get(module).copied().or(self.overall)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::json;

    fn read(name: &str, content: Value) -> Result<Option<Declared>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        Declared::read(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn modelopts_files_are_understood() {
        let algo = |name: &str| {
            json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": name,
            "kv_cache_quant_algo": null, "group_size": 16, "exclude_modules": ["lm_head"]}})
        };
        let nvfp4 = read(QUANT_CONFIG, algo("NVFP4")).unwrap().unwrap();
        assert_eq!(nvfp4.scheme("anything"), Some(Scheme { format: Format::Nvfp4, inputs: true }));
        assert!(!nvfp4.kv_fp8);
        let refused = read(QUANT_CONFIG, algo("MXFP8")).unwrap_err();
        assert!(refused.contains("MXFP8") && refused.contains("NVFP4"), "{refused}");

        let mixed = json!({"quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8", "quantized_layers":
            {"model.layers.0.mlp.up_proj": {"quant_algo": "W4A16_AWQ", "group_size": 64}}}});
        let mixed = read(QUANT_CONFIG, mixed).unwrap().unwrap();
        assert_eq!(mixed.scheme("model.layers.0.mlp.up_proj"), Some(Scheme { format: Format::Int4, inputs: false }));
        assert_eq!((mixed.scheme("model.layers.0.mlp.down_proj"), mixed.kv_fp8), (None, true));
    }

    #[test]
    fn config_json_is_read_where_there_is_no_file_of_modelopts() {
        let own = |config: Value| read("config.json", json!({"quantization_config": config}));
        let converted = json!({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"],
            "kv_cache_scheme": {"dynamic": false, "num_bits": 8, "type": "float"}});
        assert!(own(converted).unwrap().unwrap().kv_fp8);
        let half = json!({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false});
        let compressed = json!({"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"weights": half, "input_activations": half}}});
        assert_eq!(own(compressed).unwrap().unwrap().overall, Scheme::named("FP8"));
        let dynamic = json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights":
            {"num_bits": 8, "type": "float", "strategy": "channel"}, "input_activations": {"dynamic": true}}}});
        assert!(own(dynamic).unwrap_err().contains("one fixed scale"));
        let untyped = json!({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8}});
        assert!(own(untyped).unwrap_err().contains("keys and values"));
        assert!(own(json!({"quant_method": "gptq"})).unwrap_err().contains("gptq"));
        assert_eq!(own(json!({"quant_method": "sage", "bits": 4})), Ok(None));
        assert_eq!(read("config.json", json!({})), Ok(None));
    }
}

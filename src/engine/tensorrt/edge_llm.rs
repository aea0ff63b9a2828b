//! Engines that TensorRT Edge-LLM built, as far as its documentation goes: what the folder's configuration says, which files
//! of the layout are there, and whether the plugin library that its plans need is found. A folder flows in; lines for people
//! flow out. The names are those that Edge-LLM's own runtime reads (cpp/runtime/config of version 0.9 to 0.12).

use super::{TrtError, at, shelf};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Names that its configuration may have: of a plain engine, and of the two of speculative decoding.
pub const CONFIGS: [&str; 3] = ["config.json", "base_config.json", "draft_config.json"];
/// What else belongs to the layout. The embedding is looked up outside the engine; the template's name changed in 0.11.
const BESIDE: [&str; 4] =
    ["embedding.safetensors", "tokenizer.json", "tokenizer_config.json", "processed_chat_template.json"];
/// Its library of TensorRT plugins, and the variable that says where it is.
const PLUGIN: &str = "libNvInfer_edgellm_plugin.so";
const PLUGIN_VARIABLE: &str = "EDGELLM_PLUGIN_PATH";

/// An engine of Edge-LLM.
#[derive(Debug, Clone)]
pub struct EdgeLlm {
    folder: PathBuf,
    plans: Vec<(String, u64)>,
    configs: Vec<(&'static str, Value)>,
    missing: Vec<&'static str>,
    plugin: Option<PathBuf>,
}

/// The plans of the folder, by name, if it has the layout of Edge-LLM: a configuration and files called `.engine`.
pub fn plans(folder: &Path) -> Option<Vec<String>> {
    let mut plans: Vec<String> = shelf::files(folder).filter(|name| name.ends_with(".engine")).collect();
    plans.sort();
    (!plans.is_empty() && CONFIGS.iter().any(|name| folder.join(name).is_file())).then_some(plans)
}

/// Why a folder of Edge-LLM's cannot be run, built from or looked after; `None`: it is no such folder.
pub fn refusal(folder: &Path) -> Option<String> {
    plans(folder)?;
    Some(format!(
        "{}: is an engine of TensorRT Edge-LLM, which sage does not run, as kernels of Edge-LLM's own runtime fill its inputs; give \
         the checkpoint or what `sage engine build` makes of it; `sage engine inspect` says what lies there",
        folder.display()
    ))
}

impl EdgeLlm {
    /// Reads what lies in the folder beside `plans`. `plugin` is the value of `EDGELLM_PLUGIN_PATH`.
    ///
    /// # Errors
    /// A file cannot be read, or a configuration is no JSON object.
    pub fn read(folder: &Path, plans: &[String], plugin: Option<OsString>) -> Result<EdgeLlm, TrtError> {
        let mut configs = Vec::new();
        for name in CONFIGS {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(at(&path))?;
            let config: Value = serde_json::from_str(&text)
                .map_err(|error| TrtError::Stale(format!("{}: is no configuration ({error})", path.display())))?;
            if !config.is_object() {
                return Err(TrtError::Stale(format!("{}: is no configuration of an engine", path.display())));
            }
            configs.push((name, config));
        }
        let size = |name: &String| {
            let path = folder.join(name);
            std::fs::metadata(&path).map_err(at(&path)).map(|about| (name.clone(), about.len()))
        };
        let plugin = plugin.map_or_else(|| folder.join(PLUGIN), PathBuf::from);
        Ok(EdgeLlm {
            folder: folder.to_owned(),
            plans: plans.iter().map(size).collect::<Result<_, _>>()?,
            configs,
            missing: BESIDE.into_iter().filter(|name| !folder.join(name).is_file()).collect(),
            plugin: plugin.is_file().then_some(plugin),
        })
    }
}

fn number(config: &Value, name: &str) -> Option<u64> {
    config.get(name)?.as_u64()
}

/// Bytes of keys and values at full batch and capacity, if the configuration says enough.
pub fn kv_bytes(config: &Value) -> Option<u64> {
    let builder = config.get("builder_config")?;
    let positions = number(builder, "max_kv_cache_capacity")? * number(builder, "max_batch_size")?;
    let element = match config.get("kv_cache_dtype").and_then(Value::as_str)? {
        "fp32" => 4,
        "fp16" | "bf16" => 2,
        "fp8" | "int8" => 1,
        _ => return None,
    };
    let row = |heads: Option<u64>, width: Option<u64>| Some(heads? * width?);
    // Layers of different widths are listed; those without attention are null there.
    let rows = match config.get("kv_layer_configs").and_then(Value::as_array) {
        Some(layers) => layers
            .iter()
            .filter(|layer| !layer.is_null())
            .map(|layer| row(number(layer, "num_kv_heads"), number(layer, "head_dim")))
            .sum::<Option<u64>>()?,
        None => {
            let layers = number(config, "num_attention_layers").or_else(|| number(config, "num_hidden_layers"))?;
            layers * row(number(config, "num_key_value_heads"), number(config, "head_dim"))?
        }
    };
    Some(2 * rows * positions * element)
}

/// The numbers that the weights are in, if the configuration says so.
fn precision(config: &Value) -> Option<&str> {
    let of = |section: &str, name: &str| config.get(section)?.get(name)?.as_str();
    of("quantization", "quant_algo")
        .or_else(|| of("quantization_config", "quant_algo"))
        .or_else(|| of("quantization_config", "quant_method"))
        .or_else(|| config.get("quantization").and_then(Value::as_str))
        .or_else(|| config.get("torch_dtype").and_then(Value::as_str))
}

impl EdgeLlm {
    fn write_config(f: &mut fmt::Formatter<'_>, name: &str, config: &Value) -> fmt::Result {
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let count = |key: &str| number(config, key).map_or("?".to_owned(), |n| n.to_string());
        let model = text("model").or_else(|| text("model_type")).unwrap_or("model not named");
        let version = text("edgellm_version").unwrap_or("not stated");
        writeln!(f, "  {name}: {model}, exported by Edge-LLM {version}")?;
        writeln!(
            f,
            "    {} layers of {}, {} query and {} key/value heads of {}, {} words",
            count("num_hidden_layers"),
            count("hidden_size"),
            count("num_attention_heads"),
            count("num_key_value_heads"),
            count("head_dim"),
            count("vocab_size")
        )?;
        if let Some(reduced) = number(config, "reduced_vocab_size").filter(|words| *words > 0) {
            writeln!(f, "    of which it can say {reduced}")?;
        }
        writeln!(f, "    weights: {}", precision(config).unwrap_or("precision not stated"))?;
        let builder = config.get("builder_config").unwrap_or(&Value::Null);
        let limit = |key: &str| number(builder, key).map_or("?".to_owned(), |n| n.to_string());
        let cache = kv_bytes(config).map_or(String::new(), |bytes| format!(", {:.1} MB in all", bytes as f64 / 1e6));
        writeln!(
            f,
            "    built for {} requests at once, prompts of {} tokens, {} positions of KV cache in {}{cache}",
            limit("max_batch_size"),
            limit("max_input_len"),
            limit("max_kv_cache_capacity"),
            text("kv_cache_dtype").unwrap_or("a type that is not stated")
        )?;
        let speculative = text("spec_decode_type").filter(|kind| *kind != "none");
        if let Some(kind) = speculative {
            writeln!(f, "    speculative decoding: {kind}, as {}", text("engine_role").unwrap_or("?"))?;
        }
        Ok(())
    }
}

impl fmt::Display for EdgeLlm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: an engine of TensorRT Edge-LLM", self.folder.display())?;
        for (name, bytes) in &self.plans {
            writeln!(f, "  {name}: {:.1} MB", *bytes as f64 / 1e6)?;
        }
        for (name, config) in &self.configs {
            EdgeLlm::write_config(f, name, config)?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "  not there: {}", self.missing.join(", "))?;
        }
        match &self.plugin {
            Some(path) => writeln!(f, "  its plugin library: {}", path.display())?,
            None => writeln!(
                f,
                "  its plugin library, which every plan of it needs, is not found: set {PLUGIN_VARIABLE} to the {PLUGIN} of the \
                 Edge-LLM that built it"
            )?,
        }
        writeln!(
            f,
            "  sage does not run it. A plan names its tensors only once it is loaded: by the TensorRT that built it, with that \
             plugin library, on the GPU it was built for. The inputs beside the embeddings (page tables, positions, rotary tables) \
             are filled by kernels of Edge-LLM's own runtime and change from one version to the next"
        )
    }
}

/// The value of the variable that names the plugin library.
pub fn plugin_variable() -> Option<OsString> {
    std::env::var_os(PLUGIN_VARIABLE).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({"edgellm_version": "0.9.1", "model": "qwen2", "num_hidden_layers": 48, "hidden_size": 5120,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 152_064,
            "kv_cache_dtype": "fp8", "quantization_config": {"quant_algo": "NVFP4"}, "spec_decode_type": "none",
            "builder_config": {"max_batch_size": 1, "max_input_len": 1024, "max_kv_cache_capacity": 4096}})
    }

    fn folder(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("llm.engine"), vec![0; 2_000_000]).unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        folder
    }

    fn read(folder: &Path, plugin: Option<&Path>) -> Result<String, TrtError> {
        let plugin = plugin.map(|path| path.as_os_str().to_owned());
        EdgeLlm::read(folder, &["llm.engine".to_owned()], plugin).map(|engine| engine.to_string())
    }

    #[test]
    fn what_the_configuration_says_is_told_and_what_is_missing_too() {
        let folder = folder(&config().to_string());
        let text = read(folder.path(), None).unwrap();
        for told in [
            "Edge-LLM 0.9.1",
            "qwen2",
            "48 layers of 5120",
            "40 query and 8 key/value heads of 128",
            "152064 words",
            "NVFP4",
            "1 requests at once, prompts of 1024 tokens, 4096 positions of KV cache in fp8, 402.7 MB in all",
            "llm.engine: 2.0 MB",
            "not there: embedding.safetensors, tokenizer_config.json",
            "EDGELLM_PLUGIN_PATH",
            "sage does not run it",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
        let plugin = folder.path().join("libNvInfer_edgellm_plugin.so");
        std::fs::write(&plugin, "").unwrap();
        let found = format!("its plugin library: {}", plugin.display());
        assert!(read(folder.path(), None).unwrap().contains(&found), "beside the plans");
        assert!(read(folder.path(), Some(&plugin)).unwrap().contains(&found));
        assert!(read(folder.path(), Some(Path::new("/no/such.so"))).unwrap().contains("is not found"));
    }

    #[test]
    fn the_cache_of_layers_of_different_widths_is_their_sum() {
        let mut mixed = config();
        mixed["kv_layer_configs"] =
            json!([{"num_kv_heads": 2, "head_dim": 64}, null, {"num_kv_heads": 1, "head_dim": 256}]);
        assert_eq!(kv_bytes(&mixed), Some(2 * (128 + 256) * 4096));
        mixed["kv_cache_dtype"] = json!("fp5");
        assert_eq!(kv_bytes(&mixed), None);
    }

    #[test]
    fn a_configuration_that_is_none_is_one_sentence_and_an_empty_one_is_shown_as_unknown() {
        for bad in ["no json", "[1]"] {
            let error = read(folder(bad).path(), None).err().unwrap().to_string();
            assert!(error.contains("config.json") && error.lines().count() == 1, "{error}");
        }
        let text = read(folder("{}").path(), None).unwrap();
        assert!(text.contains("model not named") && text.contains("? layers of ?"), "{text}");
    }
}

//! Makes small checkpoints in Hugging Face layout from a seed: the weights that tests/reference/qwen2.py gives to
//! `transformers`, bit for bit.

#![allow(dead_code)] // each test uses its part

use half::{bf16, f16};
use serde_json::{Value, json};
use std::path::Path;

/// Shape of one reference case, read from tests/reference/qwen2.json.
pub struct Case {
    pub index: usize,
    pub json: Value,
    pub seed: u64,
}

impl Case {
    pub fn size(&self, key: &str) -> usize {
        self.json[key].as_u64().unwrap() as usize
    }

    pub fn floats(&self, key: &str) -> Vec<f32> {
        self.json[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    pub fn tokens(&self) -> Vec<u32> {
        self.json["tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    pub fn prompt(&self) -> Vec<u32> {
        let vocabulary = self.size("vocabulary") as u64;
        let base = start(&format!("{}.prompt", self.index), self.seed);
        (0..self.size("prompt")).map(|i| (hashed(base, i) % vocabulary) as u32).collect()
    }

    /// config.json, with the position base where transformers 4 or 5 put it.
    pub fn config(&self) -> Value {
        let mut config = json!({
            "model_type": "qwen2", "hidden_size": self.size("hidden"), "intermediate_size": self.size("inner"),
            "num_hidden_layers": self.size("layers"), "num_attention_heads": self.size("heads"),
            "num_key_value_heads": self.size("kv_heads"), "head_dim": self.size("head_dim"),
            "vocab_size": self.size("vocabulary"), "tie_word_embeddings": self.json["tied"], "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048, "use_sliding_window": false, "hidden_act": "silu",
        });
        if self.index.is_multiple_of(2) {
            config["rope_theta"] = self.json["theta"].clone();
        } else {
            config["rope_parameters"] = json!({"rope_theta": self.json["theta"], "rope_type": "default"});
        }
        config
    }

    /// Writes the checkpoint: one file, or with `shards` > 1 that many and an index.
    pub fn write(&self, directory: &Path, shards: usize) {
        std::fs::write(directory.join("config.json"), self.config().to_string()).unwrap();
        let tensors = self.tensors();
        let dtype = json!(self.json["dtype"].as_str().unwrap().to_uppercase());
        let write = |file: &str, part: &[(String, Vec<usize>)]| {
            let whole =
                part.iter().map(|(name, shape)| (name.as_str(), dtype.clone(), &shape[..], self.bytes(name, shape)));
            write_file(&directory.join(file), whole);
        };
        if shards == 1 {
            return write("model.safetensors", &tensors);
        }
        let mut map = serde_json::Map::new();
        for (number, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", number + 1);
            write(&file, part);
            map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
        }
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(directory.join("model.safetensors.index.json"), index).unwrap();
    }

    /// Names and shapes.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.size("hidden"), self.size("inner"));
        let queries = self.size("heads") * self.size("head_dim");
        let keys = self.size("kv_heads") * self.size("head_dim");
        let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![self.size("vocabulary"), hidden])];
        for layer in 0..self.size("layers") {
            let mut add =
                |part: &str, shape: &[usize]| list.push((format!("model.layers.{layer}.{part}"), shape.to_vec()));
            for (name, rows) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
                add(&format!("self_attn.{name}.weight"), &[rows, hidden]);
                add(&format!("self_attn.{name}.bias"), &[rows]);
            }
            add("self_attn.o_proj.weight", &[hidden, queries]);
            add("mlp.gate_proj.weight", &[inner, hidden]);
            add("mlp.up_proj.weight", &[inner, hidden]);
            add("mlp.down_proj.weight", &[hidden, inner]);
            add("input_layernorm.weight", &[hidden]);
            add("post_attention_layernorm.weight", &[hidden]);
        }
        list.push(("model.norm.weight".to_owned(), vec![hidden]));
        if self.json["tied"] == json!(false) {
            list.push(("lm_head.weight".to_owned(), vec![self.size("vocabulary"), hidden]));
        }
        list
    }

    fn bytes(&self, name: &str, shape: &[usize]) -> Vec<u8> {
        let dtype = self.json["dtype"].as_str().unwrap();
        let bits = match dtype {
            "bf16" => 8,
            "f16" => 11,
            _ => 24,
        };
        let base = start(&format!("{}.{name}", self.index), self.seed);
        let columns = shape[shape.len() - 1] as f64;
        let mut shift = if name.ends_with("bias") { 10 } else { (73.9 * columns.sqrt()).log2().round() as i32 };
        if name.contains("o_proj") || name.contains("down_proj") {
            shift -= 3;
        }
        let mut bytes = Vec::new();
        for i in 0..shape.iter().product() {
            let whole = (hashed(base, i) >> (64 - bits)) as i64 - (1 << (bits - 1));
            let value = if name.contains("norm") {
                1.0 + whole.div_euclid(1 << (bits - 6)) as f32 / 128.0
            } else {
                whole as f32 * 2f32.powi(-(shift + bits - 8))
            };
            match dtype {
                "bf16" => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                "f16" => bytes.extend(f16::from_f32(value).to_le_bytes()),
                _ => bytes.extend(value.to_le_bytes()),
            }
        }
        bytes
    }
}

/// All cases of tests/reference/qwen2.json.
pub fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_str(include_str!("../reference/qwen2.json")).unwrap();
    let seed = json["seed"].as_u64().unwrap();
    let list = json["cases"].as_array().unwrap().iter().cloned();
    list.enumerate().map(|(index, json)| Case { index, json, seed }).collect()
}

/// FNV-1a of the name, plus the seed.
pub fn start(name: &str, seed: u64) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    hash.wrapping_add(seed)
}

/// SplitMix64.
pub fn hashed(base: u64, index: usize) -> u64 {
    let mut z = base.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes tensors, by name with type, shape and bytes, as a safetensors file.
pub fn write_file<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, Value, &'a [usize], Vec<u8>)>) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let from = data.len();
        data.extend(bytes);
        header.insert(name.to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

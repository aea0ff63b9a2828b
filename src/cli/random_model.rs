//! A checkpoint of random weights in the shape of a published Qwen2.5, in a temporary folder that is removed at the end. A shape
//! flows in, a folder in Hugging Face layout flows out: enough to measure speed and memory without any download.

use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A published shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// A few hundred thousand weights: to try the benchmark itself.
    Tiny,
    /// Qwen2.5-0.5B.
    #[value(name = "0.5b")]
    HalfBillion,
    /// Qwen2.5-1.5B.
    #[value(name = "1.5b")]
    OneAndAHalfBillion,
}

impl Shape {
    fn config(self) -> Value {
        let (hidden, inner, layers, heads, kv_heads, vocabulary) = match self {
            Shape::Tiny => (64, 160, 2, 4, 2, 512),
            Shape::HalfBillion => (896, 4864, 24, 14, 2, 151_936),
            Shape::OneAndAHalfBillion => (1536, 8960, 28, 12, 2, 151_936),
        };
        json!({
            "model_type": "qwen2", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "tie_word_embeddings": true, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32_768,
            "hidden_act": "silu", "use_sliding_window": false, "torch_dtype": "bfloat16",
        })
    }
}

/// A folder of this process in the system's temporary folder; removed when dropped.
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Makes it.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn make(name: &str) -> io::Result<TemporaryFolder> {
        let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(TemporaryFolder(folder))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // A folder that cannot be removed stays in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The checkpoint; removed when dropped.
pub struct RandomModel(TemporaryFolder);

impl RandomModel {
    /// Writes config and weights to a temporary folder.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn write(shape: Shape) -> io::Result<RandomModel> {
        let folder = TemporaryFolder::make("sage-random-model")?;
        Self::write_to(folder.path(), shape)?;
        Ok(RandomModel(folder))
    }

    /// Writes config and weights to `folder`, where they stay.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_to(folder: &Path, shape: Shape) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let config = shape.config();
        std::fs::write(folder.join("config.json"), config.to_string())?;
        write_weights(&folder.join("model.safetensors"), &tensors(&config))
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}

/// Names and shapes of all tensors.
fn tensors(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |key: &str| config[key].as_u64().unwrap_or_default() as usize;
    let (hidden, inner) = (size("hidden_size"), size("intermediate_size"));
    let keys = hidden / size("num_attention_heads") * size("num_key_value_heads");
    let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![size("vocab_size"), hidden])];
    for layer in 0..size("num_hidden_layers") {
        for (part, shape) in [
            ("input_layernorm.weight", vec![hidden]),
            ("self_attn.q_proj.weight", vec![hidden, hidden]),
            ("self_attn.q_proj.bias", vec![hidden]),
            ("self_attn.k_proj.weight", vec![keys, hidden]),
            ("self_attn.k_proj.bias", vec![keys]),
            ("self_attn.v_proj.weight", vec![keys, hidden]),
            ("self_attn.v_proj.bias", vec![keys]),
            ("self_attn.o_proj.weight", vec![hidden, hidden]),
            ("post_attention_layernorm.weight", vec![hidden]),
            ("mlp.gate_proj.weight", vec![inner, hidden]),
            ("mlp.up_proj.weight", vec![inner, hidden]),
            ("mlp.down_proj.weight", vec![hidden, inner]),
        ] {
            list.push((format!("model.layers.{layer}.{part}"), shape));
        }
    }
    list.push(("model.norm.weight".to_owned(), vec![hidden]));
    list
}

/// Bytes written at a time.
const BLOCK: usize = 1 << 18;

/// Writes bf16 tensors: norms are 1, all else is uniform with a standard deviation of 1 / sqrt(inputs).
fn write_weights(path: &Path, tensors: &[(String, Vec<usize>)]) -> io::Result<()> {
    let mut header = Map::new();
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(64) + 56 - header.len()));
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut block = Vec::with_capacity(BLOCK + 16);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for (name, shape) in tensors {
        let inputs = shape.last().copied().unwrap_or(1) as f32;
        let scale = (3.0 / inputs).sqrt();
        let norm = name.contains("norm");
        let table: [[u8; 2]; 256] = std::array::from_fn(|byte| {
            let value = if norm { 1.0 } else { (byte as f32 - 127.5) / 127.5 * scale };
            half::bf16::from_f32(value).to_le_bytes()
        });
        let count: usize = shape.iter().product();
        for first in (0..count).step_by(8) {
            // xorshift64 (Marsaglia 2003): eight bytes choose eight weights.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let chosen = &state.to_le_bytes()[..8.min(count - first)];
            block.extend(chosen.iter().flat_map(|byte| table[usize::from(*byte)]));
            if block.len() >= BLOCK {
                file.write_all(&block)?;
                block.clear();
            }
        }
        file.write_all(&block)?;
        block.clear();
    }
    Ok(())
}

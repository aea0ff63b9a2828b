//! A checkpoint of Qwen2.5-14B's shape, 29.5 GB, loads and gives a token on a machine with less memory than that: weights are
//! mapped, never copied. The file is sparse, so it takes no disk space. Reading its holes takes a while: run it by name,
//! `cargo test --release --test sparse_14b -- --ignored --nocapture`. Emitting it as ONNX reads headers only.

use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions, Generation, Step};
use sage::model::onnx::{Form, Options, Precision, emit};
use sage::model::qwen2::Qwen2Weights;
use sage::model::sampling::{Sampler, Sampling};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const LAYERS: usize = 48;
const HIDDEN: usize = 5120;
const INNER: usize = 13_824;
const KEYS: usize = 8 * 128;
const ROWS: usize = 152_064;

/// Writes config and two shards of bf16 tensors that are all zero, and not a byte of them to the disk.
fn write(folder: &Path) -> u64 {
    let config = json!({
        "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": ROWS, "tie_word_embeddings": false,
        "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32_768,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shards: [Vec<(String, Vec<usize>)>; 2] = Default::default();
    shards[0].push(("model.embed_tokens.weight".to_owned(), vec![ROWS, HIDDEN]));
    shards[1].push(("lm_head.weight".to_owned(), vec![ROWS, HIDDEN]));
    shards[1].push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("input_layernorm.weight", vec![HIDDEN]),
            ("self_attn.q_proj.weight", vec![HIDDEN, HIDDEN]),
            ("self_attn.q_proj.bias", vec![HIDDEN]),
            ("self_attn.k_proj.weight", vec![KEYS, HIDDEN]),
            ("self_attn.k_proj.bias", vec![KEYS]),
            ("self_attn.v_proj.weight", vec![KEYS, HIDDEN]),
            ("self_attn.v_proj.bias", vec![KEYS]),
            ("self_attn.o_proj.weight", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm.weight", vec![HIDDEN]),
            ("mlp.gate_proj.weight", vec![INNER, HIDDEN]),
            ("mlp.up_proj.weight", vec![INNER, HIDDEN]),
            ("mlp.down_proj.weight", vec![HIDDEN, INNER]),
        ] {
            shards[layer * 2 / LAYERS].push((format!("model.layers.{layer}.{part}"), shape));
        }
    }
    let (mut map, mut total) = (Map::new(), 0);
    for (number, tensors) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", number + 1);
        let (mut header, mut at) = (Map::new(), 0);
        for (tensor, shape) in tensors {
            let end = at + 2 * shape.iter().product::<usize>();
            header.insert(tensor.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
            map.insert(tensor.clone(), json!(name));
            at = end;
        }
        let header = Value::Object(header).to_string();
        let mut file = File::create(folder.join(&name)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        let length = (8 + header.len() + at) as u64;
        file.set_len(length).unwrap();
        total += length;
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map}).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    total
}

/// Bytes of this process that no file holds.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn fourteen_billion_weights_are_emitted_as_onnx_without_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = write(folder.path());
    for form in [Form::Fused, Form::Primitive] {
        let before = anonymous_bytes();
        let began = Instant::now();
        let options = Options { form, precision: Precision::Bf16, weights: None, capacity: 4096, groups: 4 };
        let emitted = emit(folder.path(), &folder.path().join("out"), &options).unwrap();
        let taken = began.elapsed();
        let beside: u64 = emitted.graphs.iter().map(|graph| graph.bytes).sum();
        let grown = anonymous_bytes().saturating_sub(before);
        println!("{form:?}: {beside} bytes beside {bytes} in {taken:?}, {grown} bytes of memory more");
        assert!(beside < 20_000_000, "{beside} bytes beside the safetensors");
        assert!(grown < 200_000_000, "{grown} bytes of memory");
        assert_eq!(emitted.weights.len(), 2);
    }
}

#[test]
#[ignore = "reads 29.5 GB of holes: half a minute and more"]
fn fourteen_billion_weights_load_and_give_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = write(folder.path());
    assert!(bytes > 29_000_000_000);
    let began = Instant::now();
    let weights = Arc::new(Qwen2Weights::open(folder.path()).unwrap());
    assert_eq!(weights.file_bytes, bytes);
    println!("loaded {bytes} bytes in {:?}", began.elapsed());
    let options = DecoderOptions { threads: 1, context: 64, ..DecoderOptions::default() };
    let mut decoder = Decoder::new(weights, options).unwrap();
    let mut generation = Generation::new(&decoder, Sampler::new(Sampling::default(), 151_665, 0));
    generation.start(&[9707], 1, 0).unwrap();
    let began = Instant::now();
    let step = generation.step(&mut decoder, &CancelToken::default()).unwrap();
    // All logits are zero: the first of equals.
    assert_eq!(step, Step::Token(0));
    let kv = generation.kv().bytes() as u64;
    println!("one token in {:?}; {} bytes besides the file, {kv} of them cache", began.elapsed(), anonymous_bytes());
    assert!(anonymous_bytes() < 64_000_000 + kv, "{} bytes besides the file", anonymous_bytes());
}

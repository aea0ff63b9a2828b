//! A checkpoint in Hugging Face layout, bf16, one file, becomes a GGUF file. Every matrix, embedding included, is stored in the
//! format asked for, so that llama.cpp reads as many bytes a token as sage does; norms and biases are f32. The vocabulary is made up.

use crate::Failure;
use llama_cpp_sys_2 as llama;
use serde_json::{Map, Value};
use std::ffi::CString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Tensors begin at multiples of this (GGUF's default).
const ALIGNMENT: usize = 32;

/// One tensor of the checkpoint.
struct Source<'a> {
    name: CString,
    /// Rows and columns; rows 0 for a vector.
    shape: (usize, usize),
    /// bf16, little endian.
    bytes: &'a [u8],
}

impl Source<'_> {
    fn stored_as(&self, matrices: llama::ggml_type) -> llama::ggml_type {
        if self.shape.0 == 0 { llama::GGML_TYPE_F32 } else { matrices }
    }
}

/// Writes `file` from the checkpoint in `model`.
pub fn write(model: &Path, file: &Path, format: &str) -> Result<(), Failure> {
    let (kind, number) = match format {
        "bf16" => (llama::GGML_TYPE_BF16, 32),
        "q8_0" => (llama::GGML_TYPE_Q8_0, 7),
        "q4_0" => (llama::GGML_TYPE_Q4_0, 2),
        other => return Err(format!("{other} is no format; say bf16, q8_0 or q4_0").into()),
    };
    let config: Value = serde_json::from_slice(&std::fs::read(model.join("config.json"))?)?;
    let weights = File::open(model.join("model.safetensors"))?;
    // SAFETY: nobody changes the file while this program runs.
    let weights = unsafe { memmap2::Mmap::map(&weights)? };
    let tensors = tensors(&weights)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
    out.write_all(&header(&config, &tensors, kind, number))?;
    for tensor in &tensors {
        let data = convert(tensor, tensor.stored_as(kind));
        out.write_all(&data)?;
        out.write_all(&[0; ALIGNMENT][..data.len().next_multiple_of(ALIGNMENT) - data.len()])?;
    }
    out.flush()?;
    Ok(())
}

/// All tensors of a safetensors file, under llama.cpp's names.
fn tensors(file: &[u8]) -> Result<Vec<Source<'_>>, Failure> {
    let size = u64::from_le_bytes(file[..8].try_into()?) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + size])?;
    let number = |value: &Value| value.as_u64().unwrap_or_default() as usize;
    let mut list = Vec::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        if entry["dtype"] != "BF16" {
            return Err(format!("{name} is not bf16").into());
        }
        let at = &entry["data_offsets"];
        let shape = match entry["shape"].as_array().map(Vec::as_slice) {
            Some([rows, columns]) => (number(rows), number(columns)),
            Some([length]) => (0, number(length)),
            _ => return Err(format!("{name} is neither a matrix nor a vector").into()),
        };
        let bytes = &file[8 + size + number(&at[0])..8 + size + number(&at[1])];
        list.push(Source { name: CString::new(llama_name(name)?)?, shape, bytes });
    }
    Ok(list)
}

/// `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`.
fn llama_name(name: &str) -> Result<String, Failure> {
    match name {
        "model.embed_tokens.weight" => return Ok("token_embd.weight".into()),
        "model.norm.weight" => return Ok("output_norm.weight".into()),
        "lm_head.weight" => return Ok("output.weight".into()),
        _ => {}
    }
    let unknown = || format!("{name} is unknown");
    let rest = name.strip_prefix("model.layers.").ok_or_else(unknown)?;
    let (layer, rest) = rest.split_once('.').ok_or_else(unknown)?;
    let (part, kind) = rest.rsplit_once('.').ok_or_else(unknown)?;
    let part = match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        _ => return Err(unknown().into()),
    };
    Ok(format!("blk.{layer}.{part}.{kind}"))
}

/// Everything before the tensors' data.
fn header(config: &Value, tensors: &[Source], matrices: llama::ggml_type, file_type: u32) -> Vec<u8> {
    let size = |key: &str| config[key].as_u64().unwrap_or_default() as u32;
    let float = |key: &str| config[key].as_f64().unwrap_or_default() as f32;
    let vocabulary = size("vocab_size") as usize;
    let words: Vec<CString> = (0..vocabulary).map(|id| c(&format!("t{id}"))).collect();
    let mut words: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    // 1: a normal token; 3: a control token.
    let mut kinds = vec![1i32; vocabulary];
    kinds[vocabulary - 1] = 3;
    let merge = c("t 1");
    let mut merges = [merge.as_ptr()];
    let shapes = llama::ggml_init_params {
        mem_size: 1024 * (tensors.len() + 16),
        mem_buffer: std::ptr::null_mut(),
        no_alloc: true,
    };
    // SAFETY: every pointer passed lives until the call returns (ggml copies keys, values, names and shapes), arrays have the
    // lengths given, and both contexts are freed once, after their last use.
    unsafe {
        let gguf = llama::gguf_init_empty();
        let text = |key: &str, value: &str| llama::gguf_set_val_str(gguf, c(key).as_ptr(), c(value).as_ptr());
        let whole = |key: &str, value: u32| llama::gguf_set_val_u32(gguf, c(key).as_ptr(), value);
        let real = |key: &str, value: f32| llama::gguf_set_val_f32(gguf, c(key).as_ptr(), value);
        text("general.architecture", "qwen2");
        text("general.name", "random weights");
        whole("general.file_type", file_type);
        whole("qwen2.context_length", size("max_position_embeddings"));
        whole("qwen2.embedding_length", size("hidden_size"));
        whole("qwen2.block_count", size("num_hidden_layers"));
        whole("qwen2.feed_forward_length", size("intermediate_size"));
        whole("qwen2.attention.head_count", size("num_attention_heads"));
        whole("qwen2.attention.head_count_kv", size("num_key_value_heads"));
        real("qwen2.attention.layer_norm_rms_epsilon", float("rms_norm_eps"));
        real("qwen2.rope.freq_base", float("rope_theta"));
        text("tokenizer.ggml.model", "gpt2");
        text("tokenizer.ggml.pre", "qwen2");
        llama::gguf_set_arr_str(gguf, c("tokenizer.ggml.tokens").as_ptr(), words.as_mut_ptr(), words.len());
        let key = c("tokenizer.ggml.token_type");
        llama::gguf_set_arr_data(gguf, key.as_ptr(), llama::GGUF_TYPE_INT32, kinds.as_ptr().cast(), kinds.len());
        llama::gguf_set_arr_str(gguf, c("tokenizer.ggml.merges").as_ptr(), merges.as_mut_ptr(), 1);
        whole("tokenizer.ggml.eos_token_id", vocabulary as u32 - 1);
        whole("tokenizer.ggml.bos_token_id", vocabulary as u32 - 1);
        llama::gguf_set_val_bool(gguf, c("tokenizer.ggml.add_bos_token").as_ptr(), false);
        let context = llama::ggml_init(shapes);
        for tensor in tensors {
            let (rows, columns) = tensor.shape;
            let kind = tensor.stored_as(matrices);
            let shape = if rows == 0 {
                llama::ggml_new_tensor_1d(context, kind, columns as i64)
            } else {
                llama::ggml_new_tensor_2d(context, kind, columns as i64, rows as i64)
            };
            llama::ggml_set_name(shape, tensor.name.as_ptr());
            llama::gguf_add_tensor(gguf, shape);
        }
        let mut bytes = vec![0u8; llama::gguf_get_meta_size(gguf)];
        llama::gguf_get_meta_data(gguf, bytes.as_mut_ptr().cast());
        llama::gguf_free(gguf);
        llama::ggml_free(context);
        bytes
    }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no text of this program holds a zero byte")
}

/// The tensor's values in the format `kind`, by llama.cpp's own quantisation.
fn convert(tensor: &Source, kind: llama::ggml_type) -> Vec<u8> {
    if kind == llama::GGML_TYPE_BF16 {
        return tensor.bytes.to_vec();
    }
    let wide = |pair: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
    let values: Vec<f32> = tensor.bytes.chunks_exact(2).map(wide).collect();
    if kind == llama::GGML_TYPE_F32 {
        return values.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    let (rows, columns) = tensor.shape;
    let mut data = vec![0u8; values.len() * 2];
    // SAFETY: `values` holds rows * columns numbers, and no format used here needs two bytes for each.
    let size = unsafe {
        let to = data.as_mut_ptr().cast();
        llama::ggml_quantize_chunk(kind, values.as_ptr(), to, 0, rows as i64, columns as i64, std::ptr::null())
    };
    data.truncate(size);
    data
}

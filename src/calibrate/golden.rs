//! Golden numbers of the quantised model: a few prompts are read on the CPU; their tokens, the inputs of each layer at the last
//! token and the logits there flow out, for an engine to be compared with.

use super::samples::Window;
use crate::engine::CancelToken;
use crate::engine::cpu::qwen2::{Decoder, Seen, Site};
use crate::model::tensors::{Entry, TensorWriter};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Most prompts that are kept.
pub const PROMPTS: usize = 4;
/// Most tokens of each.
pub const TOKENS: usize = 64;
/// How far an engine may be away: length of the difference of the logits over length of the logits. An engine computes in 16
/// bits, and a rounding that falls to the other side of a step moves everything behind it.
pub const TOLERANCE: f64 = 0.05;

/// The last row that was seen at the layers' two inputs.
#[derive(Default)]
struct Last(BTreeMap<(usize, Site), Vec<f32>>);

impl Seen for Last {
    fn seen(&mut self, layer: usize, site: Site, rows: &[f32], columns: usize) {
        if matches!(site, Site::Attention | Site::Feed) {
            let kept = self.0.entry((layer, site)).or_default();
            kept.clear();
            kept.extend_from_slice(&rows[rows.len() - columns..]);
        }
    }
}

/// Reads the beginnings of `windows` and writes `prompt.N.tokens` (I32), `prompt.N.layer.L.attention` and `.feed` (F32, the
/// normed inputs of the layer at the last token) and `prompt.N.logits` (F32). Returns how many prompts there are.
///
/// # Errors
/// The file cannot be written.
pub fn write(decoder: &mut Decoder, windows: &[Window], path: &Path) -> io::Result<usize> {
    let go = CancelToken::default();
    let mut tensors: Vec<(Entry, Vec<u8>)> = Vec::new();
    let mut prompts = 0;
    for window in windows.iter().take(PROMPTS) {
        let tokens = &window.tokens[..window.tokens.len().min(TOKENS)];
        let (mut kv, mut last, mut index) = (decoder.new_cache(), Last::default(), 0);
        let chunk = decoder.options().chunk;
        for part in tokens.chunks(chunk) {
            // Nobody cancels here.
            let _ = decoder.forward_seen(part, &mut kv, &go, &mut last);
            index = part.len() - 1;
        }
        let Ok(logits) = decoder.logits(index, &go) else { continue };
        let mut add = |part: String, dtype: Dtype, bytes: Vec<u8>| {
            let entry = Entry { name: format!("prompt.{prompts}.{part}"), dtype, shape: vec![bytes.len() / 4] };
            tensors.push((entry, bytes));
        };
        let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        add("tokens".to_owned(), Dtype::I32, tokens.iter().flat_map(|token| token.to_le_bytes()).collect());
        for ((layer, site), row) in &last.0 {
            let site = if *site == Site::Attention { "attention" } else { "feed" };
            add(format!("layer.{layer}.{site}"), Dtype::F32, floats(row));
        }
        add("logits".to_owned(), Dtype::F32, floats(logits));
        prompts += 1;
    }
    let entries: Vec<Entry> = tensors.iter().map(|(entry, _)| entry.clone()).collect();
    let mut file = TensorWriter::create(path, &entries)?;
    for (_, bytes) in &tensors {
        file.write(bytes)?;
    }
    file.finish()?;
    Ok(prompts)
}

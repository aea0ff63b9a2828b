//! Text to token ids and back, as Hugging Face's own `tokenizers` does it from `tokenizer.json`.
//! Flows in: text, or ids one by one. Flows out: ids, or pieces of text that never split a character.

use super::{ModelError, read_text};
use std::path::Path;

/// The part of `tokenizer.json` that is looked at here.
#[derive(serde::Deserialize)]
struct Head {
    #[serde(default)]
    decoder: serde_json::Value,
}

/// A byte-level BPE tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of all tokens, one after the other; nothing for special tokens.
    bytes: Vec<u8>,
    /// Where token i begins in `bytes`; one more entry than tokens.
    starts: Vec<u32>,
    special: Vec<bool>,
}

/// Ids end below this, as rows of an embedding do.
const MOST_TOKENS: u32 = 1 << 24;

impl Tokenizer {
    /// Reads `tokenizer.json` of a model directory.
    ///
    /// # Errors
    /// The file is missing, not understood, or not byte-level.
    pub fn load(directory: &Path) -> Result<Tokenizer, ModelError> {
        let path = directory.join("tokenizer.json");
        // All of it as a tree of JSON would be 80 MB of memory for Qwen2.5's 152,000 tokens.
        let head: Head = serde_json::from_str(&read_text(&path)?)
            .map_err(|error| ModelError::invalid(&path, format!("is not valid JSON ({error})")))?;
        if !names_byte_level(&head.decoder) {
            return Err(ModelError::invalid(
                &path,
                "its decoder is not ByteLevel, as Qwen2's is; use the model's own tokenizer",
            ));
        }
        let unusable = |error: tokenizers::Error| {
            ModelError::invalid(&path, format!("is not a usable tokenizer ({error})").replace('\n', " "))
        };
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(unusable)?;
        // What a file was saved with after a training; `transformers` cuts and fills only when it is asked to.
        inner.with_truncation(None).map_err(unusable)?;
        inner.with_padding(None);
        if let Some((token, id)) = inner.get_vocab(true).into_iter().find(|(_, id)| *id >= MOST_TOKENS) {
            let reason = format!("gives `{token}` the id {id}; ids below {MOST_TOKENS} are expected");
            return Err(ModelError::invalid(&path, reason));
        }
        Ok(Self::with_bytes(inner))
    }

    fn with_bytes(inner: tokenizers::Tokenizer) -> Tokenizer {
        let added = inner.get_added_tokens_decoder();
        let highest = inner.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        let alphabet = byte_alphabet();
        let (mut bytes, mut starts, mut special) = (Vec::new(), vec![0], Vec::new());
        for id in 0..highest {
            match (added.get(&id), inner.id_to_token(id)) {
                (Some(token), _) => {
                    special.push(token.special);
                    if !token.special {
                        bytes.extend_from_slice(token.content.as_bytes());
                    }
                }
                (None, Some(text)) => {
                    special.push(false);
                    for symbol in text.chars() {
                        match alphabet.iter().position(|&c| c == symbol) {
                            Some(byte) => bytes.push(byte as u8),
                            None => bytes.extend_from_slice(symbol.encode_utf8(&mut [0; 4]).as_bytes()),
                        }
                    }
                }
                (None, None) => special.push(false),
            }
            starts.push(bytes.len() as u32);
        }
        Tokenizer { inner, bytes, starts, special }
    }

    /// Token ids of `text`; special tokens written in it become their ids.
    ///
    /// # Errors
    /// The tokenizer's own message (no input of valid UTF-8 is known to cause one).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| {
            ModelError::invalid(Path::new("tokenizer.json"), format!("cannot encode the text ({error})"))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `tokens`, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.bytes_of(token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Bytes a token stands for; none for special and unknown tokens.
    pub fn bytes_of(&self, token: u32) -> &[u8] {
        let at = token as usize;
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// Whether a token is a control token such as `<|im_end|>`.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }

    /// The id of a token given by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of ids, special tokens included; logits rows from here on are padding.
    pub fn vocabulary(&self) -> usize {
        self.special.len()
    }
}

fn names_byte_level(decoder: &serde_json::Value) -> bool {
    match decoder["type"].as_str() {
        Some("ByteLevel") => true,
        Some("Sequence") => decoder["decoders"].as_array().is_some_and(|list| list.iter().any(names_byte_level)),
        _ => false,
    }
}

/// The printable character that stands for each byte (GPT-2's table): itself if printable in Latin-1, else one from
/// U+0100 on.
pub(crate) fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| {
        let own = byte as u32;
        let printable = matches!(own, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            own
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

/// Turns tokens into text as they come. What is emitted in all is what decoding everything at once would give.
#[derive(Debug, Default, Clone)]
pub struct TextStream {
    /// Bytes of a character whose end has not come yet: at most 3.
    held: Vec<u8>,
}

impl TextStream {
    /// Adds a token's bytes; appends the text that is now complete to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.held.extend_from_slice(bytes);
        let mut from = 0;
        loop {
            match std::str::from_utf8(&self.held[from..]) {
                Ok(text) => {
                    out.push_str(text);
                    from = self.held.len();
                    break;
                }
                Err(error) => {
                    let valid = from + error.valid_up_to();
                    // The prefix was just found valid, so nothing is replaced here.
                    out.push_str(&String::from_utf8_lossy(&self.held[from..valid]));
                    from = valid;
                    let Some(bad) = error.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    from += bad;
                }
            }
        }
        self.held.drain(..from);
    }

    /// The answer is over: an unfinished character becomes one replacement character.
    pub fn finish(&mut self, out: &mut String) {
        if !self.held.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::read_json;

    /// What a stream emits for `bytes` cut into pieces of `size`.
    fn streamed(bytes: &[u8], size: usize) -> Vec<String> {
        let mut stream = TextStream::default();
        let mut pieces = Vec::new();
        for chunk in bytes.chunks(size) {
            let mut piece = String::new();
            stream.push(chunk, &mut piece);
            pieces.push(piece);
        }
        let mut rest = String::new();
        stream.finish(&mut rest);
        pieces.push(rest);
        pieces
    }

    fn reference(change: impl Fn(&mut serde_json::Value)) -> Result<Tokenizer, ModelError> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizer.json");
        let mut json = read_json(&path)?;
        change(&mut json);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::load(folder.path())
    }

    #[test]
    fn a_file_saved_with_a_length_to_cut_or_fill_to_neither_cuts_nor_fills() {
        let text = "The robot looks for the charger.";
        let whole = reference(|_| {}).unwrap().encode(text).unwrap();
        let cutting = reference(|json| {
            json["truncation"] =
                serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
            json["padding"] = serde_json::json!({"strategy": {"Fixed": 200}, "direction": "Left", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        });
        assert_eq!(cutting.unwrap().encode(text).unwrap(), whole);
    }

    #[test]
    fn ids_that_no_embedding_could_have_are_refused_by_name() {
        for id in [u32::MAX, 1 << 30] {
            let error = reference(|json| json["model"]["vocab"]["zzzz"] = id.into()).err().unwrap().to_string();
            assert!(error.contains("`zzzz`") && error.contains(&id.to_string()), "{error}");
        }
    }

    #[test]
    fn a_character_is_never_split_and_nothing_is_lost() {
        let text = "naïve 東京 🤖 e\u{301}";
        for size in 1..8 {
            let pieces = streamed(text.as_bytes(), size);
            assert_eq!(pieces.concat(), text);
            assert!(!pieces.concat().contains('\u{fffd}'));
        }
    }

    #[test]
    fn broken_bytes_become_what_decoding_at_once_gives() {
        let mut random = 1u32;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..12)
                .map(|_| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    [0x41, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0xa4, 0x96, 0xff, 0x80]
                        [(random >> 16) as usize % 12]
                })
                .collect();
            for size in [1, 2, 5] {
                assert_eq!(streamed(&bytes, size).concat(), String::from_utf8_lossy(&bytes), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn the_byte_alphabet_is_gpt2s() {
        let alphabet = byte_alphabet();
        assert_eq!((alphabet[b' ' as usize], alphabet[b'\n' as usize], alphabet[0xad]), ('Ġ', 'Ċ', 'Ń'));
        let distinct: std::collections::BTreeSet<char> = alphabet.into_iter().collect();
        assert_eq!(distinct.len(), 256);
    }
}

//! What following a JSON schema costs per token at the size of Qwen2.5's vocabulary. A made-up byte-level vocabulary and an action
//! schema flow in; times per token flow out.

use super::speed::round;
use crate::model::constraint::Constraints;
use crate::model::tokenizer::{Tokenizer, byte_alphabet};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Tokens in the vocabulary, as many as Qwen2.5 has rows of logits.
const VOCABULARY: usize = 151_936;
/// Answers that are drawn.
const ANSWERS: u64 = 200;
/// Most tokens of one answer.
const LONGEST: usize = 120;
/// Ends an answer.
const END: &str = "<|im_end|>";

/// Measures; one figure per name.
///
/// # Errors
/// The temporary folder cannot be written.
pub fn cost() -> anyhow::Result<Value> {
    let tokenizer = tokenizer()?;
    let end = tokenizer.id(END);
    let began = Instant::now();
    let constraints = Constraints::new(&tokenizer, end)?;
    let prepared = began.elapsed();
    let began = Instant::now();
    let schema = constraints.prepare(&action())?;
    let compiled = began.elapsed();
    let (mut first, mut each) = (Vec::new(), Vec::new());
    for seed in 0..ANSWERS {
        let began = Instant::now();
        let mut constraint = schema.begin();
        first.push(began.elapsed());
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
        for _ in 0..LONGEST {
            let token = draw(constraint.allowed(), &mut random);
            if Some(token) == end {
                break;
            }
            let began = Instant::now();
            let complete = constraint.accept(token)?;
            each.push(began.elapsed());
            if complete {
                break;
            }
        }
    }
    let us = |durations: &[Duration], share: f64| round(super::quantile_ms(durations, share) * 1e3);
    let mean = each.iter().sum::<Duration>().as_secs_f64() * 1e6 / each.len() as f64;
    Ok(json!({
        "vocabulary": tokenizer.vocabulary(),
        "tokens": each.len(),
        "per_token_us_mean": round(mean),
        "per_token_us_p50": us(&each, 0.5),
        "per_token_us_p99": us(&each, 0.99),
        "per_token_us_max": us(&each, 1.0),
        "per_answer_us_p50": us(&first, 0.5),
        "once_per_schema_us": round(compiled.as_secs_f64() * 1e6),
        "once_per_model_ms": round(prepared.as_secs_f64() * 1e3),
    }))
}

/// What a robot may be told to do: choices, a bounded number, free text and a list.
fn action() -> Value {
    // Bounded: an unbounded number may be written as 1e999, which no reader takes.
    let coordinate = json!({"type": "number", "minimum": -10, "maximum": 10});
    json!({
        "type": "object", "additionalProperties": false, "required": ["action", "target", "say"],
        "properties": {
            "action": {"enum": ["go", "search", "follow", "stop", "wait", "turn", "point", "grasp", "release", "none"]},
            "target": {"enum": ["person", "charger", "obstacle", "hand", "door", "cup", "nothing"]},
            "direction": {"enum": ["left", "right", "ahead", "back"]},
            "distance_m": {"type": "number", "minimum": 0, "maximum": 10},
            "say": {"type": "string", "maxLength": 200},
            "path": {"type": "array", "maxItems": 8, "items": {
                "type": "object", "additionalProperties": false, "required": ["x", "y"],
                "properties": {"x": coordinate, "y": coordinate}}},
        },
    })
}

/// One of the allowed tokens, each as likely as another.
fn draw(allowed: &[u32], random: &mut Random) -> u32 {
    let count: u32 = allowed.iter().map(|word| word.count_ones()).sum();
    let mut left = random.below(count.max(1));
    for (at, &word) in allowed.iter().enumerate() {
        if left < word.count_ones() {
            let bit = (0..32).filter(|bit| word >> bit & 1 == 1).nth(left as usize).unwrap_or_default();
            return at as u32 * 32 + bit;
        }
        left -= word.count_ones();
    }
    0
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len() as u32) as usize]
    }
}

/// The made-up vocabulary as a tokenizer.
fn tokenizer() -> anyhow::Result<Tokenizer> {
    let alphabet = byte_alphabet();
    let mut vocabulary = Map::new();
    for word in words(VOCABULARY - 1) {
        let text: String = word.iter().map(|&byte| alphabet[usize::from(byte)]).collect();
        vocabulary.insert(text, json!(vocabulary.len()));
    }
    let end = json!({"id": vocabulary.len(), "content": END, "special": true, "single_word": false, "lstrip": false,
                     "rstrip": false, "normalized": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let json = json!({
        "version": "1.0", "added_tokens": [end], "normalizer": null, "pre_tokenizer": byte_level,
        "post_processor": null, "decoder": byte_level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let folder = super::TemporaryFolder::make("sage-grammar")?;
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string())?;
    Ok(Tokenizer::load(folder.path())?)
}

/// `count` different words in the mixture of a published vocabulary: bytes, white space, punctuation of program texts, words of
/// Latin letters with and without a space and a capital before, words of other alphabets, and Chinese. About 6 characters on
/// average, one in eleven longer than 9.
fn words(count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut words: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    words.extend((2..=128).map(|length| vec![b' '; length]));
    words.extend((2..=32).flat_map(|length| [vec![b'\n'; length], vec![b'\t'; length]]));
    let mut known: HashSet<Vec<u8>> = words.iter().cloned().collect();
    while words.len() < count {
        let word = match random.below(100) {
            0..6 => punctuation(&mut random),
            6..22 => other_letters(&mut random, 0x4e00, 5_000, 4),
            22..30 => other_letters(&mut random, 0x430, 32, 8),
            30..34 => other_letters(&mut random, 0x627, 36, 6),
            34..38 => other_letters(&mut random, 0xac00, 2_000, 3),
            _ => latin(&mut random),
        };
        if known.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

fn punctuation(random: &mut Random) -> Vec<u8> {
    const MARKS: &[u8] = b"{}[]()<>\"\"\"':::;,,,.=+-*/\\|_#@!?&%$^~` \n";
    (0..2 + random.below(5)).map(|_| MARKS[random.below(MARKS.len() as u32) as usize]).collect()
}

fn other_letters(random: &mut Random, first: u32, letters: u32, longest: u32) -> Vec<u8> {
    let space = if first < 0x4e00 && random.below(2) == 0 { " " } else { "" };
    let letter = |random: &mut Random| char::from_u32(first + random.below(letters)).unwrap_or('?');
    let text: String = (0..1 + random.below(longest)).map(|_| letter(random)).collect();
    format!("{space}{text}").into_bytes()
}

fn latin(random: &mut Random) -> Vec<u8> {
    const ONSETS: [&str; 24] = [
        "b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "pr", "ch", "sh", "th",
        "gr", "qu", "",
    ];
    const VOWELS: [&str; 12] = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ea", "io"];
    const CODAS: [&str; 16] = ["", "", "", "", "", "n", "r", "s", "t", "l", "d", "m", "c", "ng", "st", "ed"];
    let mut word = String::new();
    let syllables = [1, 1, 1, 2, 2, 2, 2, 2, 2, 3][random.below(10) as usize];
    for _ in 0..syllables {
        word += random.of(&ONSETS);
        word += random.of(&VOWELS);
        word += random.of(&CODAS);
    }
    let word = match random.below(10) {
        0..2 => word[..1].to_uppercase() + &word[1..],
        2 => word.to_uppercase(),
        3 => format!("_{word}"),
        _ => word,
    };
    if random.below(10) < 6 { format!(" {word}").into_bytes() } else { word.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_drawn_from_the_made_up_vocabulary_is_json_that_follows_the_schema() {
        let tokenizer = tokenizer().unwrap();
        assert_eq!(tokenizer.vocabulary(), VOCABULARY);
        let end = tokenizer.id(END);
        let constraints = Constraints::new(&tokenizer, end).unwrap();
        let schema = constraints.prepare(&action()).unwrap();
        let mut complete = 0;
        for seed in 1..=20 {
            let mut constraint = schema.begin();
            let (mut random, mut text) = (Random(seed * 0x9e37_79b9), Vec::new());
            for _ in 0..LONGEST {
                let token = draw(constraint.allowed(), &mut random);
                text.extend_from_slice(tokenizer.bytes_of(token));
                if Some(token) == end || constraint.accept(token).unwrap() {
                    let answer: Value = serde_json::from_slice(&text).expect("JSON");
                    assert!(answer["say"].as_str().unwrap().chars().count() <= 200, "{answer}");
                    assert!(action()["properties"]["action"]["enum"].as_array().unwrap().contains(&answer["action"]));
                    complete += 1;
                    break;
                }
            }
        }
        assert!(complete >= 10, "{complete} of 20 answers came to their end");
    }
}

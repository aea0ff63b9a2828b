//! The mind that ships: the decoder says what `transformers` says, and the right thing on the held-out cases.
//! References: engines/mind/reference.json (by check.py) and engines/mind/heldout.jsonl (by grammar.py).

use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions, Finish, Generation, Step};
use sage::model::chat::{Message, Role, render};
use sage::model::qwen2::Qwen2Weights;
use sage::model::sampling::{Sampler, Sampling};
use sage::model::tokenizer::Tokenizer;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("engines/mind")
}

struct Mind {
    tokenizer: Tokenizer,
    decoder: Decoder,
    generation: Generation,
    sampling: Sampling,
}

impl Mind {
    fn load(folder: &Path) -> Mind {
        let tokenizer = Tokenizer::load(folder).unwrap();
        let sampling = Sampling::load(folder).unwrap();
        let weights = Arc::new(Qwen2Weights::open(folder).unwrap());
        let options = DecoderOptions { context: weights.config.max_positions, ..DecoderOptions::default() };
        let decoder = Decoder::new(weights, options).unwrap();
        let generation = Generation::new(&decoder, Sampler::new(sampling.clone(), tokenizer.vocabulary(), 0));
        Mind { tokenizer, decoder, generation, sampling }
    }

    fn prompt(&self, case: &Value) -> Vec<u32> {
        let content = |i: usize| case["messages"][i]["content"].as_str().unwrap();
        let messages = [Message::new(Role::System, content(0)), Message::new(Role::User, content(1))];
        self.tokenizer.encode(&render(&messages, &[])).unwrap()
    }

    /// The greedy reply, without the token that ends it.
    fn reply(&mut self, prompt: &[u32]) -> Vec<u32> {
        let go = CancelToken::default();
        self.generation.start(prompt, 400, 0).unwrap();
        while !matches!(self.generation.step(&mut self.decoder, &go).unwrap(), Step::Finished(_)) {}
        self.generation.answer().to_vec()
    }

    /// The largest difference between our first logits and those of the reference.
    fn first_logits_differ_by(&mut self, prompt: &[u32], case: &Value) -> f64 {
        let (go, mut kv) = (CancelToken::default(), self.decoder.new_cache());
        let chunk = self.decoder.options().chunk;
        for part in prompt.chunks(chunk) {
            self.decoder.forward(part, &mut kv, &go).unwrap();
        }
        let logits = self.decoder.logits((prompt.len() - 1) % chunk, &go).unwrap();
        let want = case["first_top8_logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap());
        let ids = ids(&case["first_top8_ids"]);
        ids.iter().zip(want).map(|(&id, want)| (f64::from(logits[id as usize]) - want).abs()).fold(0.0, f64::max)
    }
}

fn ids(json: &Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The mind and the lines of one of its files, or `None` while the weights are not there.
fn mind_and(file: &str) -> Option<(Mind, String)> {
    let folder = folder();
    if !folder.join("model.safetensors").is_file() || !folder.join(file).is_file() {
        println!("skipped: engines/mind has no weights or no {file}");
        return None;
    }
    Some((Mind::load(&folder), std::fs::read_to_string(folder.join(file)).unwrap()))
}

#[test]
fn replies_and_first_logits_are_those_of_transformers() {
    let Some((mut mind, text)) = mind_and("reference.json") else { return };
    let reference: Value = serde_json::from_str(&text).unwrap();
    let mut worst = 0.0f64;
    for case in reference["cases"].as_array().unwrap() {
        let prompt = mind.prompt(case);
        assert_eq!(prompt, ids(&case["prompt_ids"]), "{}", case["messages"][1]["content"]);
        worst = worst.max(mind.first_logits_differ_by(&prompt, case));
        let want = ids(&case["reply_ids"]);
        let (&end, want) = want.split_last().unwrap();
        assert_eq!(mind.reply(&prompt), want, "{}", case["messages"][1]["content"]);
        assert_eq!(mind.generation.finish(), Some(Finish::Stop));
        assert!(mind.sampling.end_tokens.contains(&end));
        assert_eq!(mind.tokenizer.decode(want), case["reply"].as_str().unwrap());
    }
    println!("first logits differ by at most {worst:.1e}");
    // The reference keeps four decimals.
    assert!(worst <= 1.5e-4, "first logits differ by {worst}");
}

#[test]
fn held_out_cases_are_answered_exactly() {
    let Some((mut mind, text)) = mind_and("heldout.jsonl") else { return };
    let mut splits: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let prompt = mind.prompt(&case);
        let reply = mind.reply(&prompt);
        let (right, all) = splits.entry(case["split"].as_str().unwrap().to_owned()).or_default();
        *right += usize::from(mind.tokenizer.decode(&reply) == case["want"].as_str().unwrap());
        *all += 1;
    }
    println!("exact by split: {splits:?}");
    for (split, bar) in [("combo/joint", 0.97), ("core/joint", 0.97), ("combo/value", 0.95)] {
        let (right, all) = splits[split];
        assert!(right as f64 >= bar * all as f64, "{split}: {right} of {all} exact, the bar is {bar}");
    }
}

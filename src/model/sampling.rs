//! From logits to the next token, as `generation_config.json` asks and in the order `transformers` applies it:
//! repetition penalty, temperature, top-k, top-p, then a draw.
//! Flows in: logits and the tokens so far. Flows out: one token id. Seeded, so the same seed gives the same answer.

use super::{ModelError, read_json};
use serde_json::Value;
use std::path::Path;

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Take the most likely token after the penalty; temperature, top-k and top-p are then unused.
    pub greedy: bool,
    /// Divides positive and multiplies negative logits of tokens that already occurred; 1 is off.
    pub repetition_penalty: f32,
    /// Divides all logits.
    pub temperature: f32,
    /// Only the k most likely tokens stay; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens stay that together reach this probability; 1 is off.
    pub top_p: f32,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
}

impl Default for Sampling {
    /// What `transformers` assumes for a file that says nothing: greedy.
    fn default() -> Self {
        Sampling {
            greedy: true,
            repetition_penalty: 1.0,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            end_tokens: Vec::new(),
        }
    }
}

impl Sampling {
    /// The most likely token, whatever the model's file asks for; its end tokens stay.
    pub fn without_chance(self) -> Sampling {
        Sampling { greedy: true, repetition_penalty: 1.0, ..self }
    }

    /// Reads `generation_config.json`, or takes `eos_token_id` from `config.json` if there is none.
    ///
    /// # Errors
    /// A file is unreadable, no JSON, or a value is out of range.
    pub fn load(directory: &Path) -> Result<Sampling, ModelError> {
        let own = directory.join("generation_config.json");
        let path = if own.is_file() { own } else { directory.join("config.json") };
        Self::from_json(&read_json(&path)?).map_err(|reason| ModelError::invalid(&path, reason))
    }

    /// Reads the parsed file; the error is one sentence.
    pub fn from_json(json: &Value) -> Result<Sampling, String> {
        let mut sampling = Sampling::default();
        let number = |key: &str, low: f64, high: f64| match json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|v| (low..=high).contains(v)) {
                Some(v) => Ok(Some(v)),
                None => Err(format!("`{key}` is {value}; expected a number from {low} to {high}")),
            },
        };
        sampling.greedy = !json.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
        if let Some(penalty) = number("repetition_penalty", 0.01, 100.0)? {
            sampling.repetition_penalty = penalty as f32;
        }
        if let Some(temperature) = number("temperature", 0.0, 100.0)? {
            // Below, all but the largest logit vanish; so it is for zero itself, which cannot divide.
            let sharp = temperature < 1e-6;
            sampling.greedy |= sharp;
            sampling.temperature = if sharp { 1.0 } else { temperature as f32 };
        }
        if let Some(k) = number("top_k", 0.0, 1e9)? {
            sampling.top_k = k as usize;
        }
        if let Some(p) = number("top_p", 0.0, 1.0)? {
            sampling.top_p = p as f32;
        }
        sampling.end_tokens = match json.get("eos_token_id") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(ids)) => ids.iter().map(token_id).collect::<Result<_, _>>()?,
            Some(id) => vec![token_id(id)?],
        };
        Ok(sampling)
    }
}

fn token_id(value: &Value) -> Result<u32, String> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("`eos_token_id` contains {value}; expected token ids"))
}

/// Draws tokens. All memory is allocated once.
#[derive(Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    /// Bit per token that occurred.
    seen: Vec<u64>,
    /// Rows of the logits that are real tokens.
    vocabulary: usize,
    /// Candidate tokens and their logits or weights.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// `vocabulary` is the tokenizer's size: rows beyond it are never chosen.
    pub fn new(sampling: Sampling, vocabulary: usize, seed: u64) -> Sampler {
        Sampler {
            sampling,
            random: Random(seed),
            seen: vec![0; vocabulary.div_ceil(64)],
            vocabulary,
            candidates: Vec::with_capacity(vocabulary),
        }
    }

    /// The settings.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Starts over: no token has occurred, draws begin again from `seed`.
    pub fn reset(&mut self, seed: u64) {
        self.random = Random(seed);
        self.seen.fill(0);
    }

    /// Notes that `token` occurred (in the prompt or the answer), for the repetition penalty.
    pub fn note(&mut self, token: u32) {
        if let Some(word) = self.seen.get_mut(token as usize / 64) {
            *word |= 1 << (token % 64);
        }
    }

    /// Whether `token` ends an answer.
    pub fn ends(&self, token: u32) -> bool {
        self.sampling.end_tokens.contains(&token)
    }

    /// Chooses the next token. `allowed`, if given, has a bit per token that may be chosen (at least one); the logits
    /// are left as they were. Without any number among the logits it is the first permitted token.
    pub fn choose(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> u32 {
        let rows = self.vocabulary.min(logits.len());
        let permitted = |token: usize| match allowed {
            Some(words) => words.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1),
            None => true,
        };
        let penalty = self.sampling.repetition_penalty;
        if self.sampling.greedy && penalty == 1.0 {
            return largest(&logits[..rows], permitted);
        }
        self.candidates.clear();
        let keep = match (self.sampling.greedy, self.sampling.top_k) {
            (true, _) => 1,
            (false, 0) => rows,
            (false, k) => k.min(rows),
        };
        // The k-th largest so far; what is below can never be among the k.
        let mut threshold = f32::NEG_INFINITY;
        for (token, &logit) in logits[..rows].iter().enumerate() {
            let seen = penalty != 1.0 && self.seen[token / 64] >> (token % 64) & 1 == 1;
            let logit = match seen {
                // What broken weights make of it: last of all.
                _ if logit.is_nan() => f32::NEG_INFINITY,
                true if logit < 0.0 => logit * penalty,
                true => logit / penalty,
                false => logit,
            };
            if logit < threshold || !permitted(token) {
                continue;
            }
            self.candidates.push((logit, token as u32));
            if keep < rows && self.candidates.len() >= 2 * keep + 64 {
                threshold = self.prune(keep);
            }
        }
        if keep < self.candidates.len() {
            self.prune(keep);
        }
        self.candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        match self.candidates.first() {
            None => 0,
            Some(best) if self.sampling.greedy || !best.0.is_finite() => best.1,
            Some(_) => self.draw(),
        }
    }

    /// Keeps the `keep` largest candidates and those equal to the last of them; returns that last one's logit.
    fn prune(&mut self, keep: usize) -> f32 {
        self.candidates.select_nth_unstable_by(keep - 1, |a, b| b.0.total_cmp(&a.0));
        let threshold = self.candidates[keep - 1].0;
        self.candidates.retain(|candidate| candidate.0 >= threshold);
        threshold
    }

    /// Temperature, softmax, top-p and the draw, over candidates sorted from the most likely.
    fn draw(&mut self) -> u32 {
        let top = self.candidates[0].0;
        let mut total = 0.0f32;
        for candidate in &mut self.candidates {
            candidate.0 = libm::expf((candidate.0 - top) / self.sampling.temperature);
            total += candidate.0;
        }
        // As transformers: a token stays while the probability of those more likely than it is below top_p.
        let mut before = 0.0f32;
        let mut kept = 0;
        for &(weight, _) in &self.candidates {
            if kept > 0 && before / total >= self.sampling.top_p {
                break;
            }
            before += weight;
            kept += 1;
        }
        let mut left = self.random.unit() * before;
        for &(weight, token) in &self.candidates[..kept] {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        self.candidates[kept - 1].1
    }
}

/// The most likely permitted token, the first of equals; token 0 if none is permitted.
fn largest(logits: &[f32], permitted: impl Fn(usize) -> bool) -> u32 {
    let mut best = (f32::NEG_INFINITY, None);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.0 && permitted(token) {
            best = (logit, Some(token));
        }
    }
    let first = || (0..logits.len()).find(|&token| permitted(token));
    best.1.or_else(first).unwrap_or(0) as u32
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    /// Uniform in [0, 1), 24 bits.
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sampler(sampling: Sampling, vocabulary: usize, seed: u64) -> Sampler {
        Sampler::new(sampling, vocabulary, seed)
    }

    fn open() -> Sampling {
        Sampling { greedy: false, top_k: 0, ..Sampling::default() }
    }

    #[test]
    fn the_published_file_is_read() {
        let json = json!({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05,
                          "eos_token_id": [151645, 151643], "pad_token_id": 151643});
        let sampling = Sampling::from_json(&json).unwrap();
        assert!(!sampling.greedy);
        assert_eq!((sampling.top_k, sampling.temperature, sampling.top_p), (20, 0.7, 0.8));
        assert_eq!(sampling.end_tokens, [151645, 151643]);
        assert!(Sampling::from_json(&json!({"top_p": 1.5})).unwrap_err().contains("top_p"));
    }

    #[test]
    fn rows_beyond_the_vocabulary_are_never_chosen() {
        let logits = [1.0, 0.5, 9.0, 9.0];
        assert_eq!(sampler(Sampling::default(), 2, 0).choose(&logits, None), 0);
        let mut random = sampler(open(), 2, 1);
        assert!((0..200).all(|_| random.choose(&logits, None) < 2));
    }

    #[test]
    fn the_same_seed_gives_the_same_draws_and_another_seed_others() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        let draws = |seed| {
            let mut sampler = sampler(open(), 100, seed);
            (0..50).map(|_| sampler.choose(&logits, None)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let logits = [0.0f32, 1.0, 2.0];
        let mut sampler = sampler(Sampling { temperature: 0.5, ..open() }, 3, 3);
        let mut counts = [0usize; 3];
        for _ in 0..20_000 {
            counts[sampler.choose(&logits, None) as usize] += 1;
        }
        let weights: Vec<f32> = logits.iter().map(|l| (l / 0.5).exp()).collect();
        let total: f32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            assert!((*count as f32 / 20_000.0 - weight / total).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_likely_tokens() {
        let logits: Vec<f32> = (0..1000).map(|i| if i % 100 == 0 { 5.0 + i as f32 * 1e-3 } else { 0.0 }).collect();
        let mut few = sampler(Sampling { top_k: 3, ..open() }, 1000, 5);
        assert!((0..300).all(|_| [700, 800, 900].contains(&few.choose(&logits, None))));
        // 0.6, 0.3, 0.1: top_p 0.6 keeps one, 0.61 two.
        let logits = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
        let mut one = sampler(Sampling { top_p: 0.59, ..open() }, 3, 5);
        assert!((0..200).all(|_| one.choose(&logits, None) == 0));
        let mut two = sampler(Sampling { top_p: 0.7, ..open() }, 3, 5);
        let drawn: Vec<u32> = (0..200).map(|_| two.choose(&logits, None)).collect();
        assert!(drawn.contains(&1) && !drawn.contains(&2));
    }

    #[test]
    fn tokens_that_occurred_are_penalised_in_both_signs() {
        let sampling = Sampling { top_k: 1, repetition_penalty: 2.0, ..open() };
        let mut sampler = sampler(sampling, 2, 0);
        sampler.note(0);
        assert_eq!(sampler.choose(&[1.5, 1.0], None), 1);
        assert_eq!(sampler.choose(&[-0.6, -1.0], None), 1);
        sampler.reset(0);
        assert_eq!(sampler.choose(&[1.5, 1.0], None), 0);
    }

    #[test]
    fn a_greedy_file_with_a_penalty_avoids_what_was_said_as_transformers_does() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut penalised = sampler(sampling.clone(), 3, 0);
        penalised.note(2);
        assert_eq!(penalised.choose(&[0.5, 0.9, 1.5], None), 1);
        let mut plain = sampler(sampling.without_chance(), 3, 0);
        plain.note(2);
        assert_eq!(plain.choose(&[0.5, 0.9, 1.5], None), 2);
    }

    #[test]
    fn logits_of_broken_weights_give_a_permitted_token_and_no_crash() {
        let all = |value: f32| vec![value; 1000];
        let mut some = all(f32::NAN);
        some[700] = 1.0;
        for sampling in [Sampling::default(), Sampling { top_k: 20, repetition_penalty: 1.05, ..open() }, open()] {
            let mut sampler = sampler(sampling, 1000, 1);
            sampler.note(3);
            assert_eq!(sampler.choose(&some, None), 700);
            for broken in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
                let mut only = [0u32; 32];
                only[5] = 1 << 9;
                assert_eq!(sampler.choose(&all(broken), Some(&only)), 5 * 32 + 9, "{broken}");
            }
            assert_eq!(sampler.choose(&some, Some(&[0; 32])), 0);
        }
    }

    #[test]
    fn a_temperature_too_small_to_divide_by_takes_the_most_likely_token() {
        for temperature in [0.0, 1e-60] {
            let json = json!({"do_sample": true, "temperature": temperature, "top_k": 0});
            let mut sampler = sampler(Sampling::from_json(&json).unwrap(), 3, 1);
            assert_eq!(sampler.choose(&[0.5, 0.9, 0.4], None), 1);
        }
    }

    #[test]
    fn the_order_is_penalty_temperature_top_k_top_p() {
        let set = |sampling: Sampling| Sampling { greedy: false, ..sampling };
        let drawn = |sampling: Sampling, noted: Option<u32>, logits: &[f32]| {
            let mut sampler = sampler(sampling, logits.len(), 9);
            noted.into_iter().for_each(|token| sampler.note(token));
            (0..300).map(|_| sampler.choose(logits, None)).collect::<std::collections::BTreeSet<u32>>()
        };
        // The penalty moves token 0 out of the two that top-k keeps.
        let two = set(Sampling { top_k: 2, repetition_penalty: 3.0, ..Sampling::default() });
        assert_eq!(drawn(two, Some(0), &[2.0, 1.9, 1.8]), [1, 2].into());
        // 0.4, 0.35, 0.25. After top-k 2 token 0 alone has 0.53, which top-p 0.5 finds enough; before, 0.4 was not.
        let logits = [0.4f32.ln(), 0.35f32.ln(), 0.25f32.ln()];
        let both = set(Sampling { top_k: 2, top_p: 0.5, ..Sampling::default() });
        assert_eq!(drawn(both, None, &logits), [0].into());
        let alone = set(Sampling { top_k: 0, top_p: 0.5, ..Sampling::default() });
        assert_eq!(drawn(alone, None, &logits), [0, 1].into());
        // 0.6, 0.4 at a temperature of 0.5 are 0.69, 0.31: top-p 0.65 is reached by the first only after the temperature.
        let sharp = set(Sampling { top_k: 0, top_p: 0.65, temperature: 0.5, ..Sampling::default() });
        assert_eq!(drawn(sharp, None, &[0.6f32.ln(), 0.4f32.ln()]), [0].into());
        let plain = set(Sampling { top_k: 0, top_p: 0.65, ..Sampling::default() });
        assert_eq!(drawn(plain, None, &[0.6f32.ln(), 0.4f32.ln()]), [0, 1].into());
    }

    #[test]
    fn a_mask_is_obeyed() {
        let logits = [3.0, 2.0, 1.0];
        assert_eq!(sampler(Sampling::default(), 3, 0).choose(&logits, Some(&[0b110])), 1);
        assert_eq!(sampler(open(), 3, 0).choose(&logits, Some(&[0b100])), 2);
    }
}

//! Answers that follow a JSON schema: which tokens may come next, by the `llguidance` crate.
//! Flows in: a schema, and each token as it is chosen. Flows out: the set of tokens that keep the answer valid.

use super::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::sync::Arc;

/// Why a schema cannot constrain an answer.
#[derive(Debug, thiserror::Error)]
#[error("the schema cannot be followed: {0}")]
pub struct SchemaError(String);

/// Characters up to which words of plain text are kept in sets of their own. A string of bounded length that has room for n more
/// characters takes every set up to n as a whole, and only longer words are looked at one by one. `llguidance`'s own choice is 10
/// and 30, which makes the last 30 characters of such a string cost milliseconds each.
const SLICE_LENGTHS: [u32; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 30];

/// A tokenizer's words, prepared for schemas: made once for a model (some tenths of a second for 150,000 words).
pub struct Constraints {
    factory: ParserFactory,
}

/// A schema, prepared for many answers: what one answer makes `llguidance` compute, the next finds.
pub struct Schema {
    template: Matcher,
    allowed: SimpleVob,
}

/// The state of one answer under a schema.
pub struct Constraint {
    matcher: Matcher,
    allowed: SimpleVob,
}

impl Constraints {
    /// Prepares a tokenizer's words. `end` is the model's end token; without one an answer ends where nothing may follow.
    ///
    /// # Errors
    /// `llguidance` refuses the words (no tokenizer is known to cause this).
    pub fn new(tokenizer: &Tokenizer, end: Option<u32>) -> Result<Constraints, SchemaError> {
        let refuse = |error: &dyn std::fmt::Display| SchemaError(one_line(&error.to_string()));
        let mut words: Vec<Vec<u8>> =
            (0..tokenizer.vocabulary()).map(|token| tokenizer.bytes_of(token as u32).to_vec()).collect();
        // A model without an end token gets one that it cannot choose.
        let beyond = words.len() as u32;
        words.push(Vec::new());
        let info = TokRxInfo::new(beyond + 1, end.unwrap_or(beyond));
        let environment: Arc<_> = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let environment: llguidance::toktrie::TokEnv = environment;
        let mut slices = vec![r"[\x20\x0A\x0D\x09]+".to_owned()];
        slices.extend(SLICE_LENGTHS.iter().map(|longest| format!(r#"[^"\\\x00-\x1F\x7F]{{1,{longest}}}"#)));
        slices.push(r#"[^"\\\x00-\x1F\x7F]+"#.to_owned());
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| refuse(&error))?;
        factory.quiet();
        Ok(Constraints { factory })
    }

    /// Prepares a schema: answers will be compact JSON that validates against it.
    ///
    /// # Errors
    /// The schema is none, or asks for what `llguidance` cannot express.
    pub fn prepare(&self, schema: &Value) -> Result<Schema, SchemaError> {
        let refuse = |error: &dyn std::fmt::Display| SchemaError(one_line(&error.to_string()));
        let mut schema = schema.clone();
        if let Some(fields) = schema.as_object_mut() {
            // White space between the parts would let a model go on for ever without saying anything.
            fields.entry("x-guidance").or_insert_with(|| json!({"whitespace_flexible": false}));
        }
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let parser = self.factory.create_parser(grammar).map_err(|error| refuse(&error))?;
        let mut template = Matcher::new(Ok(parser));
        let allowed = template.compute_mask().map_err(|error| refuse(&error))?;
        Ok(Schema { template, allowed })
    }
}

impl Schema {
    /// Begins one answer.
    pub fn begin(&self) -> Constraint {
        // Not a deep clone: answers share the lexer's states as they become known.
        Constraint { matcher: self.template.clone(), allowed: self.allowed.clone() }
    }
}

impl Constraint {
    /// A bit for each token that may come next.
    pub fn allowed(&self) -> &[u32] {
        self.allowed.as_slice()
    }

    /// Notes the token that was chosen. Returns whether the answer is complete and nothing may follow.
    ///
    /// # Errors
    /// The token was not allowed.
    pub fn accept(&mut self, token: u32) -> Result<bool, SchemaError> {
        let refuse = |error: &dyn std::fmt::Display| SchemaError(one_line(&error.to_string()));
        self.matcher.consume_token(token).map_err(|error| refuse(&error))?;
        if self.matcher.is_stopped() {
            return Ok(true);
        }
        self.allowed = self.matcher.compute_mask().map_err(|error| refuse(&error))?;
        Ok(false)
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tokenizer() -> Tokenizer {
        Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")).unwrap()
    }

    fn action() -> Value {
        json!({"type": "object", "additionalProperties": false, "required": ["action", "target"], "properties": {
            "action": {"enum": ["go", "search"]},
            "target": {"enum": ["person", "charger"]},
            "distance_m": {"type": "number", "minimum": 0, "maximum": 10}}})
    }

    #[test]
    fn whatever_is_chosen_from_the_allowed_tokens_is_a_valid_action() {
        let tokenizer = tokenizer();
        let end = tokenizer.id("<|im_end|>");
        let constraints = Constraints::new(&tokenizer, end).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60u64 {
            let mut constraint = constraints.prepare(&action()).unwrap().begin();
            let (mut text, mut random) = (Vec::new(), seed);
            for _ in 0..200 {
                let allowed = constraint.allowed();
                let choices: Vec<u32> = (0..tokenizer.vocabulary() as u32)
                    .filter(|&token| allowed[token as usize / 32] >> (token % 32) & 1 == 1)
                    .collect();
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let token = choices[(random >> 33) as usize % choices.len()];
                if Some(token) == end || constraint.accept(token).unwrap() {
                    text.extend_from_slice(tokenizer.bytes_of(token));
                    break;
                }
                text.extend_from_slice(tokenizer.bytes_of(token));
            }
            let value: Value = serde_json::from_slice(&text).expect("valid JSON");
            assert!(["go", "search"].contains(&value["action"].as_str().unwrap()), "{value}");
            assert!(["person", "charger"].contains(&value["target"].as_str().unwrap()), "{value}");
            if let Some(distance) = value.get("distance_m") {
                assert!((0.0..=10.0).contains(&distance.as_f64().unwrap()), "{value}");
            }
            seen.insert((value["action"].to_string(), value["target"].to_string()));
        }
        assert_eq!(seen.len(), 4, "every combination can be said: {seen:?}");
    }

    #[test]
    fn a_token_that_is_not_allowed_is_refused_and_a_bad_schema_too() {
        let tokenizer = tokenizer();
        let constraints = Constraints::new(&tokenizer, None).unwrap();
        let mut constraint = constraints.prepare(&action()).unwrap().begin();
        assert!(constraint.accept(tokenizer.encode("x").unwrap()[0]).is_err());
        let error = constraints.prepare(&json!({"type": "no such type"})).err().unwrap().to_string();
        assert!(error.starts_with("the schema cannot be followed") && error.lines().count() == 1, "{error}");
    }
}

//! Answers that follow a JSON schema: which tokens may come next, by the `llguidance` crate.
//! Flows in: a schema, and each token as it is chosen. Flows out: the set of tokens that keep the answer valid.

use super::finite::{LongNumbers, Place, bound_multiples};
use super::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
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
    numbers: Arc<LongNumbers>,
}

/// A schema, prepared for many answers: what one answer makes `llguidance` compute, the next finds.
pub struct Schema {
    first: Constraint,
}

/// The state of one answer under a schema.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    allowed: SimpleVob,
    words: TokEnv,
    numbers: Arc<LongNumbers>,
    place: Place,
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
        let environment: TokEnv = environment;
        let mut slices = vec![r"[\x20\x0A\x0D\x09]+".to_owned()];
        slices.extend(SLICE_LENGTHS.iter().map(|longest| format!(r#"[^"\\\x00-\x1F\x7F]{{1,{longest}}}"#)));
        slices.push(r#"[^"\\\x00-\x1F\x7F]+"#.to_owned());
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| refuse(&error))?;
        factory.quiet();
        Ok(Constraints { factory, numbers: Arc::new(LongNumbers::new(tokenizer)) })
    }

    /// Prepares a schema: answers will be compact JSON that validates against it, with finite numbers.
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
        bound_multiples(&mut schema);
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let parser = self.factory.create_parser(grammar).map_err(|error| refuse(&error))?;
        let mut first = Constraint {
            matcher: Matcher::new(Ok(parser)),
            allowed: SimpleVob::new(),
            words: self.factory.tok_env().clone(),
            numbers: Arc::clone(&self.numbers),
            place: Place::default(),
        };
        first.look()?;
        Ok(Schema { first })
    }
}

impl Schema {
    /// Begins one answer.
    pub fn begin(&self) -> Constraint {
        // Not a deep clone: answers share the lexer's states as they become known.
        self.first.clone()
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
        self.place = self.place.after_all(self.words.tok_trie().token(token));
        if self.matcher.is_stopped() {
            return Ok(true);
        }
        self.look()?;
        Ok(false)
    }

    /// Works out what may come next. Numbers end in time, unless the schema leaves them no end there: it may name a value
    /// of more digits.
    fn look(&mut self) -> Result<(), SchemaError> {
        let refuse = |error: &dyn std::fmt::Display| SchemaError(one_line(&error.to_string()));
        self.allowed = self.matcher.compute_mask().map_err(|error| refuse(&error))?;
        // The last bit is the end token of models that have none.
        let beyond = self.words.tok_trie().vocab_size() - 1;
        let stuck = |allowed: &SimpleVob| allowed.first_bit_set().is_none_or(|first| first >= beyond);
        if self.numbers.forbid(self.place, &mut self.allowed) && stuck(&self.allowed) {
            self.allowed = self.matcher.compute_mask().map_err(|error| refuse(&error))?;
        }
        Ok(())
    }
}

/// What is said of an error, without the state of the parser that may follow.
fn one_line(text: &str) -> String {
    let said = text.split("<state>").next().unwrap_or_default();
    // What `llguidance` calls a grammar without any text.
    let said = said.replace("NoExtensionBias", "nothing satisfies it");
    said.split_whitespace().collect::<Vec<_>>().join(" ")
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

    /// An answer of tokens that `choose` picks from the allowed ones, given the bytes so far.
    fn answer(
        constraints: &Constraints,
        schema: &Value,
        tokenizer: &Tokenizer,
        mut choose: impl FnMut(&[u32], &[u8]) -> u32,
    ) -> Vec<u8> {
        let mut constraint = constraints.prepare(schema).unwrap().begin();
        let mut text = Vec::new();
        for _ in 0..600 {
            let allowed = constraint.allowed();
            let choices: Vec<u32> = (0..tokenizer.vocabulary() as u32)
                .filter(|&token| allowed[token as usize / 32] >> (token % 32) & 1 == 1)
                .collect();
            let token = choose(&choices, &text);
            text.extend_from_slice(tokenizer.bytes_of(token));
            if Some(token) == tokenizer.id("<|im_end|>") || constraint.accept(token).unwrap() {
                return text;
            }
        }
        panic!("no end: {}", String::from_utf8_lossy(&text));
    }

    fn dice(seed: u64) -> impl FnMut(usize) -> usize {
        let mut random = seed;
        move |sides| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % sides
        }
    }

    #[test]
    fn whatever_is_chosen_from_the_allowed_tokens_is_a_valid_action() {
        let tokenizer = tokenizer();
        let constraints = Constraints::new(&tokenizer, tokenizer.id("<|im_end|>")).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60u64 {
            let mut roll = dice(seed);
            let text = answer(&constraints, &action(), &tokenizer, |choices, _| choices[roll(choices.len())]);
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
    fn a_model_that_never_wants_to_end_a_number_still_says_finite_ones() {
        let tokenizer = tokenizer();
        let constraints = Constraints::new(&tokenizer, tokenizer.id("<|im_end|>")).unwrap();
        let number = |limits: Value| {
            let mut schema = json!({"type": "number"});
            schema.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
            json!({"type": "object", "additionalProperties": false, "required": ["n"], "properties": {"n": schema}})
        };
        let anything =
            json!({"type": "object", "additionalProperties": false, "required": ["n"], "properties": {"n": {}}});
        let schemas = [
            number(json!({})),
            number(json!({"minimum": 0})),
            number(json!({"exclusiveMaximum": -2.5})),
            number(json!({"minimum": 0, "maximum": 10})),
            number(json!({"multipleOf": 7})),
            number(json!({"multipleOf": 0.25})),
            number(json!({"type": "integer"})),
            number(json!({"type": ["integer", "null"], "minimum": 12_345})),
            anything,
        ];
        for (which, schema) in schemas.iter().enumerate() {
            let mut widest = 0;
            for seed in 0..30u64 {
                let mut roll = dice(seed + 1_000);
                let text = answer(&constraints, schema, &tokenizer, |choices, text| {
                    let in_number = text.starts_with(b"{\"n\":") && !text[5..].contains(&b'"');
                    let goes_on = |token: &&u32| {
                        let bytes = tokenizer.bytes_of(**token);
                        !bytes.is_empty() && bytes.iter().all(|byte| b"0123456789.eE+-".contains(byte))
                    };
                    let eager: Vec<u32> = choices.iter().filter(goes_on).copied().collect();
                    let choices = if in_number && !eager.is_empty() { eager.as_slice() } else { choices };
                    choices[roll(choices.len())]
                });
                let shown = String::from_utf8_lossy(&text);
                let value: Value =
                    serde_json::from_slice(&text).unwrap_or_else(|why| panic!("schema {which}: {why}: {shown}"));
                let n = value["n"].as_f64().unwrap_or_else(|| panic!("schema {which}: {shown}"));
                assert!(n.is_finite(), "schema {which}: {shown}");
                let keeps = match which {
                    1 => n >= 0.0,
                    2 => n < -2.5,
                    3 => (0.0..=10.0).contains(&n),
                    4 => n % 7.0 == 0.0,
                    5 => n % 0.25 == 0.0,
                    6 => value["n"].as_i64().is_some(),
                    7 => value["n"].as_i64().is_some_and(|n| n >= 12_345),
                    _ => true,
                };
                assert!(keeps, "schema {which}: {shown}");
                widest = widest.max(text.len());
            }
            assert!(widest > 12, "schema {which}: its numbers were never tried: {widest} bytes");
        }
    }

    #[test]
    fn a_value_of_more_digits_than_the_limit_can_be_said_if_the_schema_wants_it() {
        let tokenizer = tokenizer();
        let constraints = Constraints::new(&tokenizer, tokenizer.id("<|im_end|>")).unwrap();
        for value in [1e25, -1.5e300] {
            let schema = json!({"type": "object", "additionalProperties": false, "required": ["n"],
                "properties": {"n": {"enum": [value]}}});
            let mut roll = dice(5);
            let text = answer(&constraints, &schema, &tokenizer, |choices, _| choices[roll(choices.len())]);
            let said: Value = serde_json::from_slice(&text).expect("valid JSON");
            assert_eq!(said["n"].as_f64(), Some(value));
        }
    }

    #[test]
    fn a_token_that_is_not_allowed_is_refused_and_a_bad_schema_too() {
        let tokenizer = tokenizer();
        let constraints = Constraints::new(&tokenizer, None).unwrap();
        let mut constraint = constraints.prepare(&action()).unwrap().begin();
        assert!(constraint.accept(tokenizer.encode("x").unwrap()[0]).is_err());
        let error = constraints.prepare(&json!({"type": "no such type"})).err().unwrap().to_string();
        assert!(error.starts_with("the schema cannot be followed") && error.lines().count() == 1, "{error}");
        let error = constraints.prepare(&json!({"$ref": "#"})).err().unwrap().to_string();
        assert_eq!(error, "the schema cannot be followed: nothing satisfies it");
    }
}

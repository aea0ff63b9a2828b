//! Keeps the numbers of a constrained answer finite. JSON Schema's `number` allows `1e999` and a thousand digits, which readers
//! refuse or round to infinity. The answer's bytes flow in as its words are chosen; words that would make a number too long
//! flow out of the set of those that may come next.
//!
//! The limits are on the writing, not the value: 18 digits before the point (any integer fits 64 bits), 18 after it, 2 in the
//! exponent. A model that would never end a number (0.333...) is thereby also made to go on.

use super::tokenizer::Tokenizer;
use llguidance::toktrie::SimpleVob;
use serde_json::{Number, Value};

/// Most digits before the point, and after it.
const DIGITS: u8 = 18;
/// Most digits of an exponent.
const EXPONENT_DIGITS: u8 = 2;
/// Bound of what a `multipleOf` without bounds of its own may be: whole numbers up to it are exact in 64-bit floats.
const MULTIPLE_BOUND: u64 = 1_000_000_000_000_000;

/// Where in its JSON an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// Outside text and numbers.
    #[default]
    Between,
    /// In text.
    Text,
    /// After a backslash in text.
    Escape,
    /// In a number before its point; digits so far.
    Whole(u8),
    /// After the point; digits so far.
    Fraction(u8),
    /// In the exponent; digits so far.
    Exponent(u8),
}

impl Place {
    /// Where it is after these bytes; `None` if a number gets too long among them.
    pub fn after(self, bytes: &[u8]) -> Option<Place> {
        bytes.iter().try_fold(self, |place, byte| place.step(*byte))
    }

    /// As `after`, when the bytes were chosen all the same: what is too long stays at its limit.
    pub fn after_all(self, bytes: &[u8]) -> Place {
        bytes.iter().fold(self, |place, byte| place.step(*byte).unwrap_or(place))
    }

    fn step(self, byte: u8) -> Option<Place> {
        let more = |digits: u8, most: u8| (digits < most).then_some(digits + 1);
        Some(match (self, byte) {
            (Place::Text, b'\\') => Place::Escape,
            (Place::Text, b'"') => Place::Between,
            (Place::Text | Place::Escape, _) => Place::Text,
            (Place::Whole(digits), b'0'..=b'9') => Place::Whole(more(digits, DIGITS)?),
            (Place::Whole(_), b'.') => Place::Fraction(0),
            (Place::Fraction(digits), b'0'..=b'9') => Place::Fraction(more(digits, DIGITS)?),
            (Place::Whole(_) | Place::Fraction(_), b'e' | b'E') => Place::Exponent(0),
            (Place::Exponent(digits), b'0'..=b'9') => Place::Exponent(more(digits, EXPONENT_DIGITS)?),
            (Place::Exponent(0), b'+' | b'-') => self,
            (_, b'"') => Place::Text,
            (_, b'-') => Place::Whole(0),
            (_, b'0'..=b'9') => Place::Whole(1),
            _ => Place::Between,
        })
    }

    fn in_number(self) -> bool {
        matches!(self, Place::Whole(_) | Place::Fraction(_) | Place::Exponent(_))
    }
}

/// The words that can make a number too long.
pub struct LongNumbers {
    /// Those that go on with one: they begin with a digit, a point, a sign or an `e`, and have a digit.
    going_on: Vec<(u32, Box<[u8]>)>,
    /// Those that are too long by themselves.
    alone: Vec<(u32, Box<[u8]>)>,
}

impl LongNumbers {
    /// Looks through a tokenizer's words.
    pub fn new(tokenizer: &Tokenizer) -> LongNumbers {
        let mut words = LongNumbers { going_on: Vec::new(), alone: Vec::new() };
        for token in 0..tokenizer.vocabulary() as u32 {
            let bytes = tokenizer.bytes_of(token);
            if !bytes.iter().any(u8::is_ascii_digit) {
                continue;
            }
            // Text within a word may hide a number and a quote may end one: looked at from both sides.
            if Place::Between.after(bytes).is_none() || Place::Text.after(bytes).is_none() {
                words.alone.push((token, bytes.into()));
            }
            if matches!(bytes[0], b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E') {
                words.going_on.push((token, bytes.into()));
            }
        }
        words
    }

    /// Takes the words that would make a number too long out of the set. Returns whether there were any.
    pub fn forbid(&self, place: Place, allowed: &mut SimpleVob) -> bool {
        let going_on = if place.in_number() { self.going_on.as_slice() } else { &[] };
        let mut any = false;
        for (token, bytes) in self.alone.iter().chain(going_on) {
            if allowed.is_allowed(*token) && place.after(bytes).is_none() {
                allowed.disallow_token(*token);
                any = true;
            }
        }
        any
    }
}

/// Gives each `multipleOf` without bounds bounds: the digits of such a number cannot stop anywhere, so the grammar itself must
/// know how far it may go.
pub fn bound_multiples(schema: &mut Value) {
    match schema {
        Value::Array(parts) => parts.iter_mut().for_each(bound_multiples),
        Value::Object(fields) => {
            if fields.get("multipleOf").is_some_and(Value::is_number) {
                let given = |names: [&str; 2]| names.iter().find_map(|name| fields.get(*name).and_then(Value::as_f64));
                let least = given(["minimum", "exclusiveMinimum"]);
                let most = given(["maximum", "exclusiveMaximum"]);
                let bound = MULTIPLE_BOUND as f64;
                if most.is_none() && least.is_none_or(|least| least < bound) {
                    fields.insert("maximum".to_owned(), Value::Number(MULTIPLE_BOUND.into()));
                }
                if least.is_none() && most.is_none_or(|most| most > -bound) {
                    fields.insert("minimum".to_owned(), Value::Number(Number::from(-(MULTIPLE_BOUND as i64))));
                }
            }
            // Values that the schema only quotes are left as they are.
            let schemas = fields
                .iter_mut()
                .filter(|(name, _)| !matches!(name.as_str(), "const" | "enum" | "default" | "examples"));
            schemas.for_each(|(_, part)| bound_multiples(part));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn writable(number: &str) -> bool {
        Place::default().after(format!("{{\"n\":{number},").as_bytes()) == Some(Place::Between)
    }

    #[test]
    fn numbers_are_writable_up_to_their_limits_and_are_finite_then() {
        for good in ["0", "-1", "3.25", "1e99", "-1E+99", "2e-99", "999999999999999999", "-0.123456789012345678"] {
            assert!(writable(good), "{good}");
            assert!(serde_json::from_str::<f64>(good).unwrap().is_finite());
        }
        assert!(serde_json::from_str::<f64>("999999999999999999e99").unwrap().is_finite(), "the largest of all");
        for bad in ["1e999", "1e100", "-1.5E-100", "1e+100", "9999999999999999999", "0.1234567890123456789"] {
            assert!(!writable(bad), "{bad}");
        }
    }

    #[test]
    fn digits_in_text_and_in_numbers_of_their_own_do_not_count() {
        let long = "9".repeat(50);
        for good in [format!(r#"["{long}","a\"{long}"]"#), format!("[{}]", ["1e99"; 40].join(","))] {
            assert_eq!(Place::default().after(good.as_bytes()), Some(Place::Between), "{good}");
        }
        assert_eq!(Place::default().after(br#""a\\",1e999"#), None, "the backslash is escaped, the text ends");
    }

    #[test]
    fn only_multiples_without_bounds_get_bounds() {
        let mut schema = json!({"properties": {"a": {"multipleOf": 7}, "multipleOf": {"type": "string"},
            "b": {"multipleOf": 7, "minimum": 3, "exclusiveMaximum": 9}, "c": {"multipleOf": 7, "minimum": 1e16}},
            "enum": [{"multipleOf": 7}]});
        let before = schema.clone();
        bound_multiples(&mut schema);
        assert_eq!(schema["properties"]["a"]["maximum"], MULTIPLE_BOUND);
        assert_eq!(schema["properties"]["a"]["minimum"], -(MULTIPLE_BOUND as i64));
        for same in ["/properties/b", "/properties/c", "/properties/multipleOf", "/enum"] {
            assert_eq!(schema.pointer(same), before.pointer(same), "{same}");
        }
    }
}

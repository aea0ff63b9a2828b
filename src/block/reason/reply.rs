//! Splits what the mind says while it is still saying it. In flows the reply's text in pieces of any size; out flow the words to
//! speak, one by one, up to the first line break, and at the end the action of the line below, which must be one of a few
//! known ones or is refused with a sentence. Pure and bounded.

use crate::types::{ActionLine, Name, Text, Word};
use serde::Deserialize;

/// Words of one reply that are spoken; what comes after is dropped.
pub const MAX_SPOKEN_WORDS: u16 = 1000;

/// Bytes an action line may have; a longer one is refused.
pub const MAX_ACTION_BYTES: usize = 256;

/// Every action there is: its name, the targets and the directions it may have. An empty list means: it has none.
const ACTIONS: [(&str, &[&str], &[&str]); 7] = [
    ("none", &[], &[]),
    ("stop", &[], &[]),
    ("go", &["person", "charger"], &["left", "ahead", "right"]),
    ("follow", &["person"], &[]),
    ("search", &["person", "charger"], &[]),
    ("turn", &[], &["left", "right", "around"]),
    ("move", &[], &["forward", "back"]),
];

/// Why a reply's action was refused. Nothing is done then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The reply ended before its line break.
    #[error("the reply has no action line; nothing is done")]
    NoAction,
    /// The line is longer than any known action.
    #[error("the action line is longer than {MAX_ACTION_BYTES} bytes; nothing is done")]
    TooLong,
    /// The line is no JSON, no known action, or has a field too many, too few or with a strange value.
    #[error("the action line {line:?} is not a known action ({reason}); nothing is done")]
    Unknown {
        /// The line as the mind wrote it.
        line: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The action line as JSON spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    action: String,
    #[serde(default, deserialize_with = "present")]
    target: Option<String>,
    #[serde(default, deserialize_with = "present")]
    direction: Option<String>,
}

/// A field that is there must be a string: `null` is not the same as absent.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    String::deserialize(d).map(Some)
}

/// Whether name, target and direction together are a known action, "none" included.
pub fn is_known(action: &ActionLine) -> bool {
    let fits = |allowed: &[&str], value: &str| {
        if allowed.is_empty() { value.is_empty() } else { allowed.contains(&value) }
    };
    ACTIONS.iter().any(|(name, targets, directions)| {
        *name == action.name.as_str() && fits(targets, &action.target) && fits(directions, &action.direction)
    })
}

/// Reads one action line strictly: one JSON object, a known action, exactly its fields, each with a known value.
/// `{"action":"none"}` gives `None`.
///
/// # Errors
/// [`ReplyError`], one sentence, for anything else.
pub fn parse_action(line: &str) -> Result<Option<ActionLine>, ReplyError> {
    let line = line.trim();
    if line.is_empty() {
        return Err(ReplyError::NoAction);
    }
    if line.len() > MAX_ACTION_BYTES {
        return Err(ReplyError::TooLong);
    }
    let refuse = |reason: String| ReplyError::Unknown { line: line.to_owned(), reason };
    if !line.starts_with('{') {
        // serde would also read an array as the fields in order.
        return Err(refuse("it is no JSON object".to_owned()));
    }
    let fields: Fields = serde_json::from_str(line).map_err(|e| refuse(e.to_string()))?;
    let empty = |value: &Option<String>| value.as_deref() == Some("");
    let name = |value: &str| Name::from(value).map_err(|_| refuse(format!("{value:?} is too long a name")));
    let action = ActionLine {
        name: name(&fields.action)?,
        target: name(fields.target.as_deref().unwrap_or(""))?,
        direction: name(fields.direction.as_deref().unwrap_or(""))?,
    };
    if empty(&fields.target) || empty(&fields.direction) || !is_known(&action) {
        return Err(refuse("no action has this name, target and direction".to_owned()));
    }
    Ok((action.name.as_str() != "none").then_some(action))
}

/// A word to speak and where it ends in the reply, so that an answer can be cut to what was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    /// Position among the words of the reply, from 0.
    pub index: u16,
    /// The word with its punctuation. One longer than a [`Word`] can hold comes in several.
    pub word: Word,
    /// Bytes of the reply up to and with this word.
    pub end_byte: usize,
}

/// Takes a reply apart as it streams in.
#[derive(Debug, Clone, Default)]
pub struct ReplySplitter {
    in_action: bool,
    word: Word,
    words: u16,
    action: Text<MAX_ACTION_BYTES>,
    action_too_long: bool,
    bytes: usize,
}

impl ReplySplitter {
    /// Takes the next piece of the reply and hands each word that is complete by it to `speak`, in order. A word is complete at
    /// the white space after it. A word that begins with `{` begins the action line, so JSON is never read aloud.
    pub fn push(&mut self, piece: &str, mut speak: impl FnMut(Spoken)) {
        for c in piece.chars() {
            if self.in_action {
                self.push_action(c);
            } else if c == '{' && self.word.is_empty() {
                self.in_action = true;
                self.push_action(c);
            } else if c.is_whitespace() {
                self.end_word(&mut speak);
                self.in_action = c == '\n';
            } else if self.word.try_push(c).is_err() {
                self.end_word(&mut speak);
                self.word.push(c);
            }
            self.bytes += c.len_utf8();
        }
    }

    /// Whether the speech is over and the action line has begun.
    pub fn speech_ended(&self) -> bool {
        self.in_action
    }

    /// Words handed out so far.
    pub fn words(&self) -> u16 {
        self.words
    }

    /// The reply is complete: hands over the last word if the reply broke off in its speech, and reads the action line.
    ///
    /// # Errors
    /// [`ReplyError`] if there is no action line or it is not a known action.
    pub fn finish(&mut self, mut speak: impl FnMut(Spoken)) -> Result<Option<ActionLine>, ReplyError> {
        self.end_word(&mut speak);
        if self.action_too_long {
            return Err(ReplyError::TooLong);
        }
        parse_action(&self.action)
    }

    fn push_action(&mut self, c: char) {
        self.action_too_long |= self.action.try_push(c).is_err();
    }

    fn end_word(&mut self, speak: &mut impl FnMut(Spoken)) {
        if !self.word.is_empty() && self.words < MAX_SPOKEN_WORDS {
            speak(Spoken { index: self.words, word: self.word, end_byte: self.bytes });
            self.words += 1;
        }
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str =
        "I am coming to you, on the left.\n{\"action\":\"go\",\"target\":\"person\",\"direction\":\"left\"}";

    fn line(name: &str, target: &str, direction: &str) -> ActionLine {
        let short = |s: &str| Name::from(s).expect("a short name");
        ActionLine { name: short(name), target: short(target), direction: short(direction) }
    }

    /// Words and action of a reply that arrives in pieces of `size` characters.
    fn split(reply: &str, size: usize) -> (Vec<String>, Result<Option<ActionLine>, ReplyError>) {
        let (mut splitter, mut words) = (ReplySplitter::default(), Vec::new());
        let chars: Vec<char> = reply.chars().collect();
        for piece in chars.chunks(size) {
            splitter.push(&piece.iter().collect::<String>(), |w| words.push(w.word.to_string()));
        }
        let action = splitter.finish(|w| words.push(w.word.to_string()));
        (words, action)
    }

    #[test]
    fn splits_alike_however_the_reply_is_cut() {
        let whole = split(REPLY, 1000);
        assert_eq!(whole.0.join(" "), "I am coming to you, on the left.");
        assert_eq!(whole.1, Ok(Some(line("go", "person", "left"))));
        for size in 1..40 {
            assert_eq!(split(REPLY, size), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_word_is_spoken_as_soon_as_it_is_complete_and_speech_ends_at_the_line_break() {
        let (mut splitter, mut words) = (ReplySplitter::default(), Vec::new());
        splitter.push("Hel", |w| words.push(w));
        splitter.push("lo", |w| words.push(w));
        assert!(words.is_empty());
        splitter.push(" there.", |w| words.push(w));
        assert_eq!((words.len(), splitter.speech_ended()), (1, false));
        splitter.push("\n", |w| words.push(w));
        assert_eq!((words.len(), splitter.speech_ended()), (2, true));
        assert_eq!((words[0].index, words[1].index, splitter.words()), (0, 1, 2));
        assert_eq!(&"Hello there."[..words[0].end_byte], "Hello");
        assert_eq!(&"Hello there."[..words[1].end_byte], "Hello there.");
    }

    #[test]
    fn knows_every_action_of_the_grammar() {
        for (json, action) in [
            (r#"{"action":"none"}"#, None),
            (r#"{"action":"stop"}"#, Some(line("stop", "", ""))),
            (r#"{"action":"go","target":"charger","direction":"ahead"}"#, Some(line("go", "charger", "ahead"))),
            (r#"{"action":"follow","target":"person"}"#, Some(line("follow", "person", ""))),
            (r#"{"action":"search","target":"charger"}"#, Some(line("search", "charger", ""))),
            (r#"{"action":"turn","direction":"around"}"#, Some(line("turn", "", "around"))),
            (r#" {"direction": "back", "action": "move"} "#, Some(line("move", "", "back"))),
        ] {
            assert_eq!(parse_action(json), Ok(action), "{json}");
        }
    }

    #[test]
    fn refuses_everything_else_with_a_sentence() {
        for json in [
            r#"{"action":"jump"}"#,
            r#"{"action":"Stop"}"#,
            r#"{"action":"a name longer than any name"}"#,
            r#"{"action":"go","target":"person"}"#,
            r#"{"action":"go","target":"obstacle","direction":"left"}"#,
            r#"{"action":"go","target":"person","direction":"back"}"#,
            r#"{"action":"follow","target":"charger"}"#,
            r#"{"action":"follow","target":"person","direction":"left"}"#,
            r#"{"action":"move","direction":"left"}"#,
            r#"{"action":"turn","direction":"ahead"}"#,
            r#"{"action":"stop","speed":9}"#,
            r#"{"action":"stop","target":null}"#,
            r#"{"action":"stop","target":""}"#,
            r#"{"action":"none","action":"move","direction":"forward"}"#,
            r#"{"action":"go","target":"person","direction":"left","direction":"right"}"#,
            r#"{"action":"stop"} {"action":"none"}"#,
            r#"["stop"]"#,
            r#"{"action":["stop"]}"#,
            r#"{"action":"stop""#,
            "{}",
            "stop",
        ] {
            let error = parse_action(json).expect_err(json).to_string();
            assert!(error.contains("is not a known action") && error.ends_with("nothing is done"), "{json}: {error}");
        }
    }

    #[test]
    fn a_reply_that_breaks_off_does_nothing() {
        let (words, action) = split("I am com", 3);
        assert_eq!(words, ["I", "am", "com"]);
        assert_eq!(action, Err(ReplyError::NoAction));
        assert_eq!(split("I am standing still.\n", 3).1, Err(ReplyError::NoAction));
        assert_eq!(split("", 1).1, Err(ReplyError::NoAction));
    }

    #[test]
    fn json_is_never_read_aloud() {
        assert_eq!(split("{\"action\":\"stop\"}", 4), (vec![], Ok(Some(line("stop", "", "")))));
        let (words, action) = split("Well. {\"action\":\"stop\"}", 4);
        assert_eq!((words, action), (vec!["Well.".to_owned()], Ok(Some(line("stop", "", "")))));
    }

    #[test]
    fn endless_output_stays_bounded_and_does_nothing() {
        let (mut splitter, mut spoken) = (ReplySplitter::default(), 0u32);
        for _ in 0..5000 {
            splitter.push("word ", |_| spoken += 1);
        }
        assert_eq!(spoken, u32::from(MAX_SPOKEN_WORDS));
        splitter.push("\n{", |_| spoken += 1);
        for _ in 0..5000 {
            splitter.push("\"a\":1,", |_| spoken += 1);
        }
        assert_eq!(splitter.finish(|_| spoken += 1), Err(ReplyError::TooLong));
        assert_eq!(spoken, u32::from(MAX_SPOKEN_WORDS));
    }

    #[test]
    fn a_word_too_long_for_one_piece_comes_in_several_and_none_is_lost() {
        let long = "ä".repeat(50);
        let (words, _) = split(&format!("{long} end\n"), 7);
        assert_eq!(words.concat(), format!("{long}end"));
    }

    #[test]
    fn takes_every_reply_of_the_grammar_apart() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/mind/heldout.jsonl");
        let cases = std::fs::read_to_string(file).expect("ships with the source");
        for case in cases.lines() {
            let case: serde_json::Value = serde_json::from_str(case).expect("one case a line");
            let want = case["want"].as_str().expect("text");
            let (words, action) = split(want, 3);
            assert_eq!(Some(words.join(" ").as_str()), want.lines().next());
            assert!(action.is_ok(), "{want}: {action:?}");
        }
    }
}

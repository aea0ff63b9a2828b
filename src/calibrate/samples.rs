//! What a calibration reads: sample sets that ship, files, and what was asked and answered in recordings of the robot itself.
//! Names and paths flow in; documents as tokens flow out, in an order that only the seed decides.

use super::CalibrateError;
use crate::block::reason::prompt::SYSTEM;
use crate::model::chat::{self, Message, Role};
use crate::model::tokenizer::Tokenizer;
use crate::record::message::{Item, LogError};
use crate::record::proto;
use crate::record::reader::LogReader;
use crate::record::verify::files_of;
use crate::types::{Act, Command, Decision, Inputs, JobId, JobInput, LaneEvent, Piece};
use prost::Message as _;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Sample sets in the program: name, form and text.
const SHIPPED: [(&str, &str, &str); 2] = [
    ("general", "txt", include_str!("../../calibration/samples/general.txt")),
    ("robot", "jsonl", include_str!("../../calibration/samples/robot.jsonl")),
];

/// Line between two documents of a text file.
const BETWEEN: &str = "---";

/// Where documents came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Name of the set or file.
    pub name: String,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    /// Documents in it.
    pub documents: usize,
}

/// Documents and where they came from.
#[derive(Debug, Default)]
pub struct Samples {
    /// In the order they were added.
    pub sources: Vec<Source>,
    /// Source and tokens of each.
    documents: Vec<(usize, Vec<u32>)>,
}

/// Tokens that are read in one context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window<'a> {
    /// Number of the source among [`Samples::sources`].
    pub source: usize,
    /// The tokens, two or more.
    pub tokens: &'a [u32],
}

/// How documents become tokens.
pub struct Reader<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// System message of the model's own template.
    pub system: Option<&'a str>,
    /// Rows of the embedding.
    pub vocabulary: usize,
}

impl Samples {
    /// Adds a set that ships.
    ///
    /// # Errors
    /// No such set.
    pub fn add_set(&mut self, name: &str, reader: &Reader) -> Result<(), CalibrateError> {
        let Some((_, form, text)) = SHIPPED.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<&str> = SHIPPED.iter().map(|(name, ..)| *name).collect();
            return Err(CalibrateError::Refused(format!("no sample set {name}; there are {}", known.join(" and "))));
        };
        self.add_text(name, form, text, reader)
    }

    /// Adds a file: `.jsonl` with `messages` or `text` in each line, or text whose documents a line `---` divides.
    ///
    /// # Errors
    /// It cannot be read or holds nothing.
    pub fn add_file(&mut self, path: &Path, reader: &Reader) -> Result<(), CalibrateError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CalibrateError::Refused(format!("cannot read {}: {error}", path.display())))?;
        let form = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        self.add_text(&path.display().to_string(), form, &text, reader)
    }

    fn add_text(&mut self, name: &str, form: &str, text: &str, reader: &Reader) -> Result<(), CalibrateError> {
        let refuse = |why: String| CalibrateError::Refused(format!("{name}: {why}"));
        let documents = if form == "jsonl" {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            lines
                .map(|(index, line)| reader.line(line).map_err(|why| refuse(format!("line {}: {why}", index + 1))))
                .collect::<Result<Vec<String>, _>>()?
        } else {
            let mut documents = vec![String::new()];
            for line in text.lines() {
                match documents.last_mut() {
                    Some(open) if line.trim() != BETWEEN => {
                        open.push_str(line);
                        open.push('\n');
                    }
                    _ => documents.push(String::new()),
                }
            }
            documents
        };
        self.add(name, blake3::hash(text.as_bytes()), &documents, reader)
    }

    /// Adds what was asked and answered in a recording, which may be a folder of its parts.
    ///
    /// # Errors
    /// No log of this program, or nobody asked anything in it.
    pub fn add_log(&mut self, path: &Path, reader: &Reader) -> Result<(), CalibrateError> {
        let mut hasher = blake3::Hasher::new();
        let mut talk: Vec<Talk> = Vec::new();
        for file in files_of(path).map_err(|error| CalibrateError::Refused(error.to_string()))? {
            read_log(&file, &mut talk).map_err(|error| CalibrateError::Refused(error.to_string()))?;
            let bytes = std::fs::File::open(&file).and_then(|file| hasher.update_reader(file).map(|_| ()));
            bytes.map_err(|error| CalibrateError::Refused(format!("cannot read {}: {error}", file.display())))?;
        }
        let documents: Vec<String> = talk
            .into_iter()
            .map(|talk| {
                let messages = [Message::new(Role::System, SYSTEM), Message::new(Role::User, talk.asked)];
                chat::render(&messages, &[]) + &talk.answered
            })
            .collect();
        let name = path.display().to_string();
        if documents.is_empty() {
            return Err(CalibrateError::Refused(format!("{name}: nobody asked the robot anything in this recording")));
        }
        self.add(&name, hasher.finalize(), &documents, reader)
    }

    fn add(
        &mut self,
        name: &str,
        hash: blake3::Hash,
        documents: &[String],
        reader: &Reader,
    ) -> Result<(), CalibrateError> {
        let (source, before) = (self.sources.len(), self.documents.len());
        for document in documents.iter().filter(|document| !document.trim().is_empty()) {
            let tokens = reader.tokenizer.encode(document)?;
            if let Some(token) = tokens.iter().find(|token| **token as usize >= reader.vocabulary) {
                let why = format!("token {token} is beyond the model's vocabulary of {}", reader.vocabulary);
                return Err(CalibrateError::Refused(format!(
                    "{name}: {why}; tokenizer and model do not belong together"
                )));
            }
            if tokens.len() > 1 {
                self.documents.push((source, tokens));
            }
        }
        let documents = self.documents.len() - before;
        if documents == 0 {
            return Err(CalibrateError::Refused(format!("{name}: there is nothing to read in it")));
        }
        self.sources.push(Source { name: name.to_owned(), blake3: hash.to_hex().to_string(), documents });
        Ok(())
    }

    /// Windows of at most `sequence` tokens: those that ranges are taken from, at most `tokens` tokens, and those that only
    /// the report is made with, at most a quarter of that. Every fourth document of a source, in the seed's order, is for the
    /// report; sources of fewer than four documents are taken as one. All sources take turns.
    pub fn split(&self, (sequence, tokens): (usize, usize), seed: u64) -> (Vec<Window<'_>>, Vec<Window<'_>>) {
        let mut order: Vec<usize> = (0..self.documents.len()).collect();
        order.sort_by_key(|&index| shuffled(seed, index as u64));
        let small = self.sources.len();
        let mut places = vec![0; small + 1];
        // Whether it is for the report, which document of its kind and source it is, and which of all.
        let mut documents: Vec<(bool, usize, usize)> = Vec::new();
        for index in order {
            let source = self.documents[index].0;
            let place = &mut places[if self.sources[source].documents < 4 { small } else { source }];
            let of_report = *place % 4 == 3;
            documents.push((of_report, if of_report { *place / 4 } else { *place - *place / 4 }, index));
            *place += 1;
        }
        documents.sort_by_key(|&(_, turn, _)| turn);
        let take = |of_report: bool, most: usize| {
            let (mut windows, mut left) = (Vec::new(), most);
            for &(_, _, index) in documents.iter().filter(|(report, ..)| *report == of_report) {
                let (source, tokens) = &self.documents[index];
                for tokens in tokens.chunks(sequence) {
                    let tokens = &tokens[..tokens.len().min(left)];
                    if tokens.len() > 1 {
                        left -= tokens.len();
                        windows.push(Window { source: *source, tokens });
                    }
                }
            }
            windows
        };
        (take(false, tokens), take(true, tokens / 4))
    }
}

/// SplitMix64 of seed and index.
fn shuffled(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Reader<'_> {
    /// The text of one line of JSON.
    fn line(&self, line: &str) -> Result<String, String> {
        let json: Value = serde_json::from_str(line).map_err(|error| format!("is not JSON ({error})"))?;
        if let Some(text) = json["text"].as_str() {
            return Ok(text.to_owned());
        }
        let Some(list) = json["messages"].as_array() else { return Err("has neither `messages` nor `text`".into()) };
        let mut messages = Vec::new();
        for message in list {
            let role = match message["role"].as_str() {
                Some("system") => Role::System,
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                Some("tool") => Role::Tool,
                _ => return Err("has a message without a known `role`".into()),
            };
            let Some(content) = message["content"].as_str() else {
                return Err("has a message without `content`".into());
            };
            messages.push(Message::new(role, content));
        }
        // The prompt opens the assistant's turn; what it says there comes after.
        let answer = messages.pop_if(|last| last.role == Role::Assistant);
        let text = chat::render_for(self.system, &messages, &[]);
        Ok(answer.map_or_else(|| text.clone(), |answer| format!("{text}{}{END_OF_TURN}", answer.content)))
    }
}

/// What ends a turn of the chat format.
const END_OF_TURN: &str = "<|im_end|>\n";

/// A question in a recording and what was answered.
struct Talk {
    /// Counts up within a run; a folder may hold several runs.
    job: JobId,
    asked: String,
    answered: String,
}

/// Appends the questions and answers of one file.
fn read_log(path: &Path, talk: &mut Vec<Talk>) -> Result<(), LogError> {
    let mut reader = LogReader::open(path)?.only(|channel| channel.topic == "/tick" && channel.schema == "sage.Tick");
    while let Some(item) = reader.next_item() {
        let Item::Message(message) = item else { continue };
        // A damaged tick has no words; its neighbours do.
        let Ok(tick) = proto::Tick::decode(message.data.as_slice()) else { continue };
        if let Ok(inputs) = postcard::from_bytes::<Inputs>(&tick.inputs) {
            for event in &inputs.events {
                if let LaneEvent::Piece { job, piece: Piece::Word { word, .. } } = event
                    && let Some(talk) = talk.iter_mut().rev().find(|talk| talk.job == *job)
                {
                    if !talk.answered.is_empty() {
                        talk.answered.push(' ');
                    }
                    talk.answered.push_str(word.as_str());
                }
            }
        }
        type Decided = (u64, Vec<Decision>, Vec<Command>, Vec<Act>);
        let Ok((_, _, commands, _)) = postcard::from_bytes::<Decided>(&tick.decided) else { continue };
        for command in commands {
            if let Command::Submit(job) = command
                && let JobInput::Ask { prompt, .. } = job.input
            {
                talk.push(Talk { job: job.id, asked: prompt.as_str().to_owned(), answered: String::new() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents of five tokens, each of which names its source.
    fn samples(counts: &[usize]) -> Samples {
        let mut samples = Samples::default();
        for (source, &documents) in counts.iter().enumerate() {
            samples.sources.push(Source { name: source.to_string(), blake3: String::new(), documents });
            samples.documents.extend((0..documents).map(|_| (source, vec![source as u32; 5])));
        }
        samples
    }

    fn of_sources(windows: &[Window], sources: usize) -> Vec<usize> {
        (0..sources).map(|source| windows.iter().filter(|window| window.source == source).count()).collect()
    }

    #[test]
    fn every_source_is_read_and_judged_even_if_there_is_little_time() {
        let samples = samples(&[8, 400]);
        let (read, judged) = samples.split((512, 10_000), 7);
        assert_eq!((of_sources(&read, 2), of_sources(&judged, 2)), (vec![6, 300], vec![2, 100]));
        let (read, judged) = samples.split((512, 40), 7);
        assert_eq!((of_sources(&read, 2), of_sources(&judged, 2)), (vec![4, 4], vec![1, 1]));
        assert!(read.iter().all(|window| window.tokens == [window.source as u32; 5]));
    }

    #[test]
    fn many_sources_of_one_document_are_judged_together() {
        let (five, three) = (samples(&[1; 5]), samples(&[1; 3]));
        let (read, judged) = five.split((512, 10_000), 0);
        assert_eq!((read.len(), judged.len()), (4, 1));
        assert!(three.split((512, 10_000), 0).1.is_empty());
    }
}

//! What specialists report: things seen in a frame, words heard, pieces of an answer. They flow from the lanes into the
//! tick and into the record.

use super::{Nanos, Text};
use serde::{Deserialize, Serialize};

/// Most detections kept of one frame, best first.
pub const MAX_DETECTIONS: usize = 16;
/// Most words of one utterance; later words are dropped and the utterance is marked cut.
pub const MAX_WORDS: usize = 24;

/// A heard or spoken word.
pub type Word = Text<24>;

/// The classes the eye knows; names as in `engines/language/language.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thing {
    /// A human.
    Person,
    /// Anything in the way.
    Obstacle,
    /// The charging station.
    Charger,
    /// A raised forearm and hand.
    Hand,
}

/// One thing seen in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detection {
    /// What it is.
    pub thing: Thing,
    /// Left, top, right, bottom in pixels of the frame.
    pub bbox_px: [u16; 4],
    /// Confidence, 0..=1000.
    pub score_permille: u16,
    /// Distance from the camera.
    pub distance_mm: u32,
    /// Bearing of the centre, positive to the right.
    pub bearing_mrad: i16,
    /// A person with a raised hand.
    pub raising: bool,
}

/// One word the ear recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardWord {
    /// The word, lower case; `<unk>` for one outside the vocabulary.
    pub word: Word,
    /// When the word ended in the sound.
    pub ended: Nanos,
    /// Confidence, 0..=1000.
    pub score_permille: u16,
}

/// A piece of an answer while it is being generated: whole words, or the action line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// The next word to speak, punctuation attached, with its index from 0 in the answer.
    Word {
        /// Position in the answer.
        index: u16,
        /// The word.
        word: Word,
    },
    /// The action the answer ends with, already parsed and known.
    Action(super::ActionLine),
    /// The answer's action line was not understood; nothing will be done.
    BadAction,
}

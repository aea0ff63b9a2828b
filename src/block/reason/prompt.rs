//! What the mind is asked: the scene the robot perceives, worded exactly as its training grammar words it, and what a person
//! said. In flow the eye's detections, the battery and the words the ear heard; out flows the content of one user message.
//! Pure and free of allocation, since the tick makes it; distances stay integers, so the text is the same on every machine.

use crate::types::{Detection, MAX_WORDS, Prompt, Thing};
use std::fmt::{self, Write};

/// The system message the embedded mind was trained with (`engines/mind/grammar.py`, `SYSTEM`).
pub const SYSTEM: &str = "You are Sage, a small robot.";

/// What stands for a word outside the vocabulary (`engines/language/language.json`, `unknown`).
pub const UNKNOWN_WORD: &str = "<unk>";

/// Bearings up to this to either side are "ahead": the middle third of a picture 70° wide, atan(tan 35° / 3).
pub const AHEAD_MRAD: i16 = 229;

/// The smallest and the largest distance the scene text can say.
const SAYABLE_DM: std::ops::RangeInclusive<u32> = 1..=99;

/// Where something is, seen from the robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// More than [`AHEAD_MRAD`] to the left.
    Left,
    /// In the middle.
    Ahead,
    /// More than [`AHEAD_MRAD`] to the right.
    Right,
}

impl Direction {
    /// The direction of a bearing, positive to the right.
    pub fn of_bearing(mrad: i16) -> Self {
        if mrad < -AHEAD_MRAD {
            Self::Left
        } else if mrad > AHEAD_MRAD {
            Self::Right
        } else {
            Self::Ahead
        }
    }

    /// The word for it in scene, speech and actions.
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Ahead => "ahead",
            Self::Right => "right",
        }
    }
}

/// Direction and distance of the nearest of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub direction: Direction,
    /// How far, in decimetres.
    pub distance_dm: u32,
}

impl Place {
    /// The place of a detection, its distance rounded to the nearest decimetre.
    fn of(detection: &Detection) -> Self {
        Self {
            direction: Direction::of_bearing(detection.bearing_mrad),
            distance_dm: (detection.distance_mm / 50).div_ceil(2),
        }
    }
}

impl fmt::Display for Place {
    /// `left 1.8 m`: one decimal, held between 0.1 and 9.9.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dm = self.distance_dm.clamp(*SAYABLE_DM.start(), *SAYABLE_DM.end());
        write!(f, "{} {}.{} m", self.direction.word(), dm / 10, dm % 10)
    }
}

/// What the mind is told of the world: the nearest of each class and the battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scene {
    /// The nearest person.
    pub person: Option<Place>,
    /// Whether that person raises a hand.
    pub hand_raised: bool,
    /// The nearest obstacle.
    pub obstacle: Option<Place>,
    /// The nearest charger.
    pub charger: Option<Place>,
    /// State of charge in per cent, `None` while the robot does not report it.
    pub battery_percent: Option<u8>,
}

impl Scene {
    /// Picks the nearest of each class out of what the eye found in one frame; of equally near ones the leftmost, so that the
    /// order of the detections does not matter.
    pub fn of_detections(detections: &[Detection], battery_percent: Option<u8>) -> Self {
        let nearest = |thing| {
            detections.iter().filter(|d| d.thing == thing).min_by_key(|d| (d.distance_mm, d.bearing_mrad, !d.raising))
        };
        let person = nearest(Thing::Person);
        Self {
            person: person.map(Place::of),
            hand_raised: person.is_some_and(|p| p.raising),
            obstacle: nearest(Thing::Obstacle).map(Place::of),
            charger: nearest(Thing::Charger).map(Place::of),
            battery_percent,
        }
    }
}

impl fmt::Display for Scene {
    /// `scene: person left 1.8 m raising hand; obstacle none; charger right 3.0 m; battery 23 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part(f: &mut fmt::Formatter<'_>, name: &str, place: Option<Place>) -> fmt::Result {
            match place {
                Some(place) => write!(f, "{name} {place}"),
                None => write!(f, "{name} none"),
            }
        }
        part(f, "scene: person", self.person)?;
        if self.person.is_some() && self.hand_raised {
            f.write_str(" raising hand")?;
        }
        part(f, "; obstacle", self.obstacle)?;
        part(f, "; charger", self.charger)?;
        match self.battery_percent {
            Some(percent) => write!(f, "; battery {} %", percent.min(100)),
            None => f.write_str("; battery unknown"),
        }
    }
}

/// The user message: the scene's line and, below it, what was said in lower case with single spaces. A word with anything but
/// letters in it becomes `<unk>`, so nothing heard or typed can forge the marks of the chat format; punctuation after a word
/// is dropped; "two" and "too" are spelled "to", as the ear reports them. Words beyond [`MAX_WORDS`], or beyond the room a
/// [`Prompt`] has, are dropped. Nothing said gives one `<unk>`.
pub fn prompt<'a>(scene: &Scene, said: impl IntoIterator<Item = &'a str>) -> Prompt {
    let mut text = Prompt::new();
    // The longest scene has 103 bytes, so it and the line break always fit.
    let _ = writeln!(text, "{scene}");
    let mut words = said.into_iter().flat_map(str::split_whitespace).take(MAX_WORDS).peekable();
    if words.peek().is_none() {
        let _ = text.try_push_str(UNKNOWN_WORD);
    }
    let mut gap = "";
    for word in words {
        let before = text.len();
        if text.try_push_str(gap).is_err() || push_word(&mut text, word).is_err() {
            text.truncate(before);
            break;
        }
        gap = " ";
    }
    text
}

/// Appends one word as [`prompt`] spells it, or fails where it does not fit.
fn push_word(text: &mut Prompt, word: &str) -> fmt::Result {
    let plain = word.trim_end_matches(['.', ',', '?', '!']);
    if ["two", "too"].iter().any(|w| plain.eq_ignore_ascii_case(w)) {
        text.write_str("to")
    } else if !plain.is_empty() && plain.chars().all(char::is_alphabetic) {
        plain.chars().flat_map(char::to_lowercase).try_for_each(|c| text.write_char(c))
    } else {
        text.write_str(UNKNOWN_WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(thing: Thing, bearing_mrad: i16, distance_mm: u32) -> Detection {
        Detection { thing, bbox_px: [0, 0, 10, 10], score_permille: 900, distance_mm, bearing_mrad, raising: false }
    }

    fn text(detections: &[Detection], battery: Option<u8>) -> String {
        Scene::of_detections(detections, battery).to_string()
    }

    fn said(words: &[&str]) -> String {
        let prompt = prompt(&Scene::default(), words.iter().copied());
        let (_, said) = prompt.split_once('\n').expect("two lines");
        said.to_owned()
    }

    #[test]
    fn words_a_scene_as_the_grammar_does() {
        let mut person = seen(Thing::Person, -400, 1800);
        person.raising = true;
        let all =
            [seen(Thing::Hand, -380, 1800), person, seen(Thing::Obstacle, 0, 600), seen(Thing::Charger, 350, 3000)];
        // language.json gives this very line as the convention.
        assert_eq!(
            text(&all, Some(23)),
            "scene: person left 1.8 m raising hand; obstacle ahead 0.6 m; charger right 3.0 m; battery 23 %"
        );
    }

    #[test]
    fn says_none_and_unknown_for_what_is_absent() {
        assert_eq!(text(&[], None), "scene: person none; obstacle none; charger none; battery unknown");
    }

    #[test]
    fn takes_the_nearest_of_each_class_in_any_order() {
        let mut far = seen(Thing::Person, 400, 4100);
        far.raising = true;
        let mut all =
            [far, seen(Thing::Person, -400, 2000), seen(Thing::Person, 0, 2600), seen(Thing::Person, 400, 2000)];
        let first = text(&all, Some(100));
        assert_eq!(first, "scene: person left 2.0 m; obstacle none; charger none; battery 100 %");
        all.reverse();
        assert_eq!(text(&all, Some(100)), first);
    }

    #[test]
    fn rounds_distances_to_decimetres_and_holds_them_in_what_can_be_said() {
        for (mm, said) in [(749, "0.7"), (750, "0.8"), (849, "0.8"), (999, "1.0"), (0, "0.1"), (u32::MAX, "9.9")] {
            assert_eq!(
                text(&[seen(Thing::Charger, 0, mm)], None),
                format!("scene: person none; obstacle none; charger ahead {said} m; battery unknown")
            );
        }
    }

    #[test]
    fn ahead_is_the_middle_third() {
        let words = [i16::MIN, -230, -229, 0, 229, 230, i16::MAX].map(|b| Direction::of_bearing(b).word());
        assert_eq!(words, ["left", "left", "ahead", "ahead", "ahead", "right", "right"]);
    }

    #[test]
    fn speech_can_not_forge_the_chat_format() {
        assert_eq!(said(&["come", "<|im_end|>", "here"]), "come <unk> here");
        assert_eq!(said(&["charge", "two", "<unk>"]), "charge to <unk>");
        assert_eq!(said(&["Come here,\nplease!", "?"]), "come here please <unk>");
        assert_eq!(said(&[]), "<unk>");
        assert_eq!(said(&[" "]), "<unk>");
    }

    #[test]
    fn too_much_speech_is_cut_at_a_word() {
        assert_eq!(said(&["go"; 1000]).split(' ').count(), MAX_WORDS);
        let long = "a".repeat(50);
        let heard = said(&[long.as_str(); MAX_WORDS]);
        assert!(heard.len() > 250 && heard.split(' ').all(|w| w == long), "{heard}");
    }

    #[test]
    fn the_longest_scene_leaves_room_for_the_longest_utterance() {
        let mut person = seen(Thing::Person, -400, 9900);
        person.raising = true;
        let all = [person, seen(Thing::Obstacle, 0, 9900), seen(Thing::Charger, 350, 9900)];
        let scene = Scene::of_detections(&all, None);
        assert_eq!(prompt(&scene, ["obstacle"; MAX_WORDS]).lines().count(), 2);
        assert_eq!(prompt(&scene, ["obstacle"; MAX_WORDS]).split("obstacle").count() - 2, MAX_WORDS);
    }

    /// The place a scene text names, read back.
    fn place(part: &str) -> Option<Place> {
        let mut words = part.split(' ').skip(1);
        let direction = match words.next()? {
            "left" => Direction::Left,
            "ahead" => Direction::Ahead,
            "right" => Direction::Right,
            _ => return None,
        };
        let digits = words.next()?.replace('.', "");
        Some(Place { direction, distance_dm: digits.parse().expect("a distance") })
    }

    #[test]
    fn says_what_every_held_out_case_of_the_grammar_says() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/engines/mind/heldout.jsonl");
        let cases = std::fs::read_to_string(file).expect("ships with the source");
        for case in cases.lines() {
            let case: serde_json::Value = serde_json::from_str(case).expect("one case a line");
            assert_eq!(case["messages"][0]["content"], SYSTEM);
            let user = case["messages"][1]["content"].as_str().expect("text");
            let (line, words) = user.split_once('\n').expect("scene and utterance");
            let parts: Vec<&str> = line.strip_prefix("scene: ").expect("a scene").split("; ").collect();
            let scene = Scene {
                person: place(parts[0]),
                hand_raised: parts[0].ends_with("raising hand"),
                obstacle: place(parts[1]),
                charger: place(parts[2]),
                battery_percent: parts[3].split(' ').nth(1).and_then(|b| b.parse().ok()),
            };
            assert_eq!(prompt(&scene, words.split(' ')).as_str(), user);
        }
    }
}

//! What an action line means for the body: a closed set. Names and arguments as the mind's grammar has them flow in,
//! the motion flows out; whatever else is no action.

use crate::block::reason::prompt::Direction;
use crate::types::{ActionLine, Thing};

/// A motion the gate knows how to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// Stand still.
    Stand,
    /// Turn on the spot, also to search.
    Turn,
    /// Move back.
    Back,
    /// Move one way.
    Towards(Direction),
    /// Go to or follow something, seen one way or wherever it is.
    To(Thing, Option<Direction>),
}

/// The motion of an action line; `None` if its name or arguments are not known.
pub fn motion(line: &ActionLine) -> Option<Motion> {
    let thing = match line.target.as_str() {
        "" => None,
        "person" => Some(Thing::Person),
        "charger" => Some(Thing::Charger),
        "obstacle" => Some(Thing::Obstacle),
        _ => return None,
    };
    let way = match line.direction.as_str() {
        "left" => Some(Direction::Left),
        "ahead" | "forward" => Some(Direction::Ahead),
        "right" => Some(Direction::Right),
        "" | "around" | "back" => None,
        _ => return None,
    };
    match (line.name.as_str(), thing, line.direction.as_str()) {
        ("stop", None, "") => Some(Motion::Stand),
        ("turn", None, "left" | "right" | "around") => Some(Motion::Turn),
        ("search", Some(_), "") => Some(Motion::Turn),
        ("move", None, "back") => Some(Motion::Back),
        ("move", None, "forward" | "left" | "right" | "ahead") => way.map(Motion::Towards),
        ("go", Some(thing), "left" | "ahead" | "right") => Some(Motion::To(thing, way)),
        ("go", None, "left" | "ahead" | "right") => way.map(Motion::Towards),
        ("follow", Some(thing), "" | "left" | "ahead" | "right") => Some(Motion::To(thing, way)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, target: &str, direction: &str) -> Option<Motion> {
        let text = |text: &str| crate::types::Name::from(text).expect("short");
        motion(&ActionLine { name: text(name), target: text(target), direction: text(direction) })
    }

    #[test]
    fn every_action_of_the_grammar_is_known_and_nothing_else() {
        assert_eq!(of("stop", "", ""), Some(Motion::Stand));
        assert_eq!(of("search", "person", ""), Some(Motion::Turn));
        assert_eq!(of("turn", "", "around"), Some(Motion::Turn));
        assert_eq!(of("move", "", "forward"), Some(Motion::Towards(Direction::Ahead)));
        assert_eq!(of("move", "", "back"), Some(Motion::Back));
        assert_eq!(of("go", "charger", "right"), Some(Motion::To(Thing::Charger, Some(Direction::Right))));
        assert_eq!(of("follow", "person", ""), Some(Motion::To(Thing::Person, None)));
        for (name, target, direction) in [
            ("", "", ""),
            ("none", "", ""),
            ("fly", "", ""),
            ("go", "moon", "left"),
            ("go", "person", "up"),
            ("go", "person", ""),
            ("turn", "", "back"),
            ("stop", "person", ""),
        ] {
            assert_eq!(of(name, target, direction), None, "{name} {target} {direction}");
        }
    }
}

//! Scripted scenes: a world to look at, lines that people speak, the room's noise and the robot's own values, as functions
//! of time. A name or a seed flows in; frames, blocks of sound and status flow out, always the same for the same seed.

use super::phrases::Phrases;
use super::random::{Random, mix};
use super::{Obstacle, Person, Track, World};
use crate::types::{AUDIO_BLOCK, AUDIO_RATE_HZ, Status};

/// Frames per second of every scene.
pub const SCENE_HZ: u32 = 10;

/// Something said in the scene.
#[derive(Debug, Clone)]
struct Line {
    /// First sample.
    start: usize,
    samples: Vec<f32>,
}

/// A scene: what is to be seen and heard, and the robot's own values.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Name, for people and records.
    pub name: String,
    /// Length.
    pub seconds: f64,
    /// What the camera sees.
    pub world: World,
    lines: Vec<Line>,
    /// What was said, and when, for people: never an input of the loop.
    pub script: Vec<(f64, String)>,
    battery: (u8, u8),
    noise: f32,
    seed: u64,
}

impl Scene {
    /// Names that [`Scene::named`] knows.
    pub const NAMES: [&'static str; 4] = ["demo", "quiet", "busy", "hazard"];

    /// A scene by name, or by seed if `name` is a number.
    pub fn named(name: &str) -> Option<Scene> {
        match name {
            "demo" => Some(demo()),
            "quiet" => Some(Stage::new("quiet", 3, 60.0).finish()),
            "busy" => Some(busy()),
            "hazard" => Some(hazard()),
            _ => name.parse().ok().map(random),
        }
    }

    /// What it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Samples of block `seq`, counted from the scene's start.
    pub fn sound(&self, seq: u64) -> [i16; AUDIO_BLOCK] {
        let mut noise = Random::new(mix(self.seed ^ (seq << 20)));
        let first = seq as usize * AUDIO_BLOCK;
        let mut block = [0; AUDIO_BLOCK];
        for (offset, out) in block.iter_mut().enumerate() {
            let at = first + offset;
            let speech: f32 =
                self.lines.iter().filter_map(|line| line.samples.get(at.checked_sub(line.start)?)).copied().sum();
            let value = speech + self.noise * (noise.unit() + noise.unit() + noise.unit() - 1.5);
            *out = (value.clamp(-1.0, 1.0) * 32_767.0) as i16;
        }
        block
    }

    /// The robot's own values at time `t`: the battery falls evenly; bumper and e-stop are quiet.
    pub fn status(&self, t: f64) -> Status {
        let share = (t / self.seconds).clamp(0.0, 1.0);
        let battery = f64::from(self.battery.0) + share * (f64::from(self.battery.1) - f64::from(self.battery.0));
        Status {
            battery_percent: Some(battery.round() as u8),
            bumper: Some(false),
            estop: Some(false),
            ..Status::default()
        }
    }
}

/// Puts a scene together.
struct Stage {
    scene: Scene,
    phrases: Phrases,
}

impl Stage {
    fn new(name: &str, seed: u64, seconds: f64) -> Stage {
        Stage {
            scene: Scene {
                name: name.to_owned(),
                seconds,
                world: World::builder(seed).build(),
                lines: Vec::new(),
                script: Vec::new(),
                battery: (64, 60),
                noise: 0.004,
                seed,
            },
            phrases: Phrases::shipped(),
        }
    }

    fn world(mut self, world: World) -> Stage {
        self.scene.world = world;
        self
    }

    fn says(mut self, at: f64, voice: &str, text: &str) -> Stage {
        if let Some(samples) = self.phrases.samples(text, voice) {
            self.scene.lines.push(Line { start: (at * f64::from(AUDIO_RATE_HZ)) as usize, samples });
            self.scene.script.push((at, text.to_owned()));
        }
        self
    }

    fn finish(self) -> Scene {
        self.scene
    }
}

/// The scene that ships: somebody comes, asks, orders, is told a story, interrupts it; a barrel rolls at the robot; the
/// room falls quiet until somebody returns.
fn demo() -> Scene {
    let world = World::builder(21)
        .person(
            Person::on(Track::from(1.5, -3.6, 3.2).to(4.5, -0.9, 2.4).wait(47.0).to(51.0, -4.2, 3.2))
                .raises(7.5, 11.0)
                .present(1.0, 52.0),
        )
        .person(Person::on(Track::from(72.0, 4.0, 3.4).to(75.0, 0.9, 2.2).wait(90.0)).present(71.5, 90.0))
        .obstacle(
            Obstacle::rolling_barrel(Track::from(37.5, 0.25, 5.5).to(41.0, 0.05, 0.9).wait(42.5).to(44.0, 2.6, 1.2))
                .present(37.4, 44.0),
        )
        .charger(Track::still(2.1, 3.1))
        .build();
    Stage::new("demo", 21, 84.0)
        .world(world)
        .says(5.2, "ann", "hello robot")
        .says(8.4, "ann", "what do you see")
        .says(14.0, "ann", "come here")
        .says(19.0, "ann", "tell me your story")
        .says(27.0, "ann", "stop")
        .says(31.5, "ann", "tell me your story")
        .says(45.5, "ann", "how is your battery")
        .says(76.5, "ben", "hello robot")
        .says(80.0, "ben", "turn left")
        .finish()
}

/// Much happens at once: two people talk, walk and raise their hands.
fn busy() -> Scene {
    let world = World::builder(8)
        .person(
            Person::on(Track::from(0.0, -1.6, 2.6).to(10.0, 1.6, 2.8).to(20.0, -1.6, 2.6).to(60.0, 1.0, 3.0))
                .raises(4.0, 7.0),
        )
        .person(Person::on(Track::from(0.0, 1.2, 3.4).to(30.0, -1.0, 2.2).to(60.0, 1.2, 3.4)).raises(20.0, 26.0))
        .obstacle(Obstacle::cardboard_box(Track::still(0.1, 1.6)))
        .charger(Track::still(-1.9, 3.2))
        .build();
    Stage::new("busy", 8, 60.0)
        .world(world)
        .says(3.0, "ben", "good morning")
        .says(6.5, "ann", "who is there")
        .says(11.0, "ben", "give me the full report")
        .says(17.0, "ann", "where is the charger")
        .says(21.5, "ben", "is my hand raised")
        .says(26.0, "ann", "go to the charger")
        .says(30.5, "ann", "stop now")
        .says(36.0, "ben", "tell me your story")
        .says(42.0, "ann", "how far is the person")
        .says(47.0, "ben", "turn around")
        .says(52.0, "ann", "thanks robot")
        .finish()
}

/// Three barrels roll at the robot, one passes by.
fn hazard() -> Scene {
    let mut builder = World::builder(5).person(Person::on(Track::still(-1.4, 3.0)));
    for (start, aside) in [(5.0, 0.0), (18.0, 0.1), (31.0, 2.2), (44.0, -0.1)] {
        builder = builder.obstacle(
            Obstacle::rolling_barrel(Track::from(start, aside, 5.5).to(start + 3.4, aside, 0.9).wait(start + 4.5))
                .present(start - 0.1, start + 5.5),
        );
    }
    Stage::new("hazard", 5, 60.0)
        .world(builder.build())
        .says(12.0, "ann", "tell me your story")
        .says(26.0, "ann", "is the way clear")
        .finish()
}

/// Sixty seconds of somebody saying random phrases of the bank while walking about.
fn random(seed: u64) -> Scene {
    let mut dice = Random::new(mix(seed ^ 0x5ce4e));
    let mut track = Track::from(0.0, dice.between(-2.0, 2.0), dice.between(2.0, 4.0));
    let mut t = 0.0;
    while t < 60.0 {
        t += f64::from(dice.between(2.0, 7.0));
        track = track.to(t, dice.between(-2.0, 2.0), dice.between(1.6, 4.5));
        t += f64::from(dice.between(0.0, 6.0));
        track = track.wait(t);
    }
    let mut world = World::builder(seed)
        .person(Person::on(track).raises(f64::from(dice.between(5.0, 40.0)), 45.0))
        .charger(Track::still(dice.between(-2.0, 2.0), dice.between(2.0, 4.0)));
    if dice.chance(0.5) {
        world = world.obstacle(Obstacle::cardboard_box(Track::still(dice.between(-1.5, 1.5), dice.between(1.2, 3.5))));
    }
    if dice.chance(0.5) {
        let start = f64::from(dice.between(10.0, 50.0));
        let roll = Track::from(start, 0.1, 5.5).to(start + 3.5, 0.0, 0.9).wait(start + 4.5);
        world = world.obstacle(Obstacle::rolling_barrel(roll).present(start - 0.1, start + 5.5));
    }
    let mut stage = Stage::new(&format!("seed {seed}"), seed, 60.0).world(world.build());
    let voice = if dice.chance(0.5) { "ann" } else { "ben" };
    let texts: Vec<String> =
        stage.phrases.all().iter().filter(|phrase| phrase.voice == voice).map(|phrase| phrase.text.clone()).collect();
    let mut at = f64::from(dice.between(2.0, 5.0));
    while at < 55.0 {
        let pick = (dice.unit() * texts.len() as f32) as usize;
        stage = stage.says(at, voice, &texts[pick.min(texts.len() - 1)]);
        at += f64::from(dice.between(3.5, 9.0));
    }
    stage.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_scene_exists_and_every_line_is_in_the_bank() {
        for (name, lines) in [("demo", 9), ("quiet", 0), ("busy", 11), ("hazard", 2)] {
            let scene = Scene::named(name).expect("known");
            assert_eq!(scene.script.len(), lines, "{name}");
            assert!(scene.seconds >= 60.0);
        }
        assert!(Scene::named("no such scene").is_none());
    }

    #[test]
    fn the_same_seed_sounds_the_same_and_another_does_not() {
        let (a, b, c) = (random(5), random(5), random(6));
        assert!((0..50).all(|seq| a.sound(seq) == b.sound(seq)));
        assert!((0..50).any(|seq| a.sound(seq) != c.sound(seq)));
    }

    #[test]
    fn a_line_is_louder_than_the_room() {
        let scene = demo();
        let power = |seq: u64| scene.sound(seq).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let before: f64 = (0..50).map(power).sum();
        let during: f64 = (262..312).map(power).sum();
        assert!(during > 20.0 * before, "{during} against {before}");
    }
}

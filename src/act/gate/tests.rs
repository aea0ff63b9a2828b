//! What the gate lets through and what it does not.

use super::*;
use crate::types::{Detection, GRID_COLS, GRID_ROWS, Looming, SourceId, Status};

const EYE: SourceId = SourceId(0);
const EAR: SourceId = SourceId(1);

struct Bench {
    gate: Gate,
    world: World,
    config: GateConfig,
    now: Nanos,
    out: Outputs,
}

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench {
            gate: Gate::default(),
            world: World::default(),
            config: GateConfig::default(),
            now: Nanos::from_s(10),
            out: Outputs::default(),
        };
        bench.saw(Thing::Person, 2_000, 0);
        bench
    }

    fn saw(&mut self, thing: Thing, distance_mm: u32, bearing_mrad: i16) {
        let found =
            Detection { thing, bbox_px: [0; 4], score_permille: 900, distance_mm, bearing_mrad, raising: false };
        self.world.saw(EYE, self.now.as_ms(), self.now, &[found].into_iter().collect());
    }

    fn status(&mut self, change: impl FnOnce(&mut Status)) {
        let mut status = Status { captured: self.now, ..Status::default() };
        change(&mut status);
        self.world.feels(&status);
    }

    fn looming(&mut self, growth: i32) {
        let features = CameraFeatures {
            source: EYE,
            seq: 0,
            captured: self.now,
            stamp: Default::default(),
            luma: [[0; GRID_COLS]; GRID_ROWS],
            motion: [[0; GRID_COLS]; GRID_ROWS],
            looming: Looming { growth_permille_per_s: growth, cells: 12, bearing_mrad: 0 },
            lost: 0,
        };
        self.gate.see(&features, &self.config);
    }

    fn wait(&mut self, ms: u64) {
        self.now += Nanos::from_ms(ms);
        self.out.clear();
    }

    fn watch(&mut self) -> bool {
        self.gate.watch(&self.world, self.now, &self.config, &mut self.out).1
    }

    fn ask(&mut self, name: &str, target: &str, direction: &str) -> Result<ActionId, Why> {
        self.ask_spoken(name, target, direction, self.now)
    }

    fn ask_spoken(&mut self, name: &str, target: &str, direction: &str, spoken: Nanos) -> Result<ActionId, Why> {
        let text = |text: &str| Name::from(text).expect("short");
        let line = ActionLine { name: text(name), target: text(target), direction: text(direction) };
        let order = Order { spoken, stands: BasedOn { source: EAR, seq: 1, captured: self.now } };
        self.gate.propose(&line, &order, &self.world, self.now, &self.config, &mut self.out)
    }

    fn halts(&self) -> Vec<bool> {
        let halts =
            self.out.acts.iter().filter_map(|act| if let Act::Halt { on, .. } = act { Some(*on) } else { None });
        halts.collect()
    }
}

#[test]
fn a_looming_thing_halts_at_once_and_is_released_when_it_is_over_for_long_enough() {
    let mut bench = Bench::new();
    bench.looming(2_000);
    assert!(bench.watch());
    assert_eq!(bench.halts(), [true]);
    assert_eq!(bench.ask("move", "", "back"), Err(Why::Looming));
    bench.wait(100);
    bench.looming(0);
    assert!(!bench.watch());
    bench.wait(2_900);
    bench.watch();
    assert!(bench.gate.halted());
    bench.wait(200);
    bench.watch();
    assert_eq!(bench.halts(), [false]);
    bench.saw(Thing::Person, 2_000, 0);
    assert!(bench.ask("move", "", "back").is_ok());
}

#[test]
fn what_goes_on_growing_is_one_hazard_and_ends_with_its_camera() {
    let mut bench = Bench::new();
    let mut latched = 0;
    for _ in 0..50 {
        bench.wait(100);
        bench.looming(2_000);
        latched += u32::from(bench.watch());
    }
    assert_eq!(latched, 1);
    bench.wait(2_100);
    bench.watch();
    assert_eq!(bench.gate.present(), None, "the camera is gone");
    assert!(bench.gate.halted());
}

#[test]
fn slow_or_small_growth_is_no_hazard() {
    let mut bench = Bench::new();
    bench.looming(300);
    assert!(!bench.watch() && !bench.gate.halted());
}

#[test]
fn without_a_release_time_only_a_hand_releases() {
    let mut bench = Bench::new();
    bench.config.halt_release_s = 0.0;
    bench.looming(2_000);
    bench.watch();
    bench.looming(0);
    for _ in 0..600 {
        bench.wait(1_000);
        bench.watch();
    }
    assert!(bench.gate.halted());
    bench.gate.release_by_hand(bench.now, &mut bench.out);
    assert!(!bench.gate.halted());
}

#[test]
fn a_latched_halt_is_repeated_and_the_heart_beats() {
    let mut bench = Bench::new();
    bench.gate.said_stop(bench.now, bench.now, &mut bench.out);
    let mut halts = 0;
    let mut beats = 0;
    for _ in 0..100 {
        bench.wait(10);
        bench.gate.beat(bench.now, &bench.config, &mut bench.out);
        halts += bench.halts().len();
        beats += bench.out.acts.iter().filter(|act| matches!(act, Act::Heartbeat { .. })).count();
    }
    assert_eq!((halts, beats), (10, 10));
}

#[test]
fn a_spoken_stop_stands_until_a_later_order_or_a_hand() {
    let mut bench = Bench::new();
    let said = bench.now;
    bench.gate.said_stop(said, bench.now, &mut bench.out);
    bench.wait(60_000);
    bench.watch();
    bench.saw(Thing::Person, 2_000, 0);
    assert!(bench.gate.halted(), "time does not release it");
    assert_eq!(bench.ask_spoken("move", "", "forward", said), Err(Why::Halted), "an order from before the stop");
    assert!(bench.ask("stop", "", "").is_ok() && bench.gate.halted(), "standing still is no motion");
    bench.out.clear();
    assert!(bench.ask("move", "", "forward").is_ok());
    assert!(matches!(bench.out.acts[..], [Act::Halt { on: false, .. }, Act::Do { .. }]), "released first, then moved");

    bench.gate.said_stop(bench.now, bench.now, &mut bench.out);
    bench.gate.release_by_hand(bench.now, &mut bench.out);
    assert!(!bench.gate.halted());
}

#[test]
fn an_emergency_stop_stands_until_it_is_cleared_and_unknown_is_not_cleared() {
    let mut bench = Bench::new();
    bench.status(|status| status.estop = Some(true));
    assert!(bench.watch());
    bench.status(|_| {});
    bench.gate.release_by_hand(bench.now, &mut bench.out);
    assert!(bench.gate.halted(), "a hand does not release it");
    for _ in 0..100 {
        bench.wait(1_000);
        bench.watch();
    }
    assert!(bench.gate.halted());
    assert_eq!(bench.ask("turn", "", "left"), Err(Why::EmergencyStop));
    bench.status(|status| status.estop = Some(false));
    bench.watch();
    bench.wait(3_100);
    bench.watch();
    assert!(!bench.gate.halted());
}

#[test]
fn something_near_halts_by_range_or_by_eye_with_a_band() {
    let mut bench = Bench::new();
    bench.status(|status| status.range_mm = Some(300));
    assert!(bench.watch());
    bench.status(|status| status.range_mm = Some(400));
    bench.wait(10_000);
    bench.watch();
    assert!(bench.gate.halted(), "400 mm is inside the band of 350 to 420");
    bench.status(|status| status.range_mm = Some(500));
    bench.watch();
    bench.wait(3_100);
    bench.watch();
    assert!(!bench.gate.halted());

    bench.saw(Thing::Obstacle, 200, 800);
    assert!(!bench.watch(), "to the side it is in nobody's way");
    bench.saw(Thing::Obstacle, 200, 0);
    assert!(bench.watch());
}

#[test]
fn a_hand_may_excuse_what_stands_there_so_that_the_robot_can_back_off() {
    let mut bench = Bench::new();
    bench.saw(Thing::Obstacle, 200, 0);
    bench.watch();
    assert_eq!(bench.ask("move", "", "back"), Err(Why::TooNear));
    bench.gate.release_by_hand(bench.now, &mut bench.out);
    bench.watch();
    assert!(!bench.gate.halted());
    assert_eq!(bench.ask("move", "", "forward"), Err(Why::TooNear));
    assert!(bench.ask("move", "", "back").is_ok());
    bench.saw(Thing::Obstacle, 2_000, 0);
    bench.watch();
    bench.saw(Thing::Obstacle, 200, 0);
    assert!(bench.watch(), "once it was over, it is a hazard again");
}

#[test]
fn motion_towards_what_is_near_is_refused_and_other_ways_are_not() {
    let mut bench = Bench::new();
    bench.saw(Thing::Obstacle, 500, -500);
    assert_eq!(bench.ask("go", "", "left"), Err(Why::TooNear));
    assert!(bench.ask("go", "", "right").is_ok());
    bench.status(|status| status.range_mm = Some(480));
    assert_eq!(bench.ask("move", "", "forward"), Err(Why::TooNear));
    assert!(bench.ask("turn", "", "around").is_ok());
}

#[test]
fn an_action_rests_on_what_is_still_so() {
    let mut bench = Bench::new();
    assert!(bench.ask("go", "person", "ahead").is_ok());
    assert_eq!(bench.ask("go", "charger", "ahead"), Err(Why::Missing));
    bench.saw(Thing::Person, 2_000, 600);
    assert_eq!(bench.ask("go", "person", "left"), Err(Why::Late), "the person has moved");
    assert!(bench.ask("follow", "person", "").is_ok());
    bench.wait(2_000);
    assert_eq!(bench.ask("follow", "person", ""), Err(Why::Missing), "the frame is too old");
    assert_eq!(bench.ask("move", "", "forward"), Err(Why::Missing), "nothing is known of the way");
    assert_eq!(bench.ask("dance", "", ""), Err(Why::Unknown));
}

#[test]
fn actions_say_what_they_rest_on_until_when_they_hold_and_what_they_replace() {
    let mut bench = Bench::new();
    let first = bench.ask("go", "person", "ahead").expect("allowed");
    bench.wait(300);
    let second = bench.ask("turn", "", "left").expect("allowed");
    let [Act::Do { id, issued, valid_until, based_on, supersedes, .. }] = &bench.out.acts[..] else {
        panic!("one act")
    };
    assert_eq!((*id, *supersedes), (second, Some(first)));
    assert_eq!(valid_until.since(*issued), Nanos::from_ms(1_000));
    assert_eq!(based_on[0].source, EAR);
    bench.wait(100);
    bench.saw(Thing::Person, 2_000, 0);
    bench.wait(400);
    bench.ask("go", "person", "ahead").expect("allowed");
    let Some(Decision::Act { age, .. }) = bench.out.decisions.last() else { panic!("decided") };
    assert_eq!(*age, Nanos::from_ms(400), "the age of the frame");
}

//! A lane in virtual time: real sessions compute the outputs, a profile says what each step costs, and events come out at
//! the virtual instant at which the step would have ended. Everything follows from commands, profile and seed, so a
//! simulation is the same on any machine with the same engines. Faults come from the seed too.

use super::lane::LANE_JOBS;
use super::work::Work;
use crate::engine::profile::Profile;
use crate::engine::{CancelToken, Engine, EngineError, Progress, SensorReader};
use crate::types::{Capability, Command, JobInput, LaneEvent, Nanos};
use std::collections::VecDeque;
use std::sync::Arc;

/// What the simulator breaks on purpose; all zero: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Steps out of a thousand that take `slow_factor` times as long.
    pub slow_permille: u16,
    /// How much longer a slow step takes.
    pub slow_factor: u16,
    /// Steps out of a thousand that fail.
    pub fail_permille: u16,
}

/// The step that runs at the moment.
#[derive(Debug, Clone, Copy)]
struct Running {
    slot: usize,
    began: Nanos,
    ends: Nanos,
    fails: bool,
}

/// One lane of a simulated robot.
pub struct VirtualLane {
    work: Work,
    profile: Profile,
    dice: Option<Dice>,
    faults: Faults,
    running: Option<Running>,
    free_at: Nanos,
    events: VecDeque<LaneEvent>,
    stop_latency: Nanos,
}

impl VirtualLane {
    /// A lane of these engines with the profile's costs. Without a seed each step costs the profile's median; with one,
    /// costs vary up to its 99.9th percentile and `faults` strike.
    ///
    /// # Errors
    /// `Load` if the profile lacks an engine's cost.
    pub fn new(
        engines: Vec<Box<dyn Engine>>,
        sensors: Arc<dyn SensorReader>,
        profile: &Profile,
        seed: Option<u64>,
        faults: Faults,
    ) -> Result<VirtualLane, EngineError> {
        for capability in engines.iter().map(|engine| engine.capability()) {
            if capability != Capability::Load && profile.cost(capability).is_none() {
                return Err(EngineError::Load {
                    what: format!("profile `{}`", profile.name),
                    why: format!(
                        "it has no step cost of {capability:?}; measure one with `sage bench` or choose another"
                    ),
                });
            }
        }
        Ok(VirtualLane {
            work: Work::new(engines, sensors, LANE_JOBS),
            profile: profile.clone(),
            dice: seed.map(Dice::new),
            faults,
            running: None,
            free_at: Nanos::ZERO,
            events: VecDeque::new(),
            stop_latency: Nanos::from_us(50),
        })
    }

    /// Gives the lane a command at `now`; first brings it there. A cancel stops the running step a moment later.
    pub fn command(&mut self, command: &Command, now: Nanos) {
        self.advance(now);
        self.free_at = self.free_at.max(now);
        if let (Command::Cancel(id), Some(running)) = (command, self.running)
            && self.work.lane().job(running.slot).is_some_and(|job| job.id == *id)
        {
            self.running = None;
            let stopped_at = running.ends.min(now + self.stop_latency);
            self.free_at = stopped_at;
            let events = &mut self.events;
            let stopped = Ok(Progress::Stopped);
            let cost = stopped_at.since(running.began);
            self.work.after(running.slot, stopped, cost, stopped_at, &mut |event| events.push_back(event));
            self.work.command(command.clone(), now, stopped_at, &mut |event| events.push_back(event));
            return;
        }
        let events = &mut self.events;
        self.work.command(command.clone(), now, now, &mut |event| events.push_back(event));
    }

    /// Runs the lane up to and with `until`.
    pub fn advance(&mut self, until: Nanos) {
        loop {
            if let Some(running) = self.running {
                if running.ends > until {
                    return;
                }
                self.finish(running);
            }
            if self.free_at > until || !self.begin(self.free_at) {
                return;
            }
        }
    }

    /// The next event whose time has come, in order.
    pub fn event(&mut self) -> Option<LaneEvent> {
        self.events.pop_front()
    }

    /// The instant at which the lane is next free, if a step runs.
    pub fn busy_until(&self) -> Option<Nanos> {
        self.running.map(|running| running.ends)
    }

    /// The queue.
    pub fn lane(&self) -> &super::lane::Lane {
        self.work.lane()
    }

    fn begin(&mut self, now: Nanos) -> bool {
        let events = &mut self.events;
        let Some(slot) = self.work.pick(now, &mut |event| events.push_back(event)) else { return false };
        let (cost, fails) = self.cost(slot);
        self.running = Some(Running { slot, began: now, ends: now + cost, fails });
        true
    }

    /// The step really runs at its virtual end, so that a step stopped inside leaves the session untouched.
    fn finish(&mut self, running: Running) {
        self.running = None;
        self.free_at = running.ends;
        let stepped = if running.fails {
            Err(super::lane::reason("injected fault"))
        } else {
            self.work.step(running.slot, &CancelToken::default())
        };
        let events = &mut self.events;
        let cost = running.ends.since(running.began);
        self.work.after(running.slot, stepped, cost, running.ends, &mut |event| events.push_back(event));
    }

    fn cost(&mut self, slot: usize) -> (Nanos, bool) {
        let Some(job) = self.work.lane().job(slot) else { return (Nanos(1), false) };
        let (p50_us, p999_us) = match (job.input, self.profile.cost(job.capability)) {
            (JobInput::Steps { step_us, .. }, _) => (f64::from(step_us), f64::from(step_us)),
            (_, Some(cost)) => (f64::from(cost.p50_us), f64::from(cost.p999_us)),
            (_, None) => (1.0, 1.0),
        };
        let Some(dice) = &mut self.dice else { return (span_us(p50_us), false) };
        let luck = dice.unit();
        let tail = luck * luck * luck * luck * luck * luck * luck * luck;
        let mut cost = p50_us * (0.95 + 0.1 * dice.unit()) + (p999_us - p50_us).max(0.0) * tail;
        if dice.permille() < self.faults.slow_permille {
            cost *= f64::from(self.faults.slow_factor.max(1));
        }
        (span_us(cost), dice.permille() < self.faults.fail_permille)
    }
}

/// A step takes at least a nanosecond, or virtual time would stand still.
fn span_us(us: f64) -> Nanos {
    Nanos(((us * 1_000.0) as u64).max(1))
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// 0..=999.
    pub fn permille(&mut self) -> u16 {
        (self.bits() % 1000) as u16
    }

    /// 0..`below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.bits() % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Load;
    use super::*;
    use crate::block::dream::Dreamer;
    use crate::engine::NoSensors;
    use crate::types::{Class, Job, JobId, SourceId};

    fn lane(seed: Option<u64>, faults: Faults) -> VirtualLane {
        let engines: Vec<Box<dyn Engine>> = vec![Box::new(Load::counted())];
        VirtualLane::new(engines, Arc::new(NoSensors), &Profile::default(), seed, faults)
            .expect("load needs no profile")
    }

    fn load(id: u64, steps: u32) -> Command {
        Command::Submit(Job {
            id: JobId(id),
            capability: Capability::Load,
            source: SourceId(0),
            generation: 0,
            class: Class::Background,
            input: JobInput::Steps { steps, step_us: 1_000 },
            created: Nanos::ZERO,
            deadline: Nanos::NEVER,
            fresh_until: Nanos::NEVER,
            credit_words: 0,
            based_on: Default::default(),
        })
    }

    /// What the lane tells of twenty jobs, looked at every `look` of virtual time.
    fn story(seed: u64, look: Nanos) -> Vec<LaneEvent> {
        let mut lane = lane(Some(seed), Faults { slow_permille: 100, slow_factor: 5, fail_permille: 100 });
        (1..=20).for_each(|id| lane.command(&load(id, 5), Nanos::ZERO));
        let mut told = Vec::new();
        let mut now = Nanos::ZERO;
        while now < Nanos::from_s(1) {
            now += look;
            lane.advance(now);
            told.extend(std::iter::from_fn(|| lane.event()));
        }
        told
    }

    #[test]
    fn a_profile_without_the_cost_of_an_engine_is_refused_with_a_sentence() {
        let engines: Vec<Box<dyn Engine>> = vec![Box::new(Dreamer)];
        let profile = Profile { name: "mine".to_owned(), steps: Vec::new() };
        let error = VirtualLane::new(engines, Arc::new(NoSensors), &profile, None, Faults::default()).err();
        let text = error.expect("refused").to_string();
        assert!(text.contains("`mine`") && text.contains("Consolidate"), "{text}");
    }

    #[test]
    fn the_story_depends_on_the_seed_and_not_on_how_often_one_looks() {
        let often = story(1, Nanos::from_us(300));
        assert_eq!(often, story(1, Nanos::from_ms(40)));
        assert_ne!(often, story(2, Nanos::from_us(300)));
        let failed =
            |event: &&LaneEvent| matches!(event, LaneEvent::Done { outcome: crate::types::Outcome::Failed(_), .. });
        assert!((1..20).contains(&often.iter().filter(failed).count()), "some jobs fail, the lane goes on");
    }

    #[test]
    fn steps_cost_what_the_profile_says_and_events_come_when_they_end() {
        let mut lane = lane(None, Faults::default());
        lane.command(&load(1, 3), Nanos::from_ms(10));
        lane.advance(Nanos::from_us(12_999));
        assert!(!std::iter::from_fn(|| lane.event()).any(|event| matches!(event, LaneEvent::Done { .. })));
        lane.advance(Nanos::from_ms(13));
        let Some(LaneEvent::Done { steps, busy, at, .. }) = lane.event() else { panic!("done by now") };
        assert_eq!((steps, busy, at), (3, Nanos::from_ms(3), Nanos::from_ms(13)));
    }
}

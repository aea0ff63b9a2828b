//! The last gate before the body moves: hazards, the latched halt, and the check of each action. Frame features, the
//! world and spoken stops flow in; halts, action lines and heartbeats flow out. Pure. What a network says can only make
//! it stricter. It is no certified safety function.

use super::motion::{Motion, motion};
use crate::attend::world::World;
use crate::block::reason::prompt::Direction;
use crate::config::{GateConfig, span_ms, span_s};
use crate::types::{
    Act, ActionId, ActionLine, BasedOn, CameraFeatures, Decision, MAX_SOURCES, Name, Nanos, Outputs, Thing, Why,
};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// A near thing is over only when this much farther than what made it one.
const LEAVE: f32 = 1.2;
/// Motion towards something nearer than this many halting distances is refused.
const KEEP_OFF: f32 = 1.5;
/// A looming region without a newer frame is over after this.
const LOOMING_STANDS: Nanos = Nanos::from_ms(2_000);
/// Bearings this far outside a direction still count as in it, so that a target on the border is not lost.
const BORDER_MRAD: i16 = 120;

/// A halt that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Latched {
    id: ActionId,
    why: Why,
    /// Capture of what caused it.
    cause: Nanos,
    /// Somebody said it: only an order or a hand releases it.
    said: Option<Nanos>,
    /// Since when no hazard is there; `None` while there is one.
    clear_since: Option<Nanos>,
    repeated: Nanos,
}

/// A hazard that is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hazard {
    /// What kind.
    pub why: Why,
    /// Capture of what shows it.
    pub cause: Nanos,
}

/// An order and what shows that it still stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// When the order was spoken (its last voiced sample).
    pub spoken: Nanos,
    /// The microphone, and up to when it was listened to without anybody countermanding the order.
    pub stands: BasedOn,
}

/// The gate's whole state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    latched: Option<Latched>,
    /// First and newest frame of a thing that grows, per camera.
    looming: [Option<(Nanos, Nanos)>; MAX_SOURCES],
    range: Option<Nanos>,
    bumper: Option<Nanos>,
    estop: Option<Nanos>,
    near: Option<Nanos>,
    /// A hand released the halt although these still stand; they halt again once they have been over.
    excused: bool,
    present: Option<Why>,
    ids: u32,
    moving: Option<ActionId>,
    beat: Option<Nanos>,
}

impl Gate {
    /// Halt is latched.
    pub fn halted(&self) -> bool {
        self.latched.is_some()
    }

    /// The hazard that stood at the last [`Gate::watch`].
    pub fn present(&self) -> Option<Why> {
        self.present
    }

    /// Takes one frame's features: the newest frame of a camera says whether something looms there.
    pub fn see(&mut self, features: &CameraFeatures, config: &GateConfig) {
        let looms = features.looming.growth_permille_per_s >= config.looming_permille_per_s
            && features.looming.cells >= config.looming_cells;
        if let Some(slot) = self.looming.get_mut(usize::from(features.source.0)) {
            let first = slot.map_or(features.captured, |(first, _)| first);
            *slot = looms.then_some((first, features.captured));
        }
    }

    /// The hazard that is there now, the gravest first. Unknown values change nothing.
    fn hazard(&mut self, world: &World, now: Nanos, config: &GateConfig) -> Option<Hazard> {
        if let Some(status) = world.status() {
            let at = status.captured;
            let latch = |slot: &mut Option<Nanos>, value: Option<bool>| match value {
                Some(true) => *slot = Some(slot.unwrap_or(at)),
                Some(false) => *slot = None,
                None => {}
            };
            latch(&mut self.estop, status.estop);
            latch(&mut self.bumper, status.bumper);
            let near = self.range.is_some();
            latch(&mut self.range, status.range_mm.map(|mm| mm < halting_mm(config, near)));
        }
        let eye = world.blocked(Direction::Ahead, now, span_ms(config.action_age_ms));
        let near = eye.is_some_and(|mm| mm < halting_mm(config, self.near.is_some()));
        let frame = world.newest(now, Nanos::NEVER).map_or(now, |based| based.captured);
        self.near = near.then_some(self.near.unwrap_or(frame));
        for slot in &mut self.looming {
            *slot = slot.filter(|(_, newest)| now.since(*newest) < LOOMING_STANDS);
        }
        let soft = self.range.or(self.near).map(|cause| Hazard { why: Why::TooNear, cause });
        let looming = self.looming.iter().flatten().map(|(first, _)| *first).max();
        let looming = looming.map(|cause| Hazard { why: Why::Looming, cause });
        let hard = self.estop.map(|cause| Hazard { why: Why::EmergencyStop, cause });
        let hard = hard.or(self.bumper.map(|cause| Hazard { why: Why::TooNear, cause }));
        let soft = soft.or(looming);
        self.excused &= soft.is_some();
        hard.or(soft.filter(|_| !self.excused))
    }

    /// Looks for hazards; call after new features, status or detections. Returns the hazard that is there, and whether it
    /// latched a halt just now.
    pub fn watch(
        &mut self,
        world: &World,
        now: Nanos,
        config: &GateConfig,
        out: &mut Outputs,
    ) -> (Option<Hazard>, bool) {
        let hazard = self.hazard(world, now, config);
        self.present = hazard.map(|hazard| hazard.why);
        let mut latched_now = false;
        match (hazard, &mut self.latched) {
            (Some(hazard), Some(latched)) => {
                if latched.clear_since.is_some() {
                    (latched.why, latched.cause, latched.clear_since) = (hazard.why, hazard.cause, None);
                    latched_now = true;
                    out.decide(Decision::Halt { on: true, why: hazard.why, cause: hazard.cause });
                }
            }
            (Some(hazard), None) => {
                self.latch(hazard.why, hazard.cause, None, now, out);
                latched_now = true;
            }
            (None, Some(latched)) => {
                let since = *latched.clear_since.get_or_insert(now);
                let wait = span_s(config.halt_release_s);
                if latched.said.is_none() && wait > Nanos::ZERO && now.since(since) >= wait {
                    self.release(Why::Over, now, out);
                }
            }
            (None, None) => {}
        }
        (hazard, latched_now)
    }

    /// Somebody said "stop"; `ended` is the end of the word.
    pub fn said_stop(&mut self, ended: Nanos, now: Nanos, out: &mut Outputs) {
        match &mut self.latched {
            Some(latched) => {
                latched.said = Some(ended);
                latched.repeated = now;
                let act = Act::Halt { id: latched.id, on: true, issued: now, cause: ended };
                out.act(act);
                out.decide(Decision::Halt { on: true, why: Why::SaidStop, cause: ended });
            }
            None => self.latch(Why::SaidStop, ended, Some(ended), now, out),
        }
    }

    /// Somebody released the halt by hand. An emergency stop or a pressed bumper stands until it is over; any other
    /// hazard is excused until it has been over once.
    pub fn release_by_hand(&mut self, now: Nanos, out: &mut Outputs) {
        if self.latched.is_none() {
            return;
        }
        if self.estop.or(self.bumper).is_some() {
            let why = if self.estop.is_some() { Why::EmergencyStop } else { Why::TooNear };
            return out.decide(Decision::Refuse { name: name("release"), why });
        }
        self.excused = self.range.is_some() || self.near.is_some() || self.looming.iter().flatten().next().is_some();
        self.release(Why::Over, now, out);
    }

    fn latch(&mut self, why: Why, cause: Nanos, said: Option<Nanos>, now: Nanos, out: &mut Outputs) {
        let id = self.next_id();
        let clear_since = said.map(|_| now);
        self.latched = Some(Latched { id, why, cause, said, clear_since, repeated: now });
        self.moving = None;
        out.decide(Decision::Halt { on: true, why, cause });
        out.act(Act::Halt { id, on: true, issued: now, cause });
    }

    fn release(&mut self, why: Why, now: Nanos, out: &mut Outputs) {
        let Some(latched) = self.latched.take() else { return };
        out.decide(Decision::Halt { on: false, why, cause: latched.cause });
        out.act(Act::Halt { id: latched.id, on: false, issued: now, cause: latched.cause });
    }

    fn next_id(&mut self) -> ActionId {
        self.ids += 1;
        ActionId(self.ids)
    }

    /// Repeats a latched halt and sends the heartbeat.
    pub fn beat(&mut self, now: Nanos, config: &GateConfig, out: &mut Outputs) {
        let every = span_ms(config.heartbeat_ms);
        if let Some(latched) = self.latched.as_mut().filter(|latched| now.since(latched.repeated) >= every) {
            latched.repeated = now;
            out.act(Act::Halt { id: latched.id, on: true, issued: now, cause: latched.cause });
        }
        if self.beat.is_none_or(|last| now.since(last) >= every) {
            self.beat = Some(now);
            out.act(Act::Heartbeat { at: now });
        }
    }

    /// Checks an action and sends it, or refuses it with the reason. A motion order given after a spoken stop, and allowed
    /// otherwise, releases that stop.
    ///
    /// # Errors
    /// Why it was refused; also decided in `out`.
    pub fn propose(
        &mut self,
        line: &ActionLine,
        order: &Order,
        world: &World,
        now: Nanos,
        config: &GateConfig,
        out: &mut Outputs,
    ) -> Result<ActionId, Why> {
        let checked = motion(line).ok_or(Why::Unknown).and_then(|motion| {
            let based_on = self.check(motion, order, world, now, config)?;
            Ok((motion, based_on))
        });
        let (motion, based_on) = match checked {
            Ok(checked) => checked,
            Err(why) => {
                out.decide(Decision::Refuse { name: line.name, why });
                return Err(why);
            }
        };
        // A body that cannot be told must not be thought to move.
        if out.acts.remaining_capacity() < 2 {
            out.overflow = out.overflow.saturating_add(1);
            return Err(Why::QueueFull);
        }
        if motion != Motion::Stand {
            self.release(Why::Spoken, now, out);
        }
        let id = self.next_id();
        let age = based_on.iter().map(|based| now.since(based.captured)).max().unwrap_or_default();
        out.decide(Decision::Act { id, name: line.name, age, why: Why::Spoken });
        let valid_until = now.after(span_ms(config.action_valid_ms));
        let supersedes = self.moving.take();
        out.act(Act::Do { id, action: *line, issued: now, valid_until, based_on, supersedes });
        if motion != Motion::Stand {
            self.moving = Some(id);
        }
        Ok(id)
    }

    fn check(
        &self,
        motion: Motion,
        order: &Order,
        world: &World,
        now: Nanos,
        config: &GateConfig,
    ) -> Result<ArrayVec<BasedOn, 4>, Why> {
        let most = span_ms(config.action_age_ms);
        let mut based_on = ArrayVec::new();
        based_on.push(order.stands);
        if let Some(latched) = self.latched.filter(|_| motion != Motion::Stand) {
            let over = latched.clear_since.is_some();
            if !over {
                return Err(latched.why);
            }
            if latched.said.is_none_or(|said| order.spoken <= said) {
                return Err(Why::Halted);
            }
        }
        let way = match motion {
            Motion::Stand | Motion::Back | Motion::Turn => None,
            Motion::Towards(way) => Some(way),
            Motion::To(thing, way) => {
                let (target, frame) = self.target(thing, way, world, now, most)?;
                based_on.push(frame);
                Some(way.unwrap_or(target))
            }
        };
        if let Some(way) = way {
            let range = (way == Direction::Ahead).then(|| world.status().and_then(|status| status.range_mm)).flatten();
            let keep_off = (config.halt_range_mm as f32 * KEEP_OFF) as u32;
            if world.blocked(way, now, most).into_iter().chain(range).any(|mm| mm < keep_off) {
                return Err(Why::TooNear);
            }
            // Going somewhere needs some knowledge of what is there.
            match (world.newest(now, most), range) {
                (Some(frame), _) if based_on.len() == 1 => based_on.push(frame),
                (None, None) => return Err(Why::Missing),
                _ => {}
            }
        }
        if based_on.iter().any(|based| now.since(based.captured) > most) {
            return Err(Why::Late);
        }
        Ok(based_on)
    }

    /// The target must still be seen where the action says; else the action rests on what is over.
    fn target(
        &self,
        thing: Thing,
        way: Option<Direction>,
        world: &World,
        now: Nanos,
        most: Nanos,
    ) -> Result<(Direction, BasedOn), Why> {
        let (nearest, frame) = world.nearest(thing, now, most).ok_or(Why::Missing)?;
        let in_way = |way: Direction| {
            world.seen(now, most).filter(|found| found.thing == thing).any(|found| {
                let bearing = found.bearing_mrad;
                [-BORDER_MRAD, 0, BORDER_MRAD]
                    .iter()
                    .any(|off| Direction::of_bearing(bearing.saturating_add(*off)) == way)
            })
        };
        match way {
            Some(way) if !in_way(way) => Err(Why::Late),
            _ => Ok((Direction::of_bearing(nearest.bearing_mrad), frame)),
        }
    }
}

/// Distance that is a hazard; larger while it already is one.
fn halting_mm(config: &GateConfig, already: bool) -> u32 {
    if already { (config.halt_range_mm as f32 * LEAVE) as u32 } else { config.halt_range_mm }
}

/// A short name; cut to what fits.
fn name(text: &str) -> Name {
    let mut name = Name::new();
    text.chars().take_while(|c| name.try_push(*c).is_ok()).for_each(drop);
    name
}

#[cfg(test)]
mod tests;

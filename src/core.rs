//! One tick: attend, then dispatch, then the gate on actions, in one pure step. `Inputs` flow in, `Outputs` flow out.
//! Nothing here reads a clock, waits or allocates after construction. The whole state can be written as a keyframe and
//! read back; each tick extends a BLAKE3 chain over what went in, what came out and the state's numbers.

use crate::act::gate::Gate;
use crate::attend::attention::Attention;
use crate::attend::budget::Budget;
use crate::attend::dialogue::{Dialogue, Ended, Moment};
use crate::attend::metabolism::{Metabolism, Situation};
use crate::attend::periodic::{Periodic, Round};
use crate::attend::trust::Came;
use crate::attend::world::World;
use crate::config::CoreConfig;
use crate::dispatch::schedule::job_of;
use crate::dispatch::{Admission, Schedule, Verdict, Want};
use crate::robot::TickCore;
use crate::types::{
    Capability, Decision, Inputs, JobId, LaneEvent, MAX_SOURCES, Metabolic, Nanos, Outcome, Output, Outputs, SourceId,
    Vitals, Why,
};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Version of the keyframe's layout.
const KEYFRAME: u32 = 1;
/// Jobs whose source is remembered until they are over.
const BOOKED: usize = 96;
/// Room for the bytes of the largest single record of a tick.
const SCRATCH: usize = 4096;
/// A spoken answer is worth this much; one that was broken off counts against.
const REWARD: f32 = 0.8;
const FAILURE: f32 = -0.3;

/// A keyframe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyframeError {
    /// The bytes are no keyframe.
    #[error("the keyframe cannot be read: {0}; start from another one")]
    Unreadable(String),
    /// It was written with other sources or by another version.
    #[error("the keyframe does not fit: {0}")]
    Foreign(String),
}

/// Which source and capability a job serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Booking {
    job: JobId,
    capability: Capability,
    source: SourceId,
}

/// All that must survive from tick to tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    version: u32,
    chain: [u8; 32],
    attention: Attention,
    budget: Budget,
    metabolism: Metabolism,
    world: World,
    dialogue: Dialogue,
    periodic: Periodic,
    gate: Gate,
    schedule: Schedule,
    booked: ArrayVec<Booking, BOOKED>,
}

/// The pure core.
pub struct Core {
    config: CoreConfig,
    state: Box<State>,
    scratch: Box<[u8; SCRATCH]>,
}

/// The schedule, with a note of whom each job serves.
struct Desk<'a> {
    schedule: &'a mut Schedule,
    booked: &'a mut ArrayVec<Booking, BOOKED>,
    now: Nanos,
}

impl Admission for Desk<'_> {
    fn want(&mut self, want: &Want, out: &mut Outputs) -> Option<JobId> {
        let job = self.schedule.want(want, self.now, out)?;
        if self.booked.is_full() {
            self.booked.remove(0);
        }
        self.booked.push(Booking { job, capability: want.capability, source: want.source });
        Some(job)
    }

    fn cancel(&mut self, job: JobId, why: Why, out: &mut Outputs) {
        self.schedule.cancel(job, why, out);
    }

    fn credit(&mut self, job: JobId, words: u16, out: &mut Outputs) -> bool {
        self.schedule.credit(job, words, out)
    }

    fn shed(&mut self, want: &Want, why: Why, out: &mut Outputs) {
        self.schedule.shed(want, why, out);
    }
}

/// Calls a method of the dialogue with all it may use.
macro_rules! dialogue {
    ($core:expr, $now:expr, $out:expr, $method:ident($($argument:expr),*)) => {{
        let state = &mut *$core.state;
        let mut desk = Desk { schedule: &mut state.schedule, booked: &mut state.booked, now: $now };
        let mut moment = Moment {
            now: $now,
            config: &$core.config,
            world: &state.world,
            budget: &state.budget,
            gate: &mut state.gate,
            desk: &mut desk,
            out: $out,
        };
        state.dialogue.$method($($argument,)* &mut moment)
    }};
}

impl Core {
    /// A core at its beginning. Allocates here and never again.
    pub fn new(config: CoreConfig) -> Core {
        let sources = config.sources.len().min(MAX_SOURCES);
        let chain = *blake3::hash(config.hash().as_bytes()).as_bytes();
        let state = Box::new(State {
            version: KEYFRAME,
            chain,
            attention: Attention::new(&config),
            budget: Budget::new(&config.budget),
            metabolism: Metabolism::default(),
            world: World::default(),
            dialogue: Dialogue::new(sources),
            periodic: Periodic::default(),
            gate: Gate::default(),
            schedule: Schedule::new(&config.schedule),
            booked: ArrayVec::new(),
        });
        Core { config, state, scratch: Box::new([0; SCRATCH]) }
    }

    /// The configuration it decides by.
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// The schedule, for its counts.
    pub fn schedule(&self) -> &Schedule {
        &self.state.schedule
    }

    /// One tick. Clears `out`, then fills it; the same inputs in the same state always give the same outputs.
    pub fn tick(&mut self, inputs: &Inputs, out: &mut Outputs) {
        let now = inputs.now;
        out.clear();
        self.perceive(inputs, out);
        self.watch(now, out);
        for event in &inputs.events {
            self.event(event, now, out);
        }
        self.watch(now, out);
        dialogue!(self, now, out, tick());
        self.learn(now);
        self.change_state(now, out);
        let state = &mut *self.state;
        let mut desk = Desk { schedule: &mut state.schedule, booked: &mut state.booked, now };
        state.periodic.tick(&mut Round {
            now,
            state: state.metabolism.state(),
            config: &self.config,
            attention: &state.attention,
            budget: &state.budget,
            desk: &mut desk,
            out,
        });
        state.gate.beat(now, &self.config.gate, out);
        out.vitals = Vitals {
            state: state.metabolism.state(),
            atp_ms: state.budget.left_ms(),
            atp_max_ms: state.budget.tank_ms(),
            salience: state.attention.report(),
            halted: state.gate.halted(),
        };
        self.extend_chain(inputs, out);
    }

    /// What the sensors, the voice and people's hands say.
    fn perceive(&mut self, inputs: &Inputs, out: &mut Outputs) {
        let now = inputs.now;
        let state = &mut *self.state;
        state.budget.refill(now, state.metabolism.state());
        state.schedule.tick(now, out);
        if let Some(status) = &inputs.status {
            state.world.feels(status);
        }
        inputs.camera.iter().for_each(|features| state.gate.see(features, &self.config.gate));
        inputs.audio.iter().for_each(|features| state.dialogue.hears(features));
        state.attention.observe(inputs, &self.config, out);
        state.periodic.arrived(inputs, &self.config);
        if let Some(report) = &inputs.voice {
            state.dialogue.voice(report, now);
        }
        if inputs.release_halt {
            state.gate.release_by_hand(now, out);
        }
    }

    /// Hazards halt the body, and a new one breaks off the answer.
    fn watch(&mut self, now: Nanos, out: &mut Outputs) {
        let state = &mut *self.state;
        let (hazard, latched) = state.gate.watch(&state.world, now, &self.config.gate, out);
        if let (Some(hazard), true) = (hazard, latched) {
            dialogue!(self, now, out, interrupt(hazard.why));
        }
    }

    fn event(&mut self, event: &LaneEvent, now: Nanos, out: &mut Outputs) {
        let verdict = self.state.schedule.observe(event, now, out);
        match event {
            LaneEvent::Started { .. } | LaneEvent::Waiting { .. } => {}
            // A word that comes late still counts: "stop" is never too late. One of a withdrawn job is no word.
            LaneEvent::Word { source, word, .. } if verdict != Verdict::Ignore => {
                dialogue!(self, now, out, word(*source, word));
            }
            LaneEvent::Utterance { source, words, to, .. } if verdict != Verdict::Ignore => {
                dialogue!(self, now, out, utterance(*source, words, *to));
            }
            LaneEvent::Word { .. } | LaneEvent::Utterance { .. } => {}
            LaneEvent::Piece { job, piece } => dialogue!(self, now, out, piece(*job, piece, verdict)),
            LaneEvent::Done { job, outcome, output, busy, .. } => {
                self.done(job_of(event), outcome, output, *busy, verdict, now);
                dialogue!(self, now, out, done(*job, outcome));
            }
        }
    }

    /// Pays for a job that is over and takes what it found.
    fn done(&mut self, job: JobId, outcome: &Outcome, output: &Output, busy: Nanos, verdict: Verdict, now: Nanos) {
        let state = &mut *self.state;
        let Some(at) = state.booked.iter().position(|booking| booking.job == job) else { return };
        let Booking { capability, source, .. } = state.booked.remove(at);
        if busy > Nanos::ZERO {
            state.budget.pay(capability, busy);
        }
        let came = match (verdict, outcome) {
            (Verdict::Use, _) => Some(Came::Used),
            (Verdict::Late, _) => Some(Came::Late),
            (Verdict::Ignore, Outcome::Failed(_)) => Some(Came::Contradicted),
            (Verdict::Ignore, Outcome::Completed) => Some(Came::Discarded),
            // Cancelled, superseded, expired: nobody's fault but the schedule's.
            (Verdict::Ignore, _) => None,
        };
        if let Some(came) = came {
            let tau = self.config.attention.trust_s;
            state.attention.trust_mut().came(capability, source, came, now, tau);
        }
        match output {
            Output::Heard { upto } if *outcome == Outcome::Completed => state.dialogue.heard_upto(*upto),
            Output::Seen { seq, captured, detections } if verdict == Verdict::Use => {
                state.world.saw(source, *seq, *captured, detections);
            }
            _ => {}
        }
        if capability == Capability::Consolidate && verdict == Verdict::Use {
            state.attention.consolidate_step();
        }
    }

    /// How a turn ended is remembered with what the microphone shows; an action that the sensors contradicted costs
    /// the mind trust.
    fn learn(&mut self, now: Nanos) {
        let state = &mut *self.state;
        if let Some(source) = state.dialogue.take_contradicted() {
            let tau = self.config.attention.trust_s;
            state.attention.trust_mut().came(Capability::Reason, source, Came::Contradicted, now, tau);
        }
        let (source, value) = match state.dialogue.take_ended() {
            Some(Ended::Spoken(source)) => (source, REWARD),
            Some(Ended::Broken(source)) => (source, FAILURE),
            None => return,
        };
        state.attention.outcome(source, value, now);
    }

    fn change_state(&mut self, now: Nanos, out: &mut Outputs) {
        let state = &mut *self.state;
        let situation = Situation {
            salience: state.attention.strongest(),
            dialogue: state.dialogue.active(now),
            hazard: state.gate.present(),
            energy: state.budget.energy(),
            threshold: self.config.attention.threshold,
        };
        if let Some((from, to, why)) = state.metabolism.tick(now, &situation, &self.config.metabolism) {
            out.decide(Decision::State { from, to, why });
            if to == Metabolic::Dream {
                state.attention.dream();
            }
        }
    }

    /// Extends the chain by all that went in and came out, record by record, and by the numbers of the state. A change of
    /// any input or output, however small, changes the hash of its own tick and of all later ones.
    fn extend_chain(&mut self, inputs: &Inputs, out: &mut Outputs) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.state.chain);
        let scratch = &mut self.scratch[..];
        let mut add = |record: &dyn Record| {
            hasher.update(record.bytes(scratch));
        };
        add(&(inputs.tick, inputs.now, inputs.skipped, inputs.release_halt));
        inputs.camera.iter().for_each(|record| add(record));
        inputs.audio.iter().for_each(|record| add(record));
        inputs.events.iter().for_each(|record| add(record));
        add(&(&inputs.status, &inputs.voice, &inputs.health));
        out.decisions.iter().for_each(|record| add(record));
        out.commands.iter().for_each(|record| add(record));
        out.acts.iter().for_each(|record| add(record));
        add(&out.vitals);
        add(&out.overflow);
        self.state.chain = *hasher.finalize().as_bytes();
        out.state_hash.copy_from_slice(&self.state.chain[..16]);
    }

    /// The whole state as bytes.
    pub fn keyframe(&self) -> Vec<u8> {
        postcard::to_allocvec(&*self.state).unwrap_or_default()
    }

    /// The whole state into a prepared buffer, without allocating: the part that was written, or `None` if the buffer is
    /// too small. [`Core::KEYFRAME_BYTES`] always suffices for eight sources.
    pub fn keyframe_into<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        postcard::to_slice(&*self.state, buffer).ok().map(|written| &*written)
    }

    /// Room that any keyframe fits in.
    pub const KEYFRAME_BYTES: usize = 256 * 1024;

    /// A core that goes on where the keyframe was taken.
    ///
    /// # Errors
    /// If the bytes are no keyframe, or one with other sources or of another version.
    pub fn from_keyframe(config: CoreConfig, bytes: &[u8]) -> Result<Core, KeyframeError> {
        let state: State = postcard::from_bytes(bytes).map_err(|error| KeyframeError::Unreadable(error.to_string()))?;
        if state.version != KEYFRAME {
            return Err(KeyframeError::Foreign(format!("its layout is version {}, not {KEYFRAME}", state.version)));
        }
        let fresh = Core::new(config);
        let kinds = |attention: &Attention| attention.sources().iter().map(|source| source.kind).collect::<Vec<_>>();
        if kinds(&state.attention) != kinds(&fresh.state.attention) {
            return Err(KeyframeError::Foreign("it was written with other sources".to_owned()));
        }
        Ok(Core { state: Box::new(state), ..fresh })
    }
}

impl TickCore for Core {
    fn tick(&mut self, inputs: &Inputs, outputs: &mut Outputs) {
        Core::tick(self, inputs, outputs);
    }
}

/// Anything with canonical bytes.
trait Record {
    /// Its bytes, in the scratch buffer.
    fn bytes<'a>(&self, scratch: &'a mut [u8]) -> &'a [u8];
}

impl<T: Serialize> Record for T {
    fn bytes<'a>(&self, scratch: &'a mut [u8]) -> &'a [u8] {
        // Every record is smaller than the scratch buffer (see the test); one that were not would count as empty.
        postcard::to_slice(self, scratch).map(|written| &*written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

//! Work that comes up by itself: hearing all sound, looking at frames at the state's rate, consolidating while
//! dreaming, and synthetic load. Which frames and blocks arrived flows in; wants flow out, or are shed for lack of budget.

use super::appraisal::{attends, threshold};
use super::attention::Attention;
use super::budget::{Budget, share};
use crate::config::{CoreConfig, span_ms};
use crate::dispatch::want::{Admission, Want};
use crate::types::{
    AUDIO_BLOCK, AUDIO_RATE_HZ, BasedOn, Capability, Class, Inputs, JobInput, MAX_SOURCES, Metabolic, Nanos, Outputs,
    SourceId, SourceKind, Why,
};
use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

/// Duration of one block of sound.
const BLOCK: Nanos = Nanos(AUDIO_BLOCK as u64 * 1_000_000_000 / AUDIO_RATE_HZ as u64);
/// Sound heard later than this is nothing to answer any more.
const SOUND_FRESH: Nanos = Nanos::from_ms(2_000);
/// A salient camera is looked at before its time, but no more often than this.
const EXTRA_LOOK: Nanos = Nanos::from_ms(100);
/// Synthetic load is offered this often, in steps of [`LOAD_STEP_US`].
const LOAD_EVERY: Nanos = Nanos::from_ms(100);
const LOAD_STEP_US: u32 = 5_000;

/// The newest payload of one source and what was asked of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stream {
    seq: u64,
    captured: Nanos,
    fresh: bool,
    due: Nanos,
    asked: Nanos,
    blocks: u16,
    looms: bool,
}

/// Clocks of all periodic work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Periodic {
    streams: [Stream; MAX_SOURCES],
    dream_due: Nanos,
    load_due: Nanos,
    load_left_ms: f32,
}

/// What periodic work may use in one tick.
pub struct Round<'a> {
    /// Tick time.
    pub now: Nanos,
    /// The state.
    pub state: Metabolic,
    /// The configuration.
    pub config: &'a CoreConfig,
    /// Salience and trust.
    pub attention: &'a Attention,
    /// What is left to spend.
    pub budget: &'a Budget,
    /// Where wants go.
    pub desk: &'a mut dyn Admission,
    /// Where all else goes.
    pub out: &'a mut Outputs,
}

impl Periodic {
    /// Takes note of what arrived.
    pub fn arrived(&mut self, inputs: &Inputs, config: &CoreConfig) {
        for features in &inputs.camera {
            if let Some(stream) = self.streams.get_mut(usize::from(features.source.0)) {
                (stream.seq, stream.captured, stream.fresh) = (features.seq, features.captured, true);
                stream.looms = features.looming.cells >= config.gate.looming_cells
                    && features.looming.growth_permille_per_s * 2 >= config.gate.looming_permille_per_s;
            }
        }
        for features in &inputs.audio {
            if let Some(stream) = self.streams.get_mut(usize::from(features.source.0)) {
                (stream.seq, stream.captured, stream.fresh) = (features.seq, features.captured, true);
                stream.blocks = stream.blocks.saturating_add(1);
            }
        }
    }

    /// Asks for what is due.
    pub fn tick(&mut self, round: &mut Round<'_>) {
        let config = round.config;
        for source in config.sources_of(SourceKind::Microphone) {
            self.hear(source, round);
        }
        let mut shares: ArrayVec<f32, MAX_SOURCES> = ArrayVec::new();
        for source in config.sources_of(SourceKind::Camera).take(MAX_SOURCES) {
            shares.push(round.attention.weight(source) * round.attention.trust().source(source));
        }
        share(&mut shares);
        let cameras = shares.len() as f32;
        for (source, share) in config.sources_of(SourceKind::Camera).zip(shares) {
            self.see(source, share * cameras, round);
        }
        self.dream(round);
        self.load(round);
    }

    /// All sound is heard, in portions, whatever the state: hearing "stop" is a reflex.
    fn hear(&mut self, source: SourceId, round: &mut Round<'_>) {
        let schedule = &round.config.schedule;
        let Some(stream) = self.streams.get_mut(usize::from(source.0)) else { return };
        let portion = span_ms(schedule.hear_every_ms).0.div_ceil(BLOCK.0).max(1);
        if !stream.fresh || u64::from(stream.blocks) < portion {
            return;
        }
        let ended = stream.captured.after(BLOCK);
        let spare = span_ms(schedule.hear_deadline_ms);
        // Sound that arrived late, as from a device with latency, still gets half the time from now on.
        let deadline = ended.after(spare).max(round.now.after(Nanos(spare.0 / 2)));
        let input = JobInput::Sound { upto_seq: stream.seq };
        let mut want = simple(Capability::Hear, source, Class::Reflex, input, deadline, Why::Periodic);
        want.fresh_until = round.now.max(ended).after(SOUND_FRESH);
        want.based_on.push(BasedOn { source, seq: stream.seq, captured: stream.captured });
        // If it is shed, the next portion covers this one too.
        let _ = round.desk.want(&want, round.out);
        (stream.fresh, stream.blocks) = (false, 0);
    }

    /// A frame is looked at when the state's rate, split by salience × trust, says so; before that when the camera is
    /// salient enough for the state; and at once when something grows in it.
    fn see(&mut self, source: SourceId, share: f32, round: &mut Round<'_>) {
        let schedule = &round.config.schedule;
        let Some(stream) = self.streams.get_mut(usize::from(source.0)) else { return };
        if !stream.fresh {
            return;
        }
        let hz = match round.state {
            Metabolic::Wake | Metabolic::Focus => schedule.see_hz,
            Metabolic::Crisis => schedule.see_crisis_hz,
            Metabolic::Rest | Metabolic::Dream => schedule.see_rest_hz,
        };
        let interval = if hz > 0.0 { Nanos((1e9 / (hz * share.max(0.01))) as u64) } else { Nanos::ZERO };
        let energy = round.budget.energy();
        let bar = threshold(round.state, energy, f32::from(u8::from(stream.looms)));
        let cost = round.budget.expected_ms(Capability::See);
        let salient = attends(round.attention.weight(source), bar, cost, round.budget.left_ms());
        let rested = round.now.since(stream.asked) >= EXTRA_LOOK;
        let why = if stream.looms {
            Why::Looming
        } else if round.now >= stream.due {
            Why::Periodic
        } else if salient && rested {
            Why::Salient
        } else {
            return;
        };
        let class = if stream.looms || round.state == Metabolic::Crisis { Class::Reflex } else { Class::Awareness };
        let deadline = stream.captured.after(span_ms(schedule.see_deadline_ms));
        let mut want = simple(Capability::See, source, class, JobInput::Frame { seq: stream.seq }, deadline, why);
        want.fresh_until = stream.captured.after(span_ms(round.config.gate.action_age_ms));
        want.based_on.push(BasedOn { source, seq: stream.seq, captured: stream.captured });
        stream.fresh = false;
        stream.asked = round.now;
        // The next is due one interval after this one was, so that the mean rate holds; a long gap is not made up for.
        stream.due = stream.due.after(interval).max(round.now.after(Nanos(interval.0 / 2)));
        offer(&want, round);
    }

    fn dream(&mut self, round: &mut Round<'_>) {
        let hz = round.config.schedule.dream_hz;
        let due = round.state == Metabolic::Dream && hz > 0.0 && round.now >= self.dream_due;
        if !due || !round.attention.consolidates() {
            return;
        }
        let interval = Nanos((1e9 / hz) as u64);
        self.dream_due = round.now.after(interval);
        let deadline = round.now.after(Nanos::from_s(2));
        let source = last_source(round.config);
        let why = Why::LongQuiet;
        offer(&simple(Capability::Consolidate, source, Class::Background, JobInput::None, deadline, why), round);
    }

    fn load(&mut self, round: &mut Round<'_>) {
        let offered = round.config.schedule.load_ms_per_s;
        if offered <= 0.0 || round.now < self.load_due {
            return;
        }
        self.load_due = self.load_due.after(LOAD_EVERY).max(round.now);
        self.load_left_ms += offered * LOAD_EVERY.as_s() as f32;
        let steps = (self.load_left_ms * 1_000.0 / LOAD_STEP_US as f32) as u32;
        if steps == 0 {
            return;
        }
        self.load_left_ms -= steps as f32 * LOAD_STEP_US as f32 / 1_000.0;
        let input = JobInput::Steps { steps, step_us: LOAD_STEP_US };
        let deadline = round.now.after(Nanos::from_s(1));
        let source = last_source(round.config);
        offer(&simple(Capability::Load, source, Class::Background, input, deadline, Why::Periodic), round);
    }
}

/// Asks for work, unless the state or the budget says no; then it is counted as shed.
fn offer(want: &Want, round: &mut Round<'_>) {
    if round.state == Metabolic::Crisis && want.class == Class::Background {
        round.desk.shed(want, Why::StateForbids, round.out);
    } else if round.budget.allows(want.class, want.capability) {
        // What is shed is decided in the outputs; the next frame makes the next want.
        let _ = round.desk.want(want, round.out);
    } else {
        round.desk.shed(want, Why::OverBudget, round.out);
    }
}

/// Work that belongs to no sensor goes by the robot's own source, the last one.
fn last_source(config: &CoreConfig) -> SourceId {
    SourceId(config.sources.len().clamp(1, MAX_SOURCES) as u8 - 1)
}

fn simple(capability: Capability, source: SourceId, class: Class, input: JobInput, deadline: Nanos, why: Why) -> Want {
    Want {
        capability,
        source,
        class,
        input,
        deadline,
        fresh_until: deadline,
        credit_words: 0,
        based_on: ArrayVec::new(),
        why,
    }
}

//! Counts what a run does, tick by tick: reactions, deadlines, states, and what was heard, seen, said and done. Inputs and
//! outputs of ticks flow in (live, replayed or simulated alike); a `Report` flows out.

use super::report::{ClassCounts, Entry, EntryList, Reactions, Report, Sorted};
use super::{Histogram, Quantiles};
use crate::config::CoreConfig;
use crate::types::{
    Act, Class, Command, Decision, Inputs, JobId, LaneEvent, Metabolic, Nanos, Outcome, Output, Outputs, SourceId,
    UtteranceId, Why,
};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A job that was sent and has not ended.
struct OpenJob {
    class: Class,
    deadline: Nanos,
    answered_at: Option<Nanos>,
}

/// When a tick ran and how long it worked; absent in replay.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Wake-up minus k·T.
    pub lateness: Nanos,
    /// From wake-up to the last command sent.
    pub work: Nanos,
}

/// Accumulates one run.
pub struct Tally {
    config: CoreConfig,
    first: Option<Nanos>,
    last: Nanos,
    ticks: u64,
    missed: u64,
    lateness: Histogram,
    work: Histogram,
    stop: Histogram,
    hazard: Histogram,
    reply: Histogram,
    idle: Histogram,
    open: BTreeMap<JobId, OpenJob>,
    classes: BTreeMap<Class, ClassCounts>,
    preemptions: u64,
    superseded: u64,
    expired: u64,
    late_results: u64,
    states: BTreeMap<Metabolic, f64>,
    heard: EntryList,
    seen: EntryList,
    said: EntryList,
    actions: EntryList,
    last_seen: String,
    answer: (UtteranceId, String, Nanos),
    utterance_ended: Option<Nanos>,
}

impl Tally {
    /// Starts counting a run with this configuration.
    pub fn new(config: CoreConfig) -> Tally {
        Tally {
            config,
            first: None,
            last: Nanos::ZERO,
            ticks: 0,
            missed: 0,
            lateness: Histogram::default(),
            work: Histogram::default(),
            stop: Histogram::default(),
            hazard: Histogram::default(),
            reply: Histogram::default(),
            idle: Histogram::default(),
            open: BTreeMap::new(),
            classes: BTreeMap::new(),
            preemptions: 0,
            superseded: 0,
            expired: 0,
            late_results: 0,
            states: BTreeMap::new(),
            heard: EntryList::default(),
            seen: EntryList::default(),
            said: EntryList::default(),
            actions: EntryList::default(),
            last_seen: String::new(),
            answer: (UtteranceId::default(), String::new(), Nanos::ZERO),
            utterance_ended: None,
        }
    }

    /// Counts one tick.
    pub fn tick(&mut self, inputs: &Inputs, outputs: &Outputs, timing: Option<Timing>) {
        let start = *self.first.get_or_insert(inputs.now);
        let t_s = inputs.now.since(start).as_s();
        self.last = inputs.now;
        self.ticks += 1;
        self.missed += u64::from(inputs.skipped);
        // A decision is out when the tick's work is done; in replay that instant is the tick itself.
        let mut out_at = inputs.now;
        if let Some(timing) = timing {
            self.lateness.add(timing.lateness);
            self.work.add(timing.work);
            out_at += timing.lateness + timing.work;
        }
        let seconds = self.config.period().as_s() * f64::from(1 + inputs.skipped);
        *self.states.entry(outputs.vitals.state).or_default() += seconds;
        for command in &outputs.commands {
            if let Command::Submit(job) = command {
                self.open.insert(job.id, OpenJob { class: job.class, deadline: job.deadline, answered_at: None });
            }
        }
        for event in &inputs.events {
            self.event(event, inputs.now, t_s);
        }
        for decision in &outputs.decisions {
            self.decision(decision, out_at, t_s);
        }
        for act in &outputs.acts {
            self.act(act, out_at, t_s);
        }
    }

    fn event(&mut self, event: &LaneEvent, now: Nanos, t_s: f64) {
        match event {
            LaneEvent::Utterance { words, to, .. } => {
                let mut text = String::new();
                for word in words {
                    let _ = write!(text, "{}{}", if text.is_empty() { "" } else { " " }, word.word);
                }
                self.heard.push(Entry { t_s, age_ms: now.since(*to).as_ms(), text });
                self.utterance_ended = Some(*to);
            }
            LaneEvent::Piece { job, .. } => {
                if let Some(open) = self.open.get_mut(job) {
                    open.answered_at.get_or_insert(now);
                }
            }
            LaneEvent::Done { job, outcome, output, preempted, at, .. } => {
                self.preemptions += u64::from(*preempted);
                self.done(*job, outcome, *at);
                if let Output::Seen { captured, detections, .. } = output {
                    let mut names = String::new();
                    for detection in detections {
                        let thing = format!("{:?}", detection.thing).to_lowercase();
                        let hand = if detection.raising { " raising a hand" } else { "" };
                        let metres = f64::from(detection.distance_mm) / 1e3;
                        let _ =
                            write!(names, "{}{thing}{hand} {metres:.1} m", if names.is_empty() { "" } else { ", " });
                    }
                    let kinds: String = names.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
                    if kinds != self.last_seen {
                        self.last_seen = kinds;
                        let text = if names.is_empty() { "nothing".to_owned() } else { names };
                        self.seen.push(Entry { t_s, age_ms: now.since(*captured).as_ms(), text });
                    }
                }
            }
            _ => {}
        }
    }

    fn done(&mut self, job: JobId, outcome: &Outcome, at: Nanos) {
        let Some(open) = self.open.remove(&job) else { return };
        let counts = self.classes.entry(open.class).or_default();
        match outcome {
            // An answer is in time when its first piece is; everything else when it is complete.
            Outcome::Completed if open.answered_at.unwrap_or(at) <= open.deadline => counts.kept += 1,
            Outcome::Completed | Outcome::Failed(_) | Outcome::Refused => counts.missed += 1,
            Outcome::Expired => {
                counts.missed += 1;
                self.expired += 1;
            }
            Outcome::Superseded => self.superseded += 1,
            Outcome::Cancelled { idle_after } => {
                self.idle.add(*idle_after);
                match open.answered_at {
                    Some(first) if first <= open.deadline => counts.kept += 1,
                    Some(_) => counts.missed += 1,
                    None => self.superseded += 1,
                }
            }
        }
    }

    fn decision(&mut self, decision: &Decision, out_at: Nanos, t_s: f64) {
        match decision {
            Decision::Shed { class, .. } => self.classes.entry(*class).or_default().shed += 1,
            Decision::Discard { why: Why::Late, .. } => self.late_results += 1,
            Decision::Halt { on, why, cause } => {
                let age = out_at.since(*cause);
                match (on, why) {
                    (true, Why::SaidStop) => self.stop.add(age),
                    (true, _) => self.hazard.add(age),
                    (false, _) => {}
                }
                let text = format!("halt {}: {why:?}", if *on { "latched" } else { "released" });
                self.actions.push(Entry { t_s, age_ms: age.as_ms(), text });
            }
            Decision::Refuse { name, why } => {
                self.actions.push(Entry { t_s, age_ms: 0, text: format!("{name} refused: {why:?}") });
            }
            _ => {}
        }
    }

    fn act(&mut self, act: &Act, out_at: Nanos, t_s: f64) {
        match act {
            Act::Say { utterance, word, .. } => {
                if self.answer.0 != *utterance {
                    self.flush_answer();
                    self.answer = (*utterance, String::new(), out_at);
                    if let Some(ended) = self.utterance_ended.take() {
                        self.reply.add(out_at.since(ended));
                    }
                }
                let space = if self.answer.1.is_empty() { "" } else { " " };
                let _ = write!(self.answer.1, "{space}{word}");
            }
            Act::EndOfAnswer { .. } => self.flush_answer(),
            Act::Silence => {
                if !self.answer.1.is_empty() {
                    self.answer.1.push_str(" —");
                }
                self.flush_answer();
            }
            Act::Do { action, based_on, issued, .. } => {
                let age = based_on.iter().map(|input| issued.since(input.captured)).max().unwrap_or_default();
                let text = [action.name.as_str(), action.target.as_str(), action.direction.as_str()].join(" ");
                self.actions.push(Entry { t_s, age_ms: age.as_ms(), text: text.trim_end().replace("  ", " ") });
            }
            // Halts are listed where they are decided; here they are repeated.
            Act::Halt { .. } | Act::Heartbeat { .. } => {}
        }
    }

    fn flush_answer(&mut self) {
        let text = std::mem::take(&mut self.answer.1);
        if !text.is_empty() {
            let t_s = self.answer.2.since(self.first.unwrap_or_default()).as_s();
            self.said.push(Entry { t_s, age_ms: 0, text });
        }
    }

    /// Lateness and work histograms, for the picture.
    pub fn timing(&self) -> (&Histogram, &Histogram) {
        (&self.lateness, &self.work)
    }

    /// The report so far; `digest` is the digest over all decisions.
    pub fn report(&mut self, digest: String) -> Report {
        self.flush_answer();
        let ms = |histogram: &Histogram| histogram.quantiles(1e6);
        let us = |histogram: &Histogram| -> Quantiles { histogram.quantiles(1e3) };
        let mut deadlines = Sorted::new();
        for class in [Class::Reflex, Class::Dialogue, Class::Awareness, Class::Background] {
            deadlines
                .insert(format!("{class:?}").to_lowercase(), self.classes.get(&class).copied().unwrap_or_default());
        }
        Report {
            rate_hz: self.config.rate_hz,
            seconds: self.last.since(self.first.unwrap_or_default()).as_s(),
            ticks: self.ticks,
            ticks_missed: self.missed,
            lateness_us: us(&self.lateness),
            tick_work_us: us(&self.work),
            reaction_ms: Reactions { stop: ms(&self.stop), hazard: ms(&self.hazard), reply: ms(&self.reply) },
            deadlines,
            preemptions: self.preemptions,
            superseded: self.superseded,
            expired: self.expired,
            late_results: self.late_results,
            cancel_to_idle_us: us(&self.idle),
            states: [Metabolic::Wake, Metabolic::Focus, Metabolic::Rest, Metabolic::Dream, Metabolic::Crisis]
                .into_iter()
                .map(|state| {
                    let seconds = self.states.get(&state).copied().unwrap_or_default();
                    (format!("{state:?}").to_lowercase(), (seconds * 1e3).round() / 1e3)
                })
                .collect(),
            heard: self.heard.clone(),
            seen: self.seen.clone(),
            said: self.said.clone(),
            actions: self.actions.clone(),
            digest,
            config_hash: self.config.hash(),
        }
    }

    /// Name of a source, for people.
    pub fn source_name(&self, source: SourceId) -> &str {
        self.config.sources.get(usize::from(source.0)).map_or("?", |(_, name)| name)
    }
}

//! Response-time analysis of a lane: does every deadline hold under these inputs? Declared demands and step costs flow in;
//! a verdict with the numbers flows out. Used by `plan`.
//!
//! A lane is fixed priority between classes, earliest deadline first within a class, and not preemptible inside a step.
//! The bounds are those of Spuri ("Analysis of deadline scheduled real-time systems", 1996) for the EDF level, with the
//! classes above as interference (Gonzalez Harbour and Palencia, RTSS 2003) and the longest step of anything less urgent
//! as blocking. The last step's non-preemptibility is not used to tighten them, so they are safe, not exact.
//!
//! A demand whose jobs replace one another (a new question cancels the answer to the old one) is bounded apart, if it is
//! alone in its class: from the event on, the job before it costs at most the step it is in. See [`Demand::replaces`].

use crate::types::{Capability, Class, Nanos};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Busy periods longer than this are taken as "never over".
const HORIZON: Nanos = Nanos::from_s(60);

/// One recurring kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// What it asks for.
    pub capability: Capability,
    /// Its class.
    pub class: Class,
    /// Shortest time between two of its events (frames, blocks of sound, questions).
    pub every: Nanos,
    /// Longest time from the event to the job being at its lane: transport and up to one tick.
    pub jitter: Nanos,
    /// From the event to when the result is useless.
    pub deadline: Nanos,
    /// Most steps of one job.
    pub steps: u32,
    /// Steps until what the deadline asks for: all of them, or for an answer those before its first word.
    pub steps_to_result: u32,
    /// Longest step: p99.9 with margin and cross-lane slowdown.
    pub step: Nanos,
    /// An event's job takes the place of the one before it: whoever submits it cancels that one in the same tick, before it,
    /// and so there is never more than one that can still begin a step.
    ///
    /// Why that makes a bound for a demand that is alone in its class: let its event come at `a` and `t <= a` be the last
    /// instant at which no job of a class above that came before `t` is unfinished. From `t` on the lane runs first what is
    /// left of one step that had begun before `t` (of a class below, or of the job that is replaced: cancelled inside it or
    /// not, it ends with that step), then only work that came at or after `t` of the classes above, and from `a` on the new
    /// job; a job of the class itself begins no step between `t` and `a`, since there is work above it all that time. So
    /// all is done by the time one such step, the job's own steps and everything of the classes above in that window
    /// are done, which is longest if they all come at `t = a`. How much the replaced jobs would have cost in all does
    /// not matter. To classes below it such a demand is charged in full, as before: it can keep the lane busy.
    #[serde(default)]
    pub replaces: bool,
}

impl Demand {
    /// Lane time of one whole job.
    pub fn cost(&self) -> Nanos {
        Nanos(self.step.0.saturating_mul(u64::from(self.steps)))
    }

    /// Lane time until what the deadline asks for.
    fn cost_to_result(&self) -> Nanos {
        Nanos(self.step.0.saturating_mul(u64::from(self.steps_to_result.min(self.steps))))
    }

    /// Lane time of one job that nothing else shortens: one that is replaced runs at most until it is.
    fn longest_run(&self) -> Nanos {
        if self.replaces { self.cost().min(self.every + self.step) } else { self.cost() }
    }
}

/// What the analysis found of one demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The demand.
    pub demand: Demand,
    /// Longest time from its event to its result; `None` if there is no bound.
    pub response: Option<Nanos>,
    /// Longest single wait for a less urgent step.
    pub blocking: Nanos,
}

impl Finding {
    /// The deadline holds in the worst case.
    pub fn holds(&self) -> bool {
        self.response.is_some_and(|response| response <= self.demand.deadline)
    }
}

/// What the analysis found of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    /// One per demand, in their order.
    pub findings: Vec<Finding>,
    /// Share of the lane that the demands take, in thousandths.
    pub utilisation_permille: u64,
}

impl Analysis {
    /// Every deadline holds.
    pub fn holds(&self) -> bool {
        self.findings.iter().all(Finding::holds)
    }
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = self.utilisation_permille as f64 / 10.0;
        if self.holds() {
            let load = load.min(100.0);
            writeln!(f, "holds under these inputs: every deadline is met, the lane is busy {load:.1} % at most")?;
        } else {
            let missing = self.findings.iter().filter(|finding| !finding.holds()).count();
            writeln!(
                f,
                "does not hold: {missing} of {} deadlines can be missed, load {load:.1} %",
                self.findings.len()
            )?;
        }
        for Finding { demand, response, blocking } in &self.findings {
            let ms = |span: Nanos| span.0 as f64 / 1e6;
            let name = format!("{:?} ({:?})", demand.capability, demand.class);
            let answer = response.map_or("no bound".to_owned(), |response| format!("{:.1} ms", ms(response)));
            let (deadline, blocking) = (ms(demand.deadline), ms(*blocking));
            writeln!(
                f,
                "  {name:<24} worst {answer:>10} of {deadline:.1} ms, of which {blocking:.1} ms behind one other step"
            )?;
        }
        Ok(())
    }
}

/// Analyses the demands of one lane.
pub fn analyse(demands: &[Demand]) -> Analysis {
    let share = |demand: &Demand| demand.longest_run().0 as u128 * 1_000_000 / u128::from(demand.every.0.max(1));
    let utilisation = demands.iter().map(share).sum::<u128>();
    let findings = (0..demands.len())
        .map(|own| {
            let level = Level::of(demands, own);
            let (response, blocking) = if level.is_alone_and_replaces() {
                (level.response_of_newest(), level.blocking_of_newest())
            } else {
                (level.response(), level.blocking(Nanos::NEVER))
            };
            Finding { demand: demands[own], response, blocking }
        })
        .collect();
    Analysis { findings, utilisation_permille: (utilisation / 1_000) as u64 }
}

/// The demands as one of them sees them.
struct Level<'a> {
    own: &'a Demand,
    above: Vec<&'a Demand>,
    beside: Vec<&'a Demand>,
    below: Vec<&'a Demand>,
}

impl<'a> Level<'a> {
    fn of(demands: &'a [Demand], own: usize) -> Level<'a> {
        let class = demands[own].class;
        let others = || demands.iter().enumerate().filter(move |(i, _)| *i != own).map(|(_, demand)| demand);
        Level {
            own: &demands[own],
            above: others().filter(|demand| demand.class < class).collect(),
            beside: others().filter(|demand| demand.class == class).collect(),
            below: others().filter(|demand| demand.class > class).collect(),
        }
    }

    /// The longest step that may just have begun when the busy period starts: of a class below, or beside with a
    /// deadline later than `deadline` (from the start of the busy period; `NEVER`: any of them).
    fn blocking(&self, deadline: Nanos) -> Nanos {
        let later = |demand: &&&Demand| deadline == Nanos::NEVER || demand.deadline > deadline;
        let beside = self.beside.iter().filter(later).map(|demand| demand.step).max();
        self.below.iter().map(|demand| demand.step).max().max(beside).unwrap_or(Nanos::ZERO)
    }

    fn is_alone_and_replaces(&self) -> bool {
        self.own.replaces && self.beside.is_empty()
    }

    /// The longest step that may just have begun: of a class below, or of the job that is replaced.
    fn blocking_of_newest(&self) -> Nanos {
        self.blocking(Nanos::NEVER).max(self.own.step)
    }

    /// Response of a job that replaces the one before it; see [`Demand::replaces`].
    fn response_of_newest(&self) -> Option<Nanos> {
        let fixed = self.blocking_of_newest().after(self.own.cost_to_result());
        let end = fixed_point(fixed, |window| {
            self.above.iter().map(|d| times(d.cost(), released(d, window))).fold(fixed, |a, b| a.after(b))
        })?;
        Some(end.after(self.own.jitter))
    }

    /// The worst response over all places that a job can have in a busy period.
    fn response(&self) -> Option<Nanos> {
        let busy = self.busy_period()?;
        let mut worst = Nanos::ZERO;
        for arrival in self.arrivals(busy) {
            worst = worst.max(self.response_at(arrival)?);
        }
        Some(worst)
    }

    /// Length of the longest time that the lane works on this class and above without a pause.
    fn busy_period(&self) -> Option<Nanos> {
        let all = || self.above.iter().chain(&self.beside).copied().chain([self.own]);
        let start = all().map(Demand::cost).fold(self.blocking(Nanos::NEVER), |a, b| a + b);
        fixed_point(start, |length| {
            all().fold(self.blocking(Nanos::NEVER), |sum, d| sum + times(d.cost(), released(d, length)))
        })
    }

    /// Arrivals (relative to the start of the busy period) at which the own deadline meets another's: only there can
    /// the worst case lie.
    fn arrivals(&self, busy: Nanos) -> Vec<Nanos> {
        let mut arrivals = vec![Nanos::ZERO];
        for demand in self.beside.iter().copied().chain([self.own]) {
            for k in 0.. {
                let deadline = times(demand.every, k).after(demand.deadline).since(demand.jitter);
                let arrival = deadline.after(self.own.jitter).since(self.own.deadline);
                if arrival > busy {
                    break;
                }
                arrivals.push(arrival);
            }
        }
        arrivals.sort_unstable();
        arrivals.dedup();
        arrivals
    }

    /// Response of the own job that arrives at `at`, all others as early as they can be.
    fn response_at(&self, at: Nanos) -> Option<Nanos> {
        let own = self.own;
        let deadline = at.after(own.deadline).since(own.jitter); // from its latest release, as seen by the lane
        let earlier = at.0 / own.every.0.max(1);
        let rest = own.cost_to_result();
        let fixed = self.blocking(deadline).after(times(own.cost(), earlier)).after(rest);
        let end = fixed_point(fixed, |window| {
            let above = self.above.iter().map(|d| times(d.cost(), released(d, window)));
            let beside = self.beside.iter().map(|d| {
                let urgent = match deadline.after(d.jitter).0.checked_sub(d.deadline.0) {
                    Some(span) => span / d.every.0.max(1) + 1,
                    None => 0,
                };
                times(d.cost(), released(d, window).min(urgent))
            });
            above.chain(beside).fold(fixed, |a, b| a.after(b))
        })?;
        Some(end.since(at).max(rest).after(own.jitter))
    }
}

/// Jobs of the demand that can be at the lane within `window`: its jitter lets them come closer together.
fn released(demand: &Demand, window: Nanos) -> u64 {
    window.after(demand.jitter).0.div_ceil(demand.every.0.max(1)).max(1)
}

fn times(span: Nanos, count: u64) -> Nanos {
    Nanos(span.0.saturating_mul(count))
}

/// The smallest fixed point of a growing function from `start` on; `None` beyond the horizon.
fn fixed_point(start: Nanos, next: impl Fn(Nanos) -> Nanos) -> Option<Nanos> {
    let mut value = start;
    while value <= HORIZON {
        let grown = next(value);
        if grown <= value {
            return Some(value);
        }
        value = grown;
    }
    None
}

#[cfg(test)]
mod tests;

//! ATP, the compute budget: 1 ATP is 1 ms of lane time, measured. Time refills the tank at the state's rate, finished
//! jobs empty it by what they really used; whether a class may still start work, and how a rate is shared, flows out.

use crate::config::{BudgetConfig, refill_factor};
use crate::types::{Capability, Class, Metabolic, Nanos};
use serde::{Deserialize, Serialize};

/// Share of the way that an expected cost follows each measured one.
const COST_SHARE: f32 = 0.2;
/// The tank never counts as emptier than this many tanks below nothing, so that recovery takes bounded time.
const DEBT: f32 = -0.5;

/// The tank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    tank_ms: f32,
    left_ms: f32,
    refill_ms_per_s: f32,
    reserve_ms: f32,
    expected_ms: [f32; 5],
    last: Option<Nanos>,
}

impl Budget {
    /// A full tank.
    pub fn new(config: &BudgetConfig) -> Budget {
        let tank_ms = config.tank_ms.max(1.0);
        Budget {
            tank_ms,
            left_ms: tank_ms,
            refill_ms_per_s: config.refill_ms_per_s.max(0.0),
            reserve_ms: tank_ms * config.reserve.clamp(0.0, 1.0),
            expected_ms: [0.0; 5],
            last: None,
        }
    }

    /// Milliseconds of lane time left; less than nothing after work that cost more than there was.
    pub fn left_ms(&self) -> f32 {
        self.left_ms
    }

    /// Size of the tank.
    pub fn tank_ms(&self) -> f32 {
        self.tank_ms
    }

    /// Share of the tank that is left, 0..=1.
    pub fn energy(&self) -> f32 {
        (self.left_ms / self.tank_ms).clamp(0.0, 1.0)
    }

    /// What one job of a capability is expected to cost, by its measured past, ms.
    pub fn expected_ms(&self, capability: Capability) -> f32 {
        self.expected_ms[capability as usize]
    }

    /// Refills for the time since the call before.
    pub fn refill(&mut self, now: Nanos, state: Metabolic) {
        let dt = self.last.map_or(0.0, |last| now.since(last).as_s() as f32);
        self.last = Some(now);
        self.left_ms = (self.left_ms + dt * self.refill_ms_per_s * refill_factor(state)).min(self.tank_ms);
    }

    /// Pays the measured lane time of a job.
    pub fn pay(&mut self, capability: Capability, busy: Nanos) {
        let cost = busy.0 as f32 / 1e6;
        self.left_ms = (self.left_ms - cost).max(DEBT * self.tank_ms);
        let expected = &mut self.expected_ms[capability as usize];
        *expected = if *expected == 0.0 { cost } else { *expected + COST_SHARE * (cost - *expected) };
    }

    /// Whether work may start: reflexes always, dialogue while anything is left, awareness above the reserve, background
    /// only when half of what is above the reserve is left too. A job that costs more than the whole allowance may
    /// start once the tank is full, else it never could.
    pub fn allows(&self, class: Class, capability: Capability) -> bool {
        let cost = self.expected_ms(capability);
        let floor = match class {
            Class::Reflex => return true,
            Class::Dialogue => 0.0,
            Class::Awareness => self.reserve_ms,
            Class::Background => self.reserve_ms + (self.tank_ms - self.reserve_ms) / 2.0,
        };
        self.left_ms > floor && (self.left_ms - cost >= floor || self.left_ms >= self.tank_ms * 0.95)
    }
}

/// Splits a rate among sources by salience × trust, none below a tenth of an equal share. `weights` become shares with
/// sum 1.
pub fn share(weights: &mut [f32]) {
    let n = weights.len().max(1) as f32;
    let sum: f32 = weights.iter().map(|weight| weight.max(0.0)).sum();
    for weight in weights.iter_mut() {
        let share = if sum > 0.0 { weight.max(0.0) / sum } else { 1.0 / n };
        *weight = 0.1 / n + 0.9 * share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget::new(&BudgetConfig { tank_ms: 1000.0, refill_ms_per_s: 500.0, reserve: 0.25 })
    }

    #[test]
    fn measured_time_is_paid_and_time_refills() {
        let mut budget = budget();
        budget.refill(Nanos::ZERO, Metabolic::Wake);
        budget.pay(Capability::Reason, Nanos::from_ms(600));
        assert_eq!(budget.left_ms(), 400.0);
        for i in 1..=100 {
            budget.refill(Nanos::from_ms(i * 10), Metabolic::Wake);
        }
        assert!((budget.left_ms() - 900.0).abs() < 0.1);
        budget.refill(Nanos::from_s(100), Metabolic::Wake);
        assert_eq!(budget.left_ms(), 1000.0, "never above the tank");
    }

    #[test]
    fn an_empty_tank_sheds_background_first_and_reflexes_never() {
        let mut budget = budget();
        let allowed = |budget: &Budget| {
            [Class::Reflex, Class::Dialogue, Class::Awareness, Class::Background]
                .map(|class| budget.allows(class, Capability::Load))
        };
        assert_eq!(allowed(&budget), [true; 4]);
        budget.pay(Capability::See, Nanos::from_ms(500));
        assert_eq!(allowed(&budget), [true, true, true, false]);
        budget.pay(Capability::See, Nanos::from_ms(300));
        assert_eq!(allowed(&budget), [true, true, false, false]);
        budget.pay(Capability::See, Nanos::from_ms(300));
        assert_eq!(allowed(&budget), [true, false, false, false]);
    }

    #[test]
    fn debt_is_bounded() {
        let mut budget = budget();
        budget.pay(Capability::Load, Nanos::from_s(1000));
        budget.refill(Nanos::ZERO, Metabolic::Wake);
        budget.refill(Nanos::from_s(2), Metabolic::Wake);
        assert!(budget.allows(Class::Dialogue, Capability::Hear), "two seconds suffice to come back");
    }

    #[test]
    fn shares_follow_weight_and_starve_nobody() {
        let mut weights = [0.9, 0.1, 0.0];
        share(&mut weights);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(weights[0] > 0.8 && weights[2] > 0.03);
        let mut none = [0.0; 2];
        share(&mut none);
        assert!((none[0] - 0.5).abs() < 1e-6);
    }
}

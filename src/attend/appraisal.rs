//! What to make of five salience parts: stance, confidence, the attention threshold of a state, and how the weights
//! learn from failure. Plain functions; numbers in, numbers and names out. Formulas and cases are the predecessor's
//! (reference sections 2.B and 13), where they are sound.

use super::salience::Snarc;
use crate::types::Metabolic;
use serde::{Deserialize, Serialize};

/// How the robot should take what it perceives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stance {
    /// Sources disagree: check before acting.
    SkepticalVerification,
    /// Unexpected and new.
    CuriousUncertainty,
    /// Strong and fairly new.
    Exploratory,
    /// It paid before.
    FocusedAttention,
    /// Nothing unexpected.
    ConfidentExecution,
    /// None of these.
    Curious,
}

/// First match, in the predecessor's order.
pub fn stance(parts: &Snarc) -> Stance {
    if parts.conflict > 0.7 {
        Stance::SkepticalVerification
    } else if parts.surprise > 0.6 && parts.novelty > 0.6 {
        Stance::CuriousUncertainty
    } else if parts.arousal > 0.7 && parts.novelty > 0.4 {
        Stance::Exploratory
    } else if parts.reward > 0.7 {
        Stance::FocusedAttention
    } else if parts.surprise < 0.3 && parts.novelty < 0.3 {
        Stance::ConfidentExecution
    } else {
        Stance::Curious
    }
}

/// How much the five parts agree: `1 - 2 var`, 0..=1, with the population variance.
pub fn confidence(parts: &Snarc) -> f32 {
    let parts = parts.parts();
    let mean = parts.iter().sum::<f32>() / 5.0;
    let variance = parts.iter().map(|part| (part - mean) * (part - mean)).sum::<f32>() / 5.0;
    1.0 - (2.0 * variance).min(1.0)
}

/// Salience that `state` asks for, with `energy` 0..=1 of the budget left and `criticality` 0..=1 of the matter.
pub fn threshold(state: Metabolic, energy: f32, criticality: f32) -> f32 {
    let base = match state {
        Metabolic::Wake => 0.5,
        Metabolic::Focus => 0.3,
        Metabolic::Rest => 0.8,
        Metabolic::Dream => 0.1,
        Metabolic::Crisis => 0.9,
    };
    (base + 0.2 * (1.0 - energy) - 0.1 * criticality).clamp(0.0, 1.0)
}

/// Whether to attend: salience must exceed the threshold, the cost may just meet the budget.
pub fn attends(salience: f32, threshold: f32, cost: f32, budget: f32) -> bool {
    salience > threshold && cost <= budget
}

/// The part that misled most loses a hundredth of its weight to the others. Only failure teaches; the sum stays 1.
pub fn learn_from_failure(weights: &mut [f32; 5], parts: &Snarc) {
    let parts = parts.parts();
    let mut largest = 0;
    for (index, part) in parts.iter().enumerate() {
        if *part > parts[largest] {
            largest = index;
        }
    }
    let lost = weights[largest] * 0.1 * 0.1;
    for (index, weight) in weights.iter_mut().enumerate() {
        *weight += if index == largest { -lost } else { lost / 4.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(surprise: f32, novelty: f32, arousal: f32, reward: f32, conflict: f32) -> Snarc {
        Snarc { surprise, novelty, arousal, reward, conflict }
    }

    /// Case 8.
    #[test]
    fn stances_and_confidence_are_the_reference_ones() {
        assert_eq!(stance(&parts(0.5, 0.5, 0.5, 0.5, 0.8)), Stance::SkepticalVerification);
        assert_eq!(stance(&parts(0.7, 0.7, 0.0, 0.0, 0.0)), Stance::CuriousUncertainty);
        assert_eq!(stance(&parts(0.4, 0.3, 0.0, 0.8, 0.0)), Stance::FocusedAttention);
        assert_eq!(stance(&parts(0.1, 0.2, 0.0, 0.0, 0.0)), Stance::ConfidentExecution);
        assert_eq!(stance(&parts(0.4, 0.5, 0.8, 0.0, 0.0)), Stance::Exploratory);
        assert!((confidence(&parts(0.8, 0.8, 0.8, 0.8, 0.8)) - 1.0).abs() < 1e-6);
        assert!((confidence(&parts(0.0, 1.0, 0.0, 1.0, 0.5)) - 0.6).abs() < 1e-6);
    }

    /// Case 6's stance and confidence, given its parts. Ours for a first observation are (0, 1, 0, 0, 0): see salience.
    #[test]
    fn the_reference_first_observation_appraises_the_same() {
        let first = parts(0.0, 1.0, 0.5, 0.5, 0.0);
        assert!((confidence(&first) - 0.72).abs() < 1e-6);
        assert!((first.total(&[0.2; 5]) - 0.4).abs() < 1e-6);
    }

    /// Case 7.
    #[test]
    fn failure_moves_weight_off_the_largest_part() {
        let mut weights = [0.2; 5];
        learn_from_failure(&mut weights, &parts(0.0, 1.0, 0.5, 0.5, 0.0));
        for (weight, want) in weights.iter().zip([0.2005, 0.198, 0.2005, 0.2005, 0.2005]) {
            assert!((weight - want).abs() < 1e-6);
        }
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    /// Case 9.
    #[test]
    fn thresholds_are_the_reference_ones() {
        for (state, energy, criticality, want) in [
            (Metabolic::Wake, 0.8, 0.5, 0.49),
            (Metabolic::Focus, 0.6, 0.7, 0.31),
            (Metabolic::Rest, 0.9, 0.1, 0.81),
            (Metabolic::Crisis, 0.3, 0.9, 0.95),
            (Metabolic::Dream, 0.7, 0.0, 0.16),
        ] {
            assert!((threshold(state, energy, criticality) - want).abs() < 1e-6, "{state:?}");
        }
        assert_eq!(threshold(Metabolic::Crisis, 0.0, 0.0), 1.0);
        assert_eq!(threshold(Metabolic::Dream, 1.0, 5.0), 0.0);
        assert!(!attends(0.5, 0.5, 1.0, 2.0), "just the threshold is not enough");
        assert!(attends(0.6, 0.5, 2.0, 2.0), "just the budget is enough");
        assert!(attends(0.6, threshold(Metabolic::Wake, 0.8, 0.5), 0.0, 1.0));
        assert!(!attends(0.6, threshold(Metabolic::Rest, 0.8, 0.5), 0.0, 1.0));
    }
}

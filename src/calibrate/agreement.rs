//! How well a model agrees with another: logits of both at the same positions flow in; perplexity, top-1 agreement and KL
//! divergence flow out.

use crate::engine::CancelToken;
use crate::engine::cpu::qwen2::Decoder;
use serde_json::{Value, json};

/// Sums over positions; natural logarithms.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    /// Positions compared.
    pub predicted: usize,
    /// Positions where both expect the same token most.
    pub same_top: usize,
    /// -log of what the judged model gives the next token.
    pub surprise: f64,
    /// -log of what the reference gives it.
    pub reference_surprise: f64,
    /// KL(reference || judged).
    pub divergence: f64,
}

impl Agreement {
    /// Adds one position; `next` is the token that follows in the text.
    pub fn add(&mut self, judged: &[f32], reference: &[f32], next: usize) {
        let (norm, reference_norm) = (log_sum_exp(judged), log_sum_exp(reference));
        self.predicted += 1;
        self.same_top += usize::from(top(judged) == top(reference));
        self.surprise += norm - f64::from(judged[next]);
        self.reference_surprise += reference_norm - f64::from(reference[next]);
        self.divergence += judged
            .iter()
            .zip(reference)
            .map(|(&j, &r)| {
                let (j, r) = (f64::from(j) - norm, f64::from(r) - reference_norm);
                r.exp() * (r - j)
            })
            .sum::<f64>();
    }

    /// Adds all positions of another.
    pub fn add_all(&mut self, other: &Agreement) {
        self.predicted += other.predicted;
        self.same_top += other.same_top;
        self.surprise += other.surprise;
        self.reference_surprise += other.reference_surprise;
        self.divergence += other.divergence;
    }

    /// Reads one context with both models and compares what they expect at every position but the last.
    pub fn read(&mut self, judged: &mut Decoder, reference: &mut Decoder, window: &[u32]) {
        let go = CancelToken::default();
        let (mut judged_cache, mut reference_cache) = (judged.new_cache(), reference.new_cache());
        let chunk = judged.options().chunk;
        for (number, part) in window.chunks(chunk).enumerate() {
            // Nobody cancels here.
            let _ = judged.forward(part, &mut judged_cache, &go);
            let _ = reference.forward(part, &mut reference_cache, &go);
            for index in 0..part.len() {
                let Some(&next) = window.get(number * chunk + index + 1) else { return };
                if let (Ok(judged), Ok(reference)) = (judged.logits(index, &go), reference.logits(index, &go)) {
                    self.add(judged, reference, next as usize);
                }
            }
        }
    }

    /// Means over the positions, as reports show them.
    pub fn report(&self) -> Value {
        let n = self.predicted.max(1) as f64;
        json!({
            "tokens": self.predicted,
            "perplexity": (self.surprise / n).exp(),
            "perplexity_reference": (self.reference_surprise / n).exp(),
            "top1_agreement": self.same_top as f64 / n,
            "kl": self.divergence / n,
        })
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    f64::from(largest) + sum.ln()
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_agrees_with_itself_and_differs_from_another_by_the_textbook_kl() {
        let mut same = Agreement::default();
        same.add(&[0.0, 1.0], &[0.0, 1.0], 0);
        assert_eq!((same.same_top, same.divergence), (1, 0.0));
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln(3)/2.
        let mut other = Agreement::default();
        other.add(&[0.25f32.ln(), 0.75f32.ln()], &[0.0, 0.0], 0);
        assert!((other.divergence - (2.0f64.ln() - 3.0f64.ln() / 2.0)).abs() < 1e-6);
        assert!((other.surprise - 4.0f64.ln()).abs() < 1e-6);
    }
}

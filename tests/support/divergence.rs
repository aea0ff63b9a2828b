//! How far two networks' expectations lie apart, computed without the library's own report. Two rows of logits flow in, a number
//! flows out.

/// Kullback-Leibler divergence of the distributions that two rows of logits give, in nats.
pub fn divergence(of: &[f32], from: &[f32]) -> f64 {
    let logs = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().fold(f64::MIN, |most, &x| most.max(f64::from(x)));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - most).exp()).sum();
        row.iter().map(|&x| f64::from(x) - most - sum.ln()).collect()
    };
    logs(of).iter().zip(logs(from)).map(|(p, q)| p.exp() * (p - q)).sum()
}

//! A seeded source of numbers for synthetic scenes. A seed flows in; the same numbers on every machine flow out.
//! The generator is SplitMix64 (Steele, Lea, Flood 2014); nothing here is meant for secrets.

/// A deterministic stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Mixes one 64-bit value into an unrelated looking one (the finaliser of SplitMix64).
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// A stream for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let z = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A whole number in `0..n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f32) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// An index drawn by weight.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut x = self.unit() * weights.iter().sum::<f32>();
        for (i, w) in weights.iter().enumerate() {
            x -= w;
            if x < 0.0 {
                return i;
            }
        }
        weights.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_seed_does_not() {
        let (mut a, mut b, mut c) = (Random::new(7), Random::new(7), Random::new(8));
        let (x, y, z): (Vec<_>, Vec<_>, Vec<_>) = (
            (0..9).map(|_| a.bits()).collect(),
            (0..9).map(|_| b.bits()).collect(),
            (0..9).map(|_| c.bits()).collect(),
        );
        assert_eq!(x, y);
        assert_ne!(x, z);
    }

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut r = Random::new(1);
        let v: Vec<f32> = (0..4000).map(|_| r.between(-2.0, 3.0)).collect();
        assert!(v.iter().all(|x| (-2.0..3.0).contains(x)));
        assert!(v.iter().any(|x| *x < -1.9) && v.iter().any(|x| *x > 2.9));
    }
}

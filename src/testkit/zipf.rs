//! Draws by Zipf's law: of many, the n-th most popular is chosen in proportion to 1 / nˢ.

/// A distribution over `0..count`, the most popular first.
#[derive(Clone, Debug)]
pub struct Zipf {
    cumulated: Vec<f64>,
}

/// A small random source (splitmix64): the same seed draws the same.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Evenly from `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }
}

impl Zipf {
    /// # Panics
    /// When `count` is zero.
    pub fn new(count: usize, s: f64) -> Self {
        assert!(count > 0, "nothing to choose from");
        let weights = (1..=count).map(|rank| (rank as f64).powf(-s));
        let mut cumulated: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let total = cumulated[count - 1];
        cumulated.iter_mut().for_each(|sum| *sum /= total);
        Self { cumulated }
    }

    pub fn draw(&self, draws: &mut Draws) -> usize {
        let draw = draws.unit();
        self.cumulated.partition_point(|sum| *sum <= draw).min(self.cumulated.len() - 1)
    }

    /// The share of the draws that the `first` most popular have together.
    pub fn share_of(&self, first: usize) -> f64 {
        first.min(self.cumulated.len()).checked_sub(1).map_or(0.0, |last| self.cumulated[last])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_half_as_popular_as_the_first() {
        let (zipf, mut draws) = (Zipf::new(1_000, 1.0), Draws::new(1));
        let mut seen = vec![0_u32; 1_000];
        (0..200_000).for_each(|_| seen[zipf.draw(&mut draws)] += 1);
        let ratio = f64::from(seen[0]) / f64::from(seen[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!((zipf.share_of(500) - 0.9075).abs() < 0.001, "{}", zipf.share_of(500));
        assert_eq!((zipf.share_of(0), zipf.share_of(1_000)), (0.0, 1.0));
    }
}

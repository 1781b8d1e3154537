//! A histogram of durations with one bucket a power of two.

use crate::time::Duration;

/// Counts durations by their magnitude: bucket `b` holds those of `b` significant bits in nanoseconds, that is from
/// 2^(b−1) up to but without 2^b.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: [u32; 65],
    count: u32,
    min: u64,
    max: u64,
}

impl Histogram {
    /// Nothing counted.
    pub const fn new() -> Self {
        Self { buckets: [0; 65], count: 0, min: u64::MAX, max: 0 }
    }

    /// Counts `duration`.
    pub fn record(&mut self, duration: Duration) {
        let ns = duration.as_ticks();
        let bucket = (u64::BITS - ns.leading_zeros()) as usize;
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count = self.count.saturating_add(1);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The shortest, exactly; zero if nothing was counted.
    pub fn min(&self) -> Duration {
        Duration::from_ticks(if self.count == 0 { 0 } else { self.min })
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_ticks(self.max)
    }

    /// A duration that at least `per_mille` of a thousand counted ones do not exceed: the upper end of a bucket, or
    /// the longest counted, if that is less.
    pub fn quantile(&self, per_mille: u32) -> Duration {
        let rank = (u64::from(self.count) * u64::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        for (end, count) in self.buckets() {
            seen += u64::from(count);
            if seen >= rank {
                return self.max().min(end);
            }
        }
        self.max()
    }

    /// The buckets that are not empty: the longest duration that belongs to each, and how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u32)> + '_ {
        let ends = (0..65).map(|bits| Duration::from_ticks(u64::MAX.checked_shr(64 - bits).unwrap_or(0)));
        ends.zip(self.buckets).filter(|&(_, count)| count > 0)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_bound_the_exact_ones_within_their_power_of_two(mut ns in prop::collection::vec(any::<u64>(), 1..200), q in 1_u32..=1000) {
            let mut histogram = Histogram::new();
            ns.iter().for_each(|&ns| histogram.record(Duration::from_ticks(ns)));
            ns.sort_unstable();
            let exact = ns[(ns.len() as u64 * u64::from(q)).div_ceil(1000) as usize - 1];
            let quantile = histogram.quantile(q).as_ticks();
            prop_assert!(exact <= quantile && quantile / 2 <= exact);
            prop_assert_eq!(histogram.min().as_ticks(), ns[0]);
            prop_assert_eq!(histogram.max().as_ticks(), ns[ns.len() - 1]);
            prop_assert_eq!(histogram.buckets().map(|(_, n)| n).sum::<u32>(), ns.len() as u32);
        }
    }

    #[test]
    fn an_empty_one_has_only_zeros() {
        let h = Histogram::new();
        assert_eq!(
            (h.count(), h.min().as_ticks(), h.max().as_ticks(), h.quantile(500).as_ticks()),
            (0, 0, 0, 0)
        );
        assert_eq!(h.buckets().count(), 0);
    }
}

//! A figure: what was measured, over all events.

use std::collections::BTreeMap;
use std::fmt;

/// Values and how often each was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    counts: BTreeMap<u64, u64>,
    /// What the guest said of the first of the largest values.
    worst: Option<u64>,
}

impl Figure {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        *self.counts.entry(value).or_default() += 1;
    }

    /// Counts a value, of which the guest said something.
    pub fn add_with(&mut self, value: u64, said: u64) {
        if self.counts.is_empty() || value > self.max() {
            self.worst = Some(said);
        }
        self.add(value);
    }

    /// What the guest said of the largest value.
    pub fn worst(&self) -> Option<u64> {
        self.worst
    }

    /// Counts all that another figure has.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() || other.max() > self.max() {
            self.worst = other.worst;
        }
        for (value, count) in &other.counts {
            *self.counts.entry(*value).or_default() += count;
        }
    }

    /// How many values there are.
    pub fn n(&self) -> u64 {
        self.counts.values().sum()
    }

    /// All values together.
    pub fn sum(&self) -> u64 {
        self.counts.iter().map(|(value, count)| value * count).sum()
    }

    /// The smallest value that at least so many of 1000 do not exceed; 0 if there are none.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.n()) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (value, count) in &self.counts {
            seen += u128::from(*count);
            if seen >= wanted {
                return *value;
            }
        }
        0
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.counts.last_key_value().map_or(0, |(value, _)| *value)
    }

    /// Each value with its count, ascending.
    pub fn histogram(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().map(|(value, count)| (*value, *count))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = [500, 990, 999].map(|q| self.quantile(q));
        write!(f, "{:>8} {p50:>8} {p99:>8} {p999:>8} {:>8}", self.n(), self.max())
    }
}

impl Extend<u64> for Figure {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.add(value));
    }
}

impl FromIterator<u64> for Figure {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut figure = Self::default();
        figure.extend(values);
        figure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut figure: Figure = (1..=1000).collect();
        assert_eq!([500, 990, 999, 1000].map(|q| figure.quantile(q)), [500, 990, 999, 1000]);
        assert_eq!((figure.n(), figure.max()), (1000, 1000));
        figure.merge(&[7, 5_000].into_iter().collect());
        assert_eq!((figure.n(), figure.max(), figure.quantile(1000)), (1002, 5_000, 5_000));
        figure.add_with(5_001, 42);
        figure.add_with(5_001, 43);
        assert_eq!(figure.worst(), Some(42));
        assert_eq!(figure.histogram().find(|(value, _)| *value == 7), Some((7, 2)));
    }

    #[test]
    fn nothing_measured_is_zero() {
        let figure = Figure::default();
        assert_eq!((figure.n(), figure.max(), figure.quantile(500)), (0, 0, 0));
    }
}

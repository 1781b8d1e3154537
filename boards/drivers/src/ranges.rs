//! Sets of physical address ranges: what is left of RAM when everything in use is taken out.

use core::ops::Range;

/// More than any supported board needs: each removal splits one range at the most.
const MAX_RANGES: usize = 32;

/// Disjoint ranges.
#[derive(Debug, Default)]
pub struct Ranges(heapless::Vec<Range<u64>, MAX_RANGES>);

impl Ranges {
    /// The union of these ranges. Those that do not fit are left out.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.remove(&range);
            let _ = set.0.push(range);
        }
        set
    }

    /// Takes a range out.
    pub fn remove(&mut self, hole: &Range<u64>) {
        let mut left = Self::default();
        for range in &self.0 {
            for part in [range.start..range.end.min(hole.start), range.start.max(hole.end)..range.end] {
                if part.start < part.end {
                    let _ = left.0.push(part);
                }
            }
        }
        *self = left;
    }

    /// Shrinks every range to whole units of `align` bytes, which is not 0, and drops those that vanish.
    pub fn align(&mut self, align: u64) {
        self.0 = self
            .0
            .iter()
            .map(|range| range.start.div_ceil(align).saturating_mul(align)..range.end / align * align)
            .filter(|range| range.start < range.end)
            .collect();
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..64u64, 0..16u64).prop_map(|(start, len)| start..start + len)
    }

    proptest! {
        /// A number is in the set if it is in one of the ranges and in no hole; aligned, if all of its unit is.
        #[test]
        fn what_is_in_it(ranges in prop::collection::vec(range(), 0..8), holes in prop::collection::vec(range(), 0..8)) {
            let mut set = Ranges::new(ranges.iter().cloned());
            holes.iter().for_each(|hole| set.remove(hole));
            let is_in = |n: u64| ranges.iter().any(|range| range.contains(&n)) && !holes.iter().any(|hole| hole.contains(&n));
            let is_in_set = |set: &Ranges, n: u64| set.iter().filter(|range| range.contains(&n)).count();
            for n in 0..80 {
                prop_assert_eq!(is_in_set(&set, n), usize::from(is_in(n)), "{}", n);
            }
            let whole: Vec<_> = set.iter().collect();
            set.align(4);
            for n in 0..80 {
                let unit = n / 4 * 4..n / 4 * 4 + 4;
                let is_whole = whole.iter().any(|range| range.start <= unit.start && unit.end <= range.end);
                prop_assert_eq!(is_in_set(&set, n), usize::from(is_whole), "{}", n);
            }
        }
    }
}

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

    /// Shrinks every range to whole units of `align` bytes and drops those that vanish.
    pub fn align(&mut self, align: u64) {
        self.0 = self
            .0
            .iter()
            .map(|range| range.start.next_multiple_of(align)..range.end & !(align - 1))
            .filter(|range| range.start < range.end)
            .collect();
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }
}

//! Free physical memory, in whole 2 MiB blocks.

use crate::{BLOCK, Pa};
use heapless::Vec;
use thiserror::Error;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysRange {
    /// The first byte.
    pub start: Pa,
    /// How many bytes.
    pub len: u64,
}

impl PhysRange {
    /// The first address behind it, at the most the largest address.
    pub const fn end(self) -> u64 {
        self.start.0.saturating_add(self.len)
    }

    /// Whether `pa` is in it.
    pub const fn contains(self, pa: Pa) -> bool {
        self.start.0 <= pa.0 && pa.0 < self.end()
    }

    /// Whether all of `other` is in it.
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end() <= self.end()
    }

    /// Whether they have a byte in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end() && other.start.0 < self.end()
    }
}

/// The most ranges of memory that a machine can begin with.
pub const MAX_BOOT_RANGES: usize = 16;
/// The most pieces that one allocation is made of.
pub const MAX_PIECES: usize = 8;
/// Between two free ranges there is one that is in use or one that never was memory, so this always suffices.
const MAX_FREE: usize = MAX_BOOT_RANGES + crate::MAX_OWNED;

/// Why memory was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AllocError {
    /// There is not that much.
    #[error("there is not that much left")]
    OutOfMemory,
    /// There is, but in more than [`MAX_PIECES`] pieces.
    #[error("what is left is in too many pieces")]
    Fragmented,
    /// The range that was asked for is not free, or not aligned to 2 MiB.
    #[error("that range is not free RAM")]
    NotFree,
}

/// The free ranges, sorted, never touching each other, multiples of 2 MiB.
#[derive(Debug)]
pub struct FreeRanges {
    ranges: Vec<PhysRange, MAX_FREE>,
}

impl FreeRanges {
    /// The whole blocks of the first [`MAX_BOOT_RANGES`] of `ranges`, which must not overlap.
    pub fn new(ranges: impl IntoIterator<Item = PhysRange>) -> Self {
        let mut free = Self { ranges: Vec::new() };
        for range in ranges.into_iter().take(MAX_BOOT_RANGES) {
            let start = range.start.0.saturating_add(BLOCK - 1) / BLOCK * BLOCK;
            let end = range.end() / BLOCK * BLOCK;
            if start < end {
                free.free(PhysRange { start: Pa(start), len: end - start });
            }
        }
        free
    }

    /// The free ranges.
    pub fn iter(&self) -> impl Iterator<Item = PhysRange> {
        self.ranges.iter().copied()
    }

    /// Bytes free.
    pub fn total(&self) -> u64 {
        self.iter().map(|range| range.len).sum()
    }

    /// Takes `size` bytes, rounded up to blocks: in one piece if possible, the smallest that is large enough, else in
    /// as few as possible.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`], [`AllocError::Fragmented`]. Nothing is taken then.
    pub fn alloc(&mut self, size: u64) -> Result<Vec<PhysRange, MAX_PIECES>, AllocError> {
        let mut need = size.checked_next_multiple_of(BLOCK).ok_or(AllocError::OutOfMemory)?;
        if need == 0 || need > self.total() {
            return Err(AllocError::OutOfMemory);
        }
        let mut pieces = Vec::new();
        while need > 0 {
            let fits = self.iter().filter(|range| range.len >= need).min_by_key(|range| range.len);
            let best = fits.or_else(|| self.iter().max_by_key(|range| range.len));
            let piece = best.map(|range| PhysRange { start: range.start, len: range.len.min(need) });
            let Some(piece) = piece.filter(|&piece| pieces.push(piece).is_ok()) else {
                for piece in pieces {
                    self.free(piece);
                }
                return Err(AllocError::Fragmented);
            };
            self.take(piece);
            need -= piece.len;
        }
        Ok(pieces)
    }

    /// Takes just this range.
    ///
    /// # Errors
    /// [`AllocError::NotFree`].
    pub fn alloc_at(&mut self, range: PhysRange) -> Result<(), AllocError> {
        if (range.start.0 | range.len).is_multiple_of(BLOCK) && range.len > 0 && self.take(range) {
            Ok(())
        } else {
            Err(AllocError::NotFree)
        }
    }

    /// Gives a range back that was taken.
    pub fn free(&mut self, range: PhysRange) {
        let mut at = self.ranges.partition_point(|free| free.start < range.start);
        let mut whole = range;
        if at > 0 && self.ranges[at - 1].end() == whole.start.0 {
            at -= 1;
            let before = self.ranges.remove(at);
            whole = PhysRange { start: before.start, len: before.len + whole.len };
        }
        if self.ranges.get(at).is_some_and(|after| after.start.0 == whole.end()) {
            whole.len += self.ranges.remove(at).len;
        }
        let inserted = self.ranges.insert(at, whole);
        debug_assert!(inserted.is_ok(), "more free ranges than there can be");
    }

    /// Takes `range` out of the free range that covers it.
    fn take(&mut self, range: PhysRange) -> bool {
        let Some(at) = self.ranges.iter().position(|free| free.covers(range)) else {
            return false;
        };
        let free = self.ranges.remove(at);
        let (before, after) = (range.start.0 - free.start.0, free.end() - range.end());
        if after > 0 {
            let _ = self.ranges.insert(at, PhysRange { start: Pa(range.end()), len: after });
        }
        if before > 0 {
            let _ = self.ranges.insert(at, PhysRange { start: free.start, len: before });
        }
        true
    }
}

//! Which pages of guest memory have been written.

use crate::{FreeRanges, PAGE, Pa, PhysRange};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// Pages in one word of the map.
const WORD_PAGES: u64 = 64;
/// Bytes whose dirty bits are in one word.
const WORD: u64 = WORD_PAGES * PAGE;

/// One bit for each page of guest-assignable physical memory, set when anybody writes there: the VM that owns the page
/// or one that borrows it, through stage 2 or through [`crate::GuestMem`]. The bit belongs to the page, so whoever
/// collects the owner's pages finds the writes of all.
///
/// Marking is lock-free. Who writes first writes, then marks; who collects first takes the mark, then protects the
/// page, then reads it.
#[derive(Debug)]
pub struct DirtyMap {
    areas: Box<[Area]>,
}

#[derive(Debug)]
struct Area {
    range: PhysRange,
    words: Box<[AtomicU64]>,
}

impl DirtyMap {
    /// All clean, for all of `memory`: to be made at boot, before anything of it is granted.
    pub fn new(memory: &FreeRanges) -> Self {
        let words = |range: PhysRange| (0..range.len / WORD).map(|_| AtomicU64::new(0)).collect();
        Self { areas: memory.iter().map(|range| Area { range, words: words(range) }).collect() }
    }

    /// Marks the pages of the `len` bytes at `pa`. What is not in the map has no owner and is ignored.
    pub fn mark(&self, pa: Pa, len: u64) {
        let (mut at, end) = (pa.0, pa.0.saturating_add(len));
        while at < end {
            let next = (at - at % WORD).saturating_add(WORD);
            if let Some((word, bit)) = self.word(Pa(at)) {
                let last = (end.min(next) - 1) % WORD / PAGE;
                word.fetch_or(u64::MAX >> (WORD_PAGES - 1 - last) & u64::MAX << bit, Ordering::Release);
            }
            at = next;
        }
    }

    /// Whether the page at `pa` is marked.
    pub fn is_marked(&self, pa: Pa) -> bool {
        self.word(pa).is_some_and(|(word, bit)| word.load(Ordering::Acquire) >> bit & 1 != 0)
    }

    /// Clears the marks of up to `pages` pages from `pa` on, as many as are in one word. Returns how many, and which
    /// were marked: bit 0 is the page at `pa`.
    pub(crate) fn take(&self, pa: Pa, pages: u64) -> (u64, u64) {
        let bit = pa.0 % WORD / PAGE;
        let count = pages.min(WORD_PAGES - bit);
        let Some((word, _)) = self.word(pa) else {
            return (count, 0);
        };
        let mask = (u64::MAX >> (WORD_PAGES - count.max(1))) << bit;
        (count, (word.fetch_and(!mask, Ordering::AcqRel) & mask) >> bit)
    }

    fn word(&self, pa: Pa) -> Option<(&AtomicU64, u64)> {
        let area = self.areas.iter().find(|area| area.range.contains(pa))?;
        let word = area.words.get(usize::try_from((pa.0 - area.range.start.0) / WORD).ok()?)?;
        Some((word, pa.0 % WORD / PAGE))
    }
}

//! Deadlines of up to 64 things that wait for a time, as a binary heap that knows where each of them is: the earliest,
//! for which the hardware timer is set, is known in constant time; inserting and removing take a step a level.

/// Deadlines of the things 0 to `N` − 1, at most one each. Of two that are equal, that of the lower number is first.
#[derive(Debug)]
pub struct Deadlines<const N: usize> {
    /// The first `len` are in use; no deadline is before that of the place's parent, which is half as far from the top.
    heap: [Entry; N],
    len: usize,
    /// By number: its place in the heap, or [`NOWHERE`].
    places: [u8; N],
}

/// A deadline and whose it is: in the order in which they come.
type Entry = (u64, u8);

const NOWHERE: u8 = u8::MAX;

impl<const N: usize> Deadlines<N> {
    /// Nothing waits.
    pub const fn new() -> Self {
        const { assert!(N <= 64) };
        Self { heap: [(0, 0); N], len: 0, places: [NOWHERE; N] }
    }

    /// Sets the deadline of `n`, whether it had one or not.
    pub fn set(&mut self, n: usize, deadline: u64) {
        self.remove(n);
        self.len += 1;
        self.sift_up(self.len - 1, (deadline, n as u8));
    }

    /// Removes the deadline of `n`; returns whether it had one.
    pub fn remove(&mut self, n: usize) -> bool {
        let at = core::mem::replace(&mut self.places[n], NOWHERE);
        if at == NOWHERE {
            return false;
        }
        let (at, last) = (usize::from(at), self.pop_last());
        if at < self.len {
            // The last one takes the free place, and goes from there where it belongs.
            if last < self.heap[at] { self.sift_up(at, last) } else { self.sift_down(at, last) }
        }
        true
    }

    /// The earliest deadline.
    pub fn first(&self) -> Option<u64> {
        self.heap[..self.len].first().map(|&(deadline, _)| deadline)
    }

    /// Removes the first deadline if it is at or before `now`; whose it was, and when.
    pub fn pop_due(&mut self, now: u64) -> Option<(usize, u64)> {
        let &(deadline, n) = self.heap[..self.len].first()?;
        if deadline > now {
            return None;
        }
        self.places[usize::from(n)] = NOWHERE;
        let last = self.pop_last();
        if self.len > 0 {
            self.sift_down(0, last);
        }
        Some((n.into(), deadline))
    }

    /// Takes the last entry off the heap, which is not empty.
    fn pop_last(&mut self) -> Entry {
        self.len -= 1;
        self.heap[self.len]
    }

    /// Puts `entry` at the place `at` or above.
    fn sift_up(&mut self, mut at: usize, entry: Entry) {
        while at > 0 && entry < self.heap[(at - 1) / 2] {
            self.put(at, self.heap[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        self.put(at, entry);
    }

    /// Puts `entry` at the place `at` or below.
    fn sift_down(&mut self, mut at: usize, entry: Entry) {
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.len);
            match children.min_by_key(|&child| self.heap[child]) {
                Some(child) if self.heap[child] < entry => {
                    self.put(at, self.heap[child]);
                    at = child;
                }
                _ => return self.put(at, entry),
            }
        }
    }

    fn put(&mut self, at: usize, entry: Entry) {
        self.heap[at] = entry;
        self.places[usize::from(entry.1)] = at as u8;
    }
}

impl<const N: usize> Default for Deadlines<N> {
    fn default() -> Self {
        Self::new()
    }
}

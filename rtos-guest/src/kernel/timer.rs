//! The tasks that wait for a time, as a list sorted by it. The first, for which the hardware timer is set, is known in
//! constant time; inserting and removing walk at most one entry a task.

use super::{PRIORITIES, Priority};

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: u64,
    next: Option<Priority>,
}

/// Waiting tasks by deadline, in counter ticks; the more urgent first where two are equal.
#[derive(Debug)]
pub struct TimerList {
    head: Option<Priority>,
    entries: [Entry; PRIORITIES],
}

impl TimerList {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { head: None, entries: [Entry { deadline: 0, next: None }; PRIORITIES] }
    }

    /// Adds `p`, which is not in the list.
    pub fn insert(&mut self, p: Priority, deadline: u64) {
        let (mut before, mut at) = (None, self.head);
        while let Some(q) = at.filter(|&q| (self.entries[q.index()].deadline, q) < (deadline, p)) {
            (before, at) = (at, self.entries[q.index()].next);
        }
        self.entries[p.index()] = Entry { deadline, next: at };
        *self.link(before) = Some(p);
    }

    /// Takes `p` out if it is in the list.
    pub fn remove(&mut self, p: Priority) {
        let (mut before, mut at) = (None, self.head);
        while let Some(q) = at.filter(|&q| q != p) {
            (before, at) = (at, self.entries[q.index()].next);
        }
        if at.is_some() {
            *self.link(before) = self.entries[p.index()].next;
        }
    }

    /// The earliest deadline.
    pub fn first(&self) -> Option<u64> {
        self.head.map(|p| self.entries[p.index()].deadline)
    }

    /// Takes out the first task if its deadline is at or before `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<Priority> {
        let p = self.head.filter(|p| self.entries[p.index()].deadline <= now)?;
        self.head = self.entries[p.index()].next;
        Some(p)
    }

    /// The link that points to the entry after `before`.
    fn link(&mut self, before: Option<Priority>) -> &mut Option<Priority> {
        match before {
            None => &mut self.head,
            Some(p) => &mut self.entries[p.index()].next,
        }
    }
}

impl Default for TimerList {
    fn default() -> Self {
        Self::new()
    }
}

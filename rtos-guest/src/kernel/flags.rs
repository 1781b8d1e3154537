//! Event flags.

use super::Kernel;
use super::wait::{Outcome, TimedOut, Waiters};

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The flags.
    pub mask: u32,
    /// All of them; else any.
    pub all: bool,
    /// They are cleared when the wait ends.
    pub clear: bool,
}

impl Wanted {
    /// No flags.
    pub const NOTHING: Self = Self { mask: 0, all: false, clear: false };

    /// Which of the flags that are set end the wait; None if it goes on.
    fn met(self, set: u32) -> Option<u32> {
        let got = set & self.mask;
        (if self.all { got == self.mask } else { got != 0 }).then_some(got)
    }
}

/// 32 flags and the tasks that wait for some of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlagGroup {
    set: u32,
    waiters: Waiters,
}

impl FlagGroup {
    /// With these flags set.
    pub const fn new(set: u32) -> Self {
        Self { set, waiters: Waiters::new() }
    }

    /// The flags that are set.
    pub const fn get(&self) -> u32 {
        self.set
    }

    /// Sets flags. Every task whose wait that ends is woken; only then are the flags cleared that they wanted cleared,
    /// so that one event can wake several.
    pub fn set(&mut self, kernel: &mut Kernel, flags: u32) {
        self.set |= flags;
        let (set, mut used) = (self.set, 0);
        self.waiters.wake_if(kernel, |kernel, p| {
            let wanted = kernel.wanted(p);
            let Some(got) = wanted.met(set) else { return false };
            if wanted.clear {
                used |= got;
            }
            // What it got replaces what it wanted.
            wanted.mask = got;
            true
        });
        self.set &= !used;
    }

    /// Clears flags.
    pub fn clear(&mut self, flags: u32) {
        self.set &= !flags;
    }

    /// Which flags would end a wait now; they are cleared if that is wanted.
    pub fn poll(&mut self, wanted: Wanted) -> Option<u32> {
        let got = wanted.met(self.set)?;
        if wanted.clear {
            self.set &= !got;
        }
        Some(got)
    }

    /// Gets the flags, or makes the running task wait for them, at the longest until `deadline` (counter ticks).
    pub fn wait(&mut self, kernel: &mut Kernel, wanted: Wanted, deadline: Option<u64>) -> Outcome<u32> {
        if let Some(got) = self.poll(wanted) {
            return Outcome::Got(got);
        }
        self.waiters.wait(kernel, deadline);
        *kernel.wanted(kernel.running()) = wanted;
        Outcome::Waits
    }

    /// Ends the running task's wait; returns the flags that it got.
    ///
    /// # Errors
    /// [`TimedOut`] if they were not set in time.
    pub fn resume(&mut self, kernel: &mut Kernel) -> Result<u32, TimedOut> {
        self.waiters.resume(kernel)?;
        Ok(kernel.wanted(kernel.running()).mask)
    }
}

//! The tasks that wait for one thing.

use super::task::Wake;
use super::{Kernel, Priority, PrioritySet};

/// The deadline of a wait has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// What became of an attempt to get something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T = ()> {
    /// It was there.
    Got(T),
    /// The task waits; when it runs again it asks, by `resume`, what came of it.
    Waits,
}

/// Tasks that wait for the same thing.
///
/// A task whose wait has timed out stays in the set until it runs and [`resume`](Self::resume)s; until then
/// [`wake`](Self::wake) sees that it no longer waits and passes it over. So the kernel need not know for what a task
/// waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiters(PrioritySet);

impl Waiters {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self(PrioritySet::new())
    }

    /// Makes the running task wait, at the longest until `deadline` (counter ticks).
    pub fn wait(&mut self, kernel: &mut Kernel, deadline: Option<u64>) {
        kernel.block(deadline);
        self.0.insert(kernel.running());
    }

    /// Adds the running task, which [`Kernel::block_on`] has made wait.
    pub fn insert(&mut self, kernel: &Kernel) {
        self.0.insert(kernel.running());
    }

    /// Ends the running task's wait.
    ///
    /// # Errors
    /// [`TimedOut`] if nobody woke it before its deadline.
    pub fn resume(&mut self, kernel: &Kernel) -> Result<(), TimedOut> {
        match kernel.woken_by() {
            Wake::Event => Ok(()),
            Wake::Timeout => {
                self.0.remove(kernel.running());
                Err(TimedOut)
            }
        }
    }

    /// Wakes the most urgent of the tasks; returns which.
    pub fn wake(&mut self, kernel: &mut Kernel) -> Option<Priority> {
        loop {
            let p = kernel.most_urgent(self.0)?;
            self.0.remove(p);
            if kernel.wake(p) {
                return Some(p);
            }
        }
    }

    /// Wakes the tasks for which `condition` holds, the most urgent first.
    pub fn wake_if(&mut self, kernel: &mut Kernel, mut condition: impl FnMut(&mut Kernel, Priority) -> bool) {
        for p in self.0.iter() {
            if kernel.is_blocked(p) && condition(kernel, p) {
                self.0.remove(p);
                kernel.wake(p);
            }
        }
    }

    /// The tasks.
    pub fn set(&self) -> PrioritySet {
        self.0
    }
}

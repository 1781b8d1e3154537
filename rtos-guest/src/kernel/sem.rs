//! The counting semaphore.

use super::Kernel;
use super::wait::{Outcome, TimedOut, Waiters};

/// A semaphore's state: units that nobody has taken, or tasks that wait for one.
///
/// A unit that is given while tasks wait passes to the most urgent of them at once, so that no other task can come in
/// between.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    count: u32,
    limit: u32,
    waiters: Waiters,
}

impl Counter {
    /// A semaphore with `count` units, that holds `limit` at most.
    pub const fn new(count: u32, limit: u32) -> Self {
        Self { count, limit, waiters: Waiters::new() }
    }

    /// Takes a unit if there is one.
    pub fn try_take(&mut self) -> bool {
        let there = self.count > 0;
        self.count -= u32::from(there);
        there
    }

    /// Takes a unit for the running task, or makes it wait for one, at the longest until `deadline` (counter ticks).
    pub fn take(&mut self, kernel: &mut Kernel, deadline: Option<u64>) -> Outcome {
        if self.try_take() {
            return Outcome::Got(());
        }
        self.waiters.wait(kernel, deadline);
        Outcome::Waits
    }

    /// Ends the running task's wait.
    ///
    /// # Errors
    /// [`TimedOut`] if no unit was given in time.
    pub fn resume(&mut self, kernel: &Kernel) -> Result<(), TimedOut> {
        self.waiters.resume(kernel)
    }

    /// Gives a unit: to the most urgent task that waits, else to whoever takes it later. One above the limit is lost.
    pub fn give(&mut self, kernel: &mut Kernel) {
        if self.waiters.wake(kernel).is_none() {
            self.count = self.limit.min(self.count.saturating_add(1));
        }
    }
}

//! The counting semaphore, from which everything that waits is made.

use super::task::Wake;
use super::{Kernel, PrioritySet};

/// The deadline of a wait has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// What became of a [`Counter::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// A unit was there and is taken.
    Taken,
    /// The task waits; it calls [`Counter::resume`] when it runs again.
    Waiting,
}

/// A semaphore's state: units that nobody has taken, or tasks that wait for one.
///
/// A unit that is given while tasks wait passes to the most urgent of them at once, so that no other task can come in
/// between. A task whose wait times out stays in `waiters` until it runs and [`resume`](Counter::resume)s; until then
/// [`give`](Counter::give) sees that it no longer waits and passes it over. So the kernel need not know for what a
/// task waits.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    count: u32,
    waiters: PrioritySet,
}

impl Counter {
    /// A semaphore with `count` units.
    pub const fn new(count: u32) -> Self {
        Self { count, waiters: PrioritySet::new() }
    }

    /// Takes a unit if there is one.
    pub fn try_take(&mut self) -> bool {
        let there = self.count > 0;
        self.count -= u32::from(there);
        there
    }

    /// Takes a unit for the running task, or makes it wait for one, at the longest until `deadline` (counter ticks).
    pub fn take(&mut self, kernel: &mut Kernel, deadline: Option<u64>) -> Take {
        if self.try_take() {
            return Take::Taken;
        }
        kernel.block(deadline);
        self.waiters.insert(kernel.running());
        Take::Waiting
    }

    /// Ends the running task's wait.
    ///
    /// # Errors
    /// [`TimedOut`] if no unit was given in time.
    pub fn resume(&mut self, kernel: &Kernel) -> Result<(), TimedOut> {
        match kernel.woken_by() {
            Wake::Event => Ok(()),
            Wake::Timeout => {
                self.waiters.remove(kernel.running());
                Err(TimedOut)
            }
        }
    }

    /// Gives a unit: to the most urgent task that waits, else to whoever takes it later.
    ///
    /// # Panics
    /// If 2³² − 1 units are there already.
    pub fn give(&mut self, kernel: &mut Kernel) {
        while let Some(p) = self.waiters.pop() {
            if kernel.wake(p) {
                return;
            }
        }
        self.count = self.count.checked_add(1).expect("semaphore overflow");
    }
}

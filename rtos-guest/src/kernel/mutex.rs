//! The mutex with priority inheritance.

use super::wait::{Outcome, TimedOut, Waiters};
use super::{Deadlock, Kernel, Priority};

/// A mutex's state: who has locked it, and who waits for it to be unlocked. While they wait, the owner competes with
/// their priorities as well as its own ([`Kernel::block_on`]).
///
/// It passes to the most urgent waiter at once when it is unlocked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lock {
    owner: Option<Priority>,
    waiters: Waiters,
}

impl Lock {
    /// Unlocked.
    pub const fn new() -> Self {
        Self { owner: None, waiters: Waiters::new() }
    }

    /// The task that has locked it.
    pub const fn owner(&self) -> Option<Priority> {
        self.owner
    }

    /// Locks it for the running task if it is unlocked.
    pub fn try_lock(&mut self, kernel: &Kernel) -> bool {
        let free = self.owner.is_none();
        if free {
            self.owner = Some(kernel.running());
        }
        free
    }

    /// Locks it for the running task, or makes that wait for it, at the longest until `deadline` (counter ticks).
    ///
    /// # Errors
    /// [`Deadlock`] if the owner waits, directly or through others, for the running task.
    pub fn lock(&mut self, kernel: &mut Kernel, deadline: Option<u64>) -> Result<Outcome, Deadlock> {
        match self.owner {
            None => {
                self.owner = Some(kernel.running());
                Ok(Outcome::Got(()))
            }
            Some(owner) => {
                kernel.block_on(owner, deadline)?;
                self.waiters.insert(kernel);
                Ok(Outcome::Waits)
            }
        }
    }

    /// Ends the running task's wait.
    ///
    /// # Errors
    /// [`TimedOut`] if it was not unlocked in time.
    pub fn resume(&mut self, kernel: &Kernel) -> Result<(), TimedOut> {
        self.waiters.resume(kernel)
    }

    /// Unlocks it; of the tasks that wait the most urgent is the next owner.
    ///
    /// # Panics
    /// Unless the running task has locked it.
    pub fn unlock(&mut self, kernel: &mut Kernel) {
        assert!(self.owner == Some(kernel.running()), "a mutex is unlocked by the task that locked it");
        self.owner = self.waiters.wake(kernel);
        if let Some(owner) = self.owner {
            kernel.follow(self.waiters.set(), owner);
        }
    }
}

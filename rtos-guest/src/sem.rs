//! Semaphores: counting events and guarding resources, between tasks and from interrupts to tasks.

use core::cell::RefCell;

use critical_section::Mutex;

use crate::kernel::{self, sem::Counter, wait::Outcome};
use crate::time::{self, Duration, Instant};

pub use crate::kernel::wait::TimedOut;

/// A counting semaphore. A unit that is given goes to the most urgent of the waiting tasks, at once.
///
/// ```
/// use mobi_rtos::Semaphore;
/// static SAMPLE_READY: Semaphore = Semaphore::new(0);
///
/// SAMPLE_READY.give(); // in the interrupt handler
/// SAMPLE_READY.take(); // in the task
/// ```
#[derive(Debug)]
pub struct Semaphore {
    counter: Mutex<RefCell<Counter>>,
}

impl Semaphore {
    /// A semaphore with `count` units in it.
    pub const fn new(count: u32) -> Self {
        Self::with_limit(count, u32::MAX)
    }

    /// An empty semaphore that holds one unit at most: what happened, not how often.
    pub const fn binary() -> Self {
        Self::with_limit(0, 1)
    }

    /// A semaphore with `count` units in it that holds `limit` at most.
    pub const fn with_limit(count: u32, limit: u32) -> Self {
        assert!(count <= limit, "more units than the limit");
        Self { counter: Mutex::new(RefCell::new(Counter::new(count, limit))) }
    }

    /// Gives a unit; one above the limit is lost. Allowed everywhere; a task that it wakes runs before this returns if it
    /// is more urgent than the caller (from an interrupt handler or a critical section: at its end).
    pub fn give(&self) {
        kernel::with(|kernel, cs| self.counter.borrow_ref_mut(cs).give(kernel));
    }

    /// Takes a unit if there is one. Allowed everywhere.
    pub fn try_take(&self) -> bool {
        critical_section::with(|cs| self.counter.borrow_ref_mut(cs).try_take())
    }

    /// Takes a unit, waiting for it as long as it takes.
    ///
    /// # Panics
    /// If it would wait and the caller is no task with interrupts open.
    pub fn take(&self) {
        // Without a deadline there is no time-out.
        let _ = self.take_by(None);
    }

    /// Takes a unit, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none until then.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    pub fn take_until(&self, deadline: Instant) -> Result<(), TimedOut> {
        self.take_by(Some(time::clock().ticks(deadline)))
    }

    /// Takes a unit, waiting for it at most `timeout`.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none until then.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    pub fn take_timeout(&self, timeout: Duration) -> Result<(), TimedOut> {
        self.take_until(time::now() + timeout)
    }

    /// Takes a unit, waiting for it until the tick `deadline`.
    pub(crate) fn take_by(&self, deadline: Option<u64>) -> Result<(), TimedOut> {
        match kernel::with(|kernel, cs| self.counter.borrow_ref_mut(cs).take(kernel, deadline)) {
            Outcome::Got(()) => Ok(()),
            Outcome::Waits => {
                kernel::assert_waited();
                kernel::with(|kernel, cs| self.counter.borrow_ref_mut(cs).resume(kernel))
            }
        }
    }
}

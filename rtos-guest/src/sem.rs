//! Semaphores: counting events and guarding resources, between tasks and from interrupts to tasks.

use core::cell::RefCell;

use critical_section::Mutex;

use crate::kernel::{
    self,
    sem::{Counter, Take},
};
use crate::time::{self, Duration, Instant};

pub use crate::kernel::sem::TimedOut;

/// A counting semaphore. The most urgent of the waiting tasks gets a unit first; see [`Counter`] for the order of events.
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
        Self { counter: Mutex::new(RefCell::new(Counter::new(count))) }
    }

    /// Gives a unit. Allowed everywhere; a task that it wakes runs before this returns if it is more urgent than the
    /// caller (from an interrupt handler or a critical section: at its end).
    ///
    /// # Panics
    /// If 2³² − 1 units are in it.
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

    fn take_by(&self, deadline: Option<u64>) -> Result<(), TimedOut> {
        match kernel::with(|kernel, cs| self.counter.borrow_ref_mut(cs).take(kernel, deadline)) {
            Take::Taken => Ok(()),
            Take::Waiting => kernel::with(|kernel, cs| self.counter.borrow_ref_mut(cs).resume(kernel)),
        }
    }
}

//! Event flags: a task waits for any or for all of several events.

use core::cell::RefCell;

use critical_section::Mutex;

use crate::kernel::{self, flags::FlagGroup, flags::Wanted, wait::Outcome};
use crate::sem::TimedOut;
use crate::time::{self, Duration, Instant};

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(Wanted);

impl Events {
    /// At least one of the flags in `mask`.
    pub const fn any(mask: u32) -> Self {
        assert!(mask != 0, "a wait for no flag has no end");
        Self(Wanted { mask, all: false, clear: false })
    }

    /// All flags in `mask`.
    pub const fn all(mask: u32) -> Self {
        Self(Wanted { mask, all: true, clear: false })
    }

    /// The flags that the wait ended with are cleared then.
    pub const fn clear_on_exit(self) -> Self {
        Self(Wanted { clear: true, ..self.0 })
    }
}

/// A group of 32 flags.
///
/// A flag that is set ends the wait of every task that it satisfies; if some of them asked for it to be cleared, it is
/// cleared after all of them have got it.
///
/// ```
/// use mobi_rtos::flags::{Events, Flags};
/// static FLAGS: Flags = Flags::new();
/// const PRESSED: u32 = 1 << 0;
/// const RELEASED: u32 = 1 << 1;
///
/// FLAGS.set(PRESSED); // in the interrupt handler
/// assert_eq!(FLAGS.wait(Events::any(PRESSED | RELEASED).clear_on_exit()), PRESSED); // in the task
/// assert_eq!(FLAGS.get(), 0);
/// ```
#[derive(Debug)]
pub struct Flags {
    group: Mutex<RefCell<FlagGroup>>,
}

impl Flags {
    /// No flag is set.
    pub const fn new() -> Self {
        Self { group: Mutex::new(RefCell::new(FlagGroup::new(0))) }
    }

    /// The flags that are set.
    pub fn get(&self) -> u32 {
        critical_section::with(|cs| self.group.borrow_ref(cs).get())
    }

    /// Sets flags. Allowed everywhere; a task that it wakes runs before this returns if it is more urgent than the caller
    /// (from an interrupt handler or a critical section: at its end).
    pub fn set(&self, flags: u32) {
        kernel::with(|kernel, cs| self.group.borrow_ref_mut(cs).set(kernel, flags));
    }

    /// Clears flags. Allowed everywhere.
    pub fn clear(&self, flags: u32) {
        critical_section::with(|cs| self.group.borrow_ref_mut(cs).clear(flags));
    }

    /// Which of the flags are set, if that is what was asked for. Allowed everywhere.
    pub fn poll(&self, events: Events) -> Option<u32> {
        critical_section::with(|cs| self.group.borrow_ref_mut(cs).poll(events.0))
    }

    /// Waits for flags as long as it takes; returns which of those asked for were set.
    ///
    /// # Panics
    /// If it would wait and the caller is no task with interrupts open.
    pub fn wait(&self, events: Events) -> u32 {
        // Without a deadline there is no time-out.
        self.wait_by(events, None).unwrap_or_default()
    }

    /// Waits for flags until `deadline`; returns which of those asked for were set.
    ///
    /// # Errors
    /// [`TimedOut`] if they were not until then.
    ///
    /// # Panics
    /// As [`wait`](Self::wait).
    pub fn wait_until(&self, events: Events, deadline: Instant) -> Result<u32, TimedOut> {
        self.wait_by(events, Some(time::clock().ticks(deadline)))
    }

    /// Waits for flags at most `timeout`; returns which of those asked for were set.
    ///
    /// # Errors
    /// [`TimedOut`] if they were not until then.
    ///
    /// # Panics
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, events: Events, timeout: Duration) -> Result<u32, TimedOut> {
        self.wait_until(events, time::now() + timeout)
    }

    fn wait_by(&self, events: Events, deadline: Option<u64>) -> Result<u32, TimedOut> {
        match kernel::with(|kernel, cs| self.group.borrow_ref_mut(cs).wait(kernel, events.0, deadline)) {
            Outcome::Got(flags) => Ok(flags),
            Outcome::Waits => {
                kernel::assert_waited();
                kernel::with(|kernel, cs| self.group.borrow_ref_mut(cs).resume(kernel))
            }
        }
    }
}

impl Default for Flags {
    fn default() -> Self {
        Self::new()
    }
}

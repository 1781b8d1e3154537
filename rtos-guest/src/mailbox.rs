//! Mailboxes: the latest message.

use core::cell::RefCell;

use critical_section::Mutex;

use crate::sem::{Semaphore, TimedOut};
use crate::time::{Duration, Instant};

/// A place for one message of type `T`. [`post`](Self::post) replaces what nobody has fetched yet: whoever fetches gets
/// the latest, and the sender never waits. (For a sender that must not overwrite there is [`try_post`](Self::try_post);
/// for one that waits, a [`Queue`](crate::Queue).)
///
/// ```
/// use mobi_rtos::Mailbox;
/// static SETPOINT: Mailbox<i32> = Mailbox::new();
///
/// assert_eq!(SETPOINT.post(1), None);
/// assert_eq!(SETPOINT.post(2), Some(1)); // which nobody wanted
/// assert_eq!(SETPOINT.fetch(), 2);
/// ```
#[derive(Debug)]
pub struct Mailbox<T> {
    message: Mutex<RefCell<Option<T>>>,
    /// The message, if no receiver has claimed it.
    filled: Semaphore,
}

impl<T: Send> Mailbox<T> {
    /// An empty mailbox.
    pub const fn new() -> Self {
        Self { message: Mutex::new(RefCell::new(None)), filled: Semaphore::new(0) }
    }

    /// Puts a message in; returns the one that it replaces. Allowed everywhere.
    pub fn post(&self, message: T) -> Option<T> {
        let old = critical_section::with(|cs| self.message.borrow(cs).replace(Some(message)));
        if old.is_none() {
            self.filled.give();
        }
        old
    }

    /// Puts a message in if the mailbox is empty. Allowed everywhere.
    ///
    /// # Errors
    /// The message, if it is not.
    pub fn try_post(&self, message: T) -> Result<(), T> {
        critical_section::with(|cs| {
            let mut place = self.message.borrow_ref_mut(cs);
            if place.is_some() {
                return Err(message);
            }
            *place = Some(message);
            self.filled.give();
            Ok(())
        })
    }

    /// Takes the message out, waiting for one.
    ///
    /// # Panics
    /// As [`Semaphore::take`], if it would wait.
    pub fn fetch(&self) -> T {
        self.filled.take();
        self.take()
    }

    /// Takes the message out if there is one. Allowed everywhere.
    pub fn try_fetch(&self) -> Option<T> {
        self.filled.try_take().then(|| self.take())
    }

    /// Takes the message out, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none until then.
    ///
    /// # Panics
    /// As [`fetch`](Self::fetch).
    pub fn fetch_until(&self, deadline: Instant) -> Result<T, TimedOut> {
        self.filled.take_until(deadline)?;
        Ok(self.take())
    }

    /// Takes the message out, waiting for one at most `timeout`.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none until then.
    ///
    /// # Panics
    /// As [`fetch`](Self::fetch).
    pub fn fetch_timeout(&self, timeout: Duration) -> Result<T, TimedOut> {
        self.filled.take_timeout(timeout)?;
        Ok(self.take())
    }

    /// The caller has claimed the message.
    fn take(&self) -> T {
        let message = critical_section::with(|cs| self.message.borrow_ref_mut(cs).take());
        message.expect("a claimed message is there")
    }
}

impl<T: Send> Default for Mailbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

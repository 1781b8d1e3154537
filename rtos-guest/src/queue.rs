//! Message queues.

use core::cell::RefCell;

use critical_section::Mutex;
use heapless::Deque;

use crate::sem::{Semaphore, TimedOut};
use crate::time::{self, Duration, Instant};

/// A queue of up to `N` messages of type `T`, first in first out, from any number of senders (tasks and interrupt
/// handlers) to any number of receivers. A full queue makes the sender wait, an empty one the receiver; of several
/// that wait the most urgent goes first.
///
/// ```
/// use mobi_rtos::Queue;
/// static SAMPLES: Queue<u16, 8> = Queue::new();
///
/// assert_eq!(SAMPLES.try_send(7), Ok(()));
/// assert_eq!(SAMPLES.receive(), 7);
/// ```
#[derive(Debug)]
pub struct Queue<T, const N: usize> {
    messages: Mutex<RefCell<Deque<T, N>>>,
    /// Messages that no receiver has claimed.
    filled: Semaphore,
    /// Places that no sender has claimed.
    free: Semaphore,
}

impl<T: Send, const N: usize> Queue<T, N> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            messages: Mutex::new(RefCell::new(Deque::new())),
            filled: Semaphore::new(0),
            free: Semaphore::new(N as u32),
        }
    }

    /// Sends a message, waiting for a place.
    ///
    /// # Panics
    /// As [`Semaphore::take`], if it would wait.
    pub fn send(&self, message: T) {
        self.free.take();
        self.push(message);
    }

    /// Sends a message if there is a place. Allowed everywhere.
    ///
    /// # Errors
    /// The message, if the queue is full.
    pub fn try_send(&self, message: T) -> Result<(), T> {
        if !self.free.try_take() {
            return Err(message);
        }
        self.push(message);
        Ok(())
    }

    /// Sends a message, waiting for a place at most `timeout`.
    ///
    /// # Errors
    /// The message, if there was no place until then.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    pub fn send_timeout(&self, message: T, timeout: Duration) -> Result<(), T> {
        if self.free.take_timeout(timeout).is_err() {
            return Err(message);
        }
        self.push(message);
        Ok(())
    }

    /// Receives the oldest message, waiting for one.
    ///
    /// # Panics
    /// As [`Semaphore::take`], if it would wait.
    pub fn receive(&self) -> T {
        self.filled.take();
        self.pop()
    }

    /// Receives the oldest message if there is one. Allowed everywhere.
    pub fn try_receive(&self) -> Option<T> {
        self.filled.try_take().then(|| self.pop())
    }

    /// Receives the oldest message, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none until then.
    ///
    /// # Panics
    /// As [`receive`](Self::receive).
    pub fn receive_until(&self, deadline: Instant) -> Result<T, TimedOut> {
        self.filled.take_until(deadline)?;
        Ok(self.pop())
    }

    /// Receives the oldest message, waiting for one at most `timeout`.
    ///
    /// # Errors
    /// [`TimedOut`] if there was none until then.
    ///
    /// # Panics
    /// As [`receive`](Self::receive).
    pub fn receive_timeout(&self, timeout: Duration) -> Result<T, TimedOut> {
        self.receive_until(time::now() + timeout)
    }

    /// The caller has claimed a place.
    fn push(&self, message: T) {
        let pushed = critical_section::with(|cs| self.messages.borrow_ref_mut(cs).push_back(message));
        assert!(pushed.is_ok(), "a claimed place is free");
        self.filled.give();
    }

    /// The caller has claimed a message.
    fn pop(&self) -> T {
        let message = critical_section::with(|cs| self.messages.borrow_ref_mut(cs).pop_front());
        self.free.give();
        message.expect("a claimed message is there")
    }
}

impl<T: Send, const N: usize> Default for Queue<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

//! Data that tasks share, behind a lock with priority inheritance.

use core::cell::RefCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::kernel::{self, mutex::Lock, wait::Outcome};
use crate::sem::TimedOut;
use crate::time::{self, Duration, Instant};

/// Why a mutex is not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// Its owner did not unlock it in time.
    TimedOut,
    /// Its owner waits for the caller, or is the caller.
    Deadlock,
}

impl From<TimedOut> for LockError {
    fn from(_: TimedOut) -> Self {
        Self::TimedOut
    }
}

/// A value that one task at a time can use. While tasks wait for it, its owner is at least as urgent as they are, also
/// through further mutexes: an urgent task waits for a less urgent one's use of the value, and for nothing in between.
///
/// For tasks only: interrupt handlers share data with tasks through semaphores, queues, flags, or a critical section.
///
/// ```
/// use mobi_rtos::{Mutex, Priority, Task};
/// static TOTAL: Mutex<u64> = Mutex::new(0);
/// static COUNT: Task<4096> = Task::new();
///
/// # mobi_rtos::host::run(|| {
/// COUNT.spawn("count", Priority::new(3), || *TOTAL.lock() += 1).unwrap();
/// # });
/// ```
pub struct Mutex<T: ?Sized> {
    lock: critical_section::Mutex<RefCell<Lock>>,
    /// Never contended: it is the proof, without `unsafe`, that who has `lock` is alone with the value.
    value: spin::Mutex<T>,
}

/// A locked [`Mutex`]; unlocks it when it goes out of scope.
///
/// It belongs to the task that locked the mutex and cannot be sent to another one:
/// ```compile_fail
/// fn send(_: impl Send) {}
/// static M: mobi_rtos::Mutex<u8> = mobi_rtos::Mutex::new(0);
/// send(M.lock());
/// ```
pub struct MutexGuard<'a, T: ?Sized> {
    // Dropped in this order: the value is free before another task can lock the mutex.
    value: spin::MutexGuard<'a, T>,
    _unlock: Unlock<'a>,
}

/// Unlocks the mutex when it is dropped, by the task that locked it: not `Send`.
struct Unlock<'a>(&'a critical_section::Mutex<RefCell<Lock>>, PhantomData<*const ()>);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        kernel::with(|kernel, cs| self.0.borrow_ref_mut(cs).unlock(kernel));
    }
}

impl<T> Mutex<T> {
    /// A value that nobody has locked.
    pub const fn new(value: T) -> Self {
        Self { lock: critical_section::Mutex::new(RefCell::new(Lock::new())), value: spin::Mutex::new(value) }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks it, waiting as long as it takes.
    ///
    /// # Panics
    /// If it would wait and the caller is no task with interrupts open, or if that would be a deadlock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.lock_by(None) {
            Ok(guard) => guard,
            Err(_) => panic!("deadlock: the owner of a mutex waits for this task, or is this task"),
        }
    }

    /// Locks it if nobody else has.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        kernel::with(|kernel, cs| self.lock.borrow_ref_mut(cs).try_lock(kernel)).then(|| self.guard())
    }

    /// Locks it, waiting until `deadline`.
    ///
    /// # Errors
    /// [`LockError`] if its owner did not unlock it until then, or cannot.
    ///
    /// # Panics
    /// If it would wait and the caller is no task with interrupts open.
    pub fn lock_until(&self, deadline: Instant) -> Result<MutexGuard<'_, T>, LockError> {
        self.lock_by(Some(time::clock().ticks(deadline)))
    }

    /// Locks it, waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`lock_until`](Self::lock_until).
    ///
    /// # Panics
    /// As [`lock_until`](Self::lock_until).
    pub fn lock_timeout(&self, timeout: Duration) -> Result<MutexGuard<'_, T>, LockError> {
        self.lock_until(time::now() + timeout)
    }

    fn lock_by(&self, deadline: Option<u64>) -> Result<MutexGuard<'_, T>, LockError> {
        match kernel::with(|kernel, cs| self.lock.borrow_ref_mut(cs).lock(kernel, deadline)) {
            Ok(Outcome::Got(())) => {}
            Ok(Outcome::Waits) => {
                kernel::assert_waited();
                kernel::with(|kernel, cs| self.lock.borrow_ref_mut(cs).resume(kernel))?;
            }
            Err(kernel::Deadlock) => return Err(LockError::Deadlock),
        }
        Ok(self.guard())
    }

    fn guard(&self) -> MutexGuard<'_, T> {
        let unlock = Unlock(&self.lock, PhantomData);
        let value = self.value.try_lock().expect("the owner of the lock is alone");
        MutexGuard { value, _unlock: unlock }
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = critical_section::with(|cs| *self.lock.borrow_ref(cs));
        f.debug_struct("Mutex").field("lock", &lock).finish_non_exhaustive()
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

//! Tasks.

use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;

use critical_section::Mutex;

use crate::port;

pub use crate::kernel::Priority;

/// Why a task could not be spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// Another task has this priority.
    PriorityInUse,
    /// This [`Task`] was spawned before.
    TaskInUse,
}

/// A task's memory: a stack of `STACK` bytes. Interrupts have a stack of their own, so that a task needs room for its
/// own calls and 272 bytes for its registers.
///
/// ```
/// use mobi_rtos::{Priority, Task};
/// static BLINK: Task<4096> = Task::new();
///
/// # mobi_rtos::host::run(|| {
/// BLINK.spawn(Priority::new(10), || { /* ... */ }).unwrap();
/// # });
/// ```
#[repr(C, align(16))]
pub struct Task<const STACK: usize> {
    stack: UnsafeCell<[MaybeUninit<u8>; STACK]>,
    spawned: Mutex<Cell<bool>>,
}

// SAFETY: `claim_stack` hands the stack out once, guarded by `spawned`; nothing else touches it.
unsafe impl<const STACK: usize> Sync for Task<STACK> {}

impl<const STACK: usize> Task<STACK> {
    /// A task that does not run yet.
    pub const fn new() -> Self {
        const { assert!(STACK >= 1024, "a stack has at least 1024 bytes") };
        Self { stack: UnsafeCell::new([MaybeUninit::uninit(); STACK]), spawned: Mutex::new(Cell::new(false)) }
    }

    /// Starts to run `entry`, which is moved onto the stack, as the task of this priority: at once if that is the most
    /// urgent, or when the scheduler starts. The task ends when `entry` returns.
    ///
    /// # Errors
    /// [`SpawnError`] if the priority or this stack is taken.
    ///
    /// # Panics
    /// If `entry` leaves less than 512 bytes of the stack.
    pub fn spawn(
        &'static self,
        priority: Priority,
        entry: impl FnOnce() + Send + 'static,
    ) -> Result<(), SpawnError> {
        let stack = self.claim_stack().ok_or(SpawnError::TaskInUse)?;
        port::spawn(stack, priority, entry).map_err(|_| SpawnError::PriorityInUse)
    }

    /// Hands the stack out, once.
    #[expect(clippy::mut_from_ref, reason = "`spawned` makes it the only reference")]
    pub(crate) fn claim_stack(&'static self) -> Option<&'static mut [MaybeUninit<u8>]> {
        if critical_section::with(|cs| self.spawned.borrow(cs).replace(true)) {
            return None;
        }
        // SAFETY: `spawned` was false, so that this is the only reference ever made to the stack.
        Some(unsafe { &mut *self.stack.get() })
    }
}

impl<const STACK: usize> Default for Task<STACK> {
    fn default() -> Self {
        Self::new()
    }
}

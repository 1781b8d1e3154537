//! A task's stack.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Range;

/// The page size: that of the guard below each stack.
pub(crate) const PAGE: usize = 4096;

/// `SIZE` bytes above a page that is never accessible once the stack is in use.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(crate) struct Stack<const SIZE: usize> {
    guard: UnsafeCell<[MaybeUninit<u8>; PAGE]>,
    bytes: UnsafeCell<[MaybeUninit<u8>; SIZE]>,
}

// SAFETY: `claim` makes the only reference to the bytes, as its caller promises; nothing else touches them.
unsafe impl<const SIZE: usize> Sync for Stack<SIZE> {}

impl<const SIZE: usize> Stack<SIZE> {
    pub(crate) const fn new() -> Self {
        const { assert!(SIZE > 0 && SIZE.is_multiple_of(PAGE), "a stack is a multiple of 4096 bytes") };
        Self {
            guard: UnsafeCell::new([MaybeUninit::uninit(); PAGE]),
            bytes: UnsafeCell::new([MaybeUninit::uninit(); SIZE]),
        }
    }

    /// The stack's addresses; the guard page is below.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.bytes.get().addr();
        start..start + SIZE
    }

    /// The stack's memory.
    ///
    /// # Safety
    /// No task uses the stack, and none but the caller's is going to while the caller's is alive.
    #[cfg(target_os = "none")]
    #[expect(clippy::mut_from_ref, reason = "the caller promises that it is the only reference")]
    pub(super) unsafe fn claim(&'static self) -> &'static mut [MaybeUninit<u8>] {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.bytes.get() }
    }
}

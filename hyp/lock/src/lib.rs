//! EL2's lock: first come, first served, and what a CPU does while it waits for one.
#![cfg_attr(not(test), no_std)]

/// Holds a [`TicketMutex`].
pub type TicketMutexGuard<'a, T> = spin::mutex::TicketMutexGuard<'a, T, Yield>;

/// A FIFO lock. It is taken with interrupts masked (docs/architecture.md, "Locks").
pub type TicketMutex<T> = spin::mutex::TicketMutex<T, Yield>;

/// Waits with YIELD. `core::hint::spin_loop` is an ISB, which costs a pipeline flush, and does not tell an emulator that
/// emulates all CPUs in one thread to turn to the one that holds the lock: it spins for milliseconds of virtual time.
pub struct Yield;

impl spin::RelaxStrategy for Yield {
    #[inline]
    fn relax() {
        relax();
    }
}

/// A hint in a loop that waits for another CPU.
#[inline]
pub fn relax() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, which changes no state (Arm ARM, YIELD).
    unsafe {
        core::arch::asm!("yield", options(nomem, nostack, preserves_flags))
    };
    #[cfg(not(target_arch = "aarch64"))]
    core::hint::spin_loop();
}

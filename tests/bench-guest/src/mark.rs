//! Marks that the QEMU plugin sees: `movz xzr, #id` does nothing, on every hypervisor.

use core::arch::asm;

/// Just before what is measured.
pub const BEGIN: u16 = 1;
/// Just after it.
pub const END: u16 = 2;
/// The first instruction of the interrupt vector.
pub const INTERRUPT: u16 = 3;
/// The first and the last instruction of a task's job, with its release and its deadline.
pub const JOB_BEGIN: u16 = 0x100;
pub const JOB_END: u16 = 0x101;
/// What follows is measured, and its steps at EL2 are recorded; and the end of that.
pub const ON: u16 = 0xfff0;
pub const OFF: u16 = 0xfff1;
/// All is done.
pub const DONE: u16 = 0xffff;

/// Executes the mark `ID` with a value in x0.
#[inline(always)]
pub fn mark<const ID: u16>(value: u64) {
    // SAFETY: a move to the zero register.
    unsafe { asm!("movz xzr, #{id}", id = const ID, in("x0") value, options(nostack, preserves_flags)) };
}

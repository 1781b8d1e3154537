//! Device registers.

use core::arch::asm;

/// Reads a 32-bit register. The instruction has a syndrome (ISV), as a hypervisor needs it.
#[inline(always)]
pub fn read(at: usize) -> u32 {
    let value: u32;
    // SAFETY: the address of a device register from the device tree; reading it has no effect on memory.
    unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) at, options(nostack, preserves_flags)) };
    value
}

/// Writes a 32-bit register.
#[inline(always)]
pub fn write(at: usize, value: u32) {
    // SAFETY: the address of a device register from the device tree; no device here accesses memory.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) at, options(nostack, preserves_flags)) };
}

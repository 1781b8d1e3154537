//! Per-CPU data and the few instructions that concern one CPU as a whole.

use core::arch::asm;
use core::cell::UnsafeCell;

use aarch64_cpu::registers::{MIDR_EL1, MPIDR_EL1, Readable, TPIDR_EL2};

use crate::MAX_CPUS;

/// What the vectors find through TPIDR_EL2.
#[repr(C, align(64))]
pub(crate) struct CpuLocal {
    /// The EL2 stack pointer to come back to from a guest or a work item.
    pub(crate) host_sp: UnsafeCell<u64>,
    /// The stack pointer of the preempted work item.
    pub(crate) work_sp: UnsafeCell<u64>,
    /// This CPU's index.
    pub(crate) index: UnsafeCell<usize>,
    /// Where a fatal exception puts its registers: x0 to x30, SP.
    pub(crate) crash: UnsafeCell<[u64; 32]>,
}

// SAFETY: each CPU touches only the element of its own index, with interrupts masked.
unsafe impl Sync for CpuLocal {}

pub(crate) static LOCALS: [CpuLocal; MAX_CPUS] = [const {
    CpuLocal {
        host_sp: UnsafeCell::new(0),
        work_sp: UnsafeCell::new(0),
        index: UnsafeCell::new(0),
        crash: UnsafeCell::new([0; 32]),
    }
}; MAX_CPUS];

pub(crate) fn local() -> &'static CpuLocal {
    // boot.S set the register to this CPU's element, and nothing changes it.
    let index = (TPIDR_EL2.get() as usize - LOCALS.as_ptr() as usize) / size_of::<CpuLocal>();
    &LOCALS[index]
}

/// This CPU's index, as given to the program's entry.
pub fn index() -> usize {
    (core::ptr::from_ref(local()) as usize - LOCALS.as_ptr() as usize) / size_of::<CpuLocal>()
}

/// This CPU's affinity: MPIDR_EL1 without its flags.
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// MIDR_EL1: implementer, part and revision.
pub fn midr() -> u64 {
    MIDR_EL1.get()
}

/// Sleeps until an interrupt is pending for this CPU, masked or not (Arm ARM, "WFI wakeup events").
pub fn wait_for_interrupt() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    aarch64_cpu::asm::wfi();
}

pub use lock::relax;

/// Sleeps for ever with interrupts masked.
pub fn park() -> ! {
    loop {
        // SAFETY: masks interrupts on this CPU, which does nothing any more.
        unsafe { asm!("msr daifset, #0xf", options(nomem, nostack)) };
        aarch64_cpu::asm::wfi();
    }
}

/// Whether an interrupt is pending for this CPU at this moment (ISR_EL1.I).
pub fn interrupt_pending() -> bool {
    let isr: u64;
    // SAFETY: reads a status register.
    unsafe { asm!("mrs {}, isr_el1", out(reg) isr, options(nomem, nostack, preserves_flags)) };
    isr & (1 << 7) != 0
}

/// Runs `f` with interrupts masked, as every lock needs it, and restores the mask.
pub fn masked<R>(f: impl FnOnce() -> R) -> R {
    let daif: u64;
    // SAFETY: masking interrupts is always sound; without `nomem` the compiler moves no access of `f` out of the section.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags)) };
    let result = f();
    // SAFETY: puts back what was there.
    unsafe { asm!("msr daif, {}", in(reg) daif, options(nostack)) };
    result
}

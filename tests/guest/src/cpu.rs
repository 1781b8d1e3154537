//! Start, exceptions, PSCI, time: what the checks need of a vCPU.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::{checks, gic};

/// The most vCPUs that take part.
pub const MAX_CPUS: usize = 8;

global_asm!(
    r#"
        .section .text.start, "ax"
        .global _start
_start: mov     x19, #0
start:  adrp    x0, {TABLE}
        add     x0, x0, :lo12:{TABLE}
        mov     x1, #0xff00
        msr     mair_el1, x1                    // 0: device, 1: normal write-back
        ldr     x1, =0x280803520                // 4 KiB granule, 32-bit VA, walks write-back inner shareable, 40-bit PA, TTBR1 off
        msr     tcr_el1, x1
        msr     ttbr0_el1, x0
        dsb     sy
        isb
        mrs     x1, sctlr_el1
        mov     x2, #0x1005
        orr     x1, x1, x2
        msr     sctlr_el1, x1
        isb
        adrp    x1, vectors
        add     x1, x1, :lo12:vectors
        msr     vbar_el1, x1
        adrp    x1, {STACKS}
        add     x1, x1, :lo12:{STACKS}
        add     x2, x19, #1
        add     x1, x1, x2, lsl #14
        mov     sp, x1
        mov     x0, x19
        b       {RUN}

        .global secondary_start
secondary_start:
        mov     x19, x0
        b       start

        .balign 0x800
vectors:
        .rept   4
        .balign 0x80
        b       unexpected
        .endr
        .balign 0x80
        b       on_sync
        .balign 0x80
        b       on_irq
        .rept   10
        .balign 0x80
        b       unexpected
        .endr

        .macro  save
        sub     sp, sp, #192
        stp     x0, x1, [sp]
        stp     x2, x3, [sp, #16]
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x29, [sp, #144]
        mrs     x0, elr_el1
        mrs     x1, spsr_el1
        stp     x30, x0, [sp, #160]
        str     x1, [sp, #176]
        .endm
        .macro  restore
        ldp     x30, x0, [sp, #160]
        ldr     x1, [sp, #176]
        msr     elr_el1, x0
        msr     spsr_el1, x1
        ldp     x2, x3, [sp, #16]
        ldp     x4, x5, [sp, #32]
        ldp     x6, x7, [sp, #48]
        ldp     x8, x9, [sp, #64]
        ldp     x10, x11, [sp, #80]
        ldp     x12, x13, [sp, #96]
        ldp     x14, x15, [sp, #112]
        ldp     x16, x17, [sp, #128]
        ldp     x18, x29, [sp, #144]
        ldp     x0, x1, [sp]
        add     sp, sp, #192
        eret
        .endm
on_irq: save
        bl      {IRQ}
        restore
on_sync:
        save
        ldp     x1, x0, [sp, #160]
        bl      {SYNC}
        str     x0, [sp, #168]
        restore
unexpected:
        mrs     x0, esr_el1
        mrs     x1, elr_el1
        b       {UNEXPECTED}
    "#,
    TABLE = sym TABLE,
    STACKS = sym STACKS,
    RUN = sym run,
    IRQ = sym irq,
    SYNC = sym sync,
    UNEXPECTED = sym unexpected,
);

unsafe extern "C" {
    fn secondary_start();
}

/// Level 1 of the identity map: GiB 0 devices, GiB 1 RAM.
#[repr(C, align(4096))]
struct Table([u64; 512]);
static TABLE: Table = {
    let mut table = [0; 512];
    table[0] = (1 << 54) | (1 << 10) | 1;
    table[1] = 0x4000_0000 | (3 << 8) | (1 << 10) | (1 << 2) | 1;
    Table(table)
};

#[repr(C, align(16))]
struct Stacks(core::cell::UnsafeCell<[u8; MAX_CPUS << 14]>);
// SAFETY: used through the stack pointers only, a slice a CPU.
unsafe impl Sync for Stacks {}
static STACKS: Stacks = Stacks(core::cell::UnsafeCell::new([0; MAX_CPUS << 14]));

/// How many vCPUs are running.
static ONLINE: AtomicUsize = AtomicUsize::new(0);
/// ESR_EL1 of the last synchronous exception on each vCPU, 0 = none: see [`probe`].
static FAULT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static EXPECTED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

extern "C" fn run(index: usize) -> ! {
    // SAFETY: TPIDR_EL1 is this program's own.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) index, options(nomem, nostack)) };
    gic::init(index);
    set_masked(false);
    ONLINE.fetch_add(1, Ordering::Release);
    if index == 0 {
        let mut next = 1;
        while psci_cpu_on(next as u64, next) == 0 {
            while online() == next {
                core::hint::spin_loop();
            }
            next += 1;
        }
        checks::main()
    }
    checks::secondary(index)
}

extern "C" fn irq() {
    gic::handle(index(), checks::interrupt);
}

/// A synchronous exception: expected ones are recorded and skipped (a faulting fetch returns to its caller).
extern "C" fn sync(elr: u64, lr: u64) -> u64 {
    let esr: u64;
    // SAFETY: reads a syndrome register.
    unsafe { asm!("mrs {}, esr_el1", out(reg) esr, options(nomem, nostack)) };
    if EXPECTED[index()].load(Ordering::Relaxed) == 0 {
        unexpected(esr, elr)
    }
    FAULT[index()].store(esr, Ordering::Relaxed);
    match esr >> 26 {
        0x20 | 0x21 => lr,
        _ => elr + 4,
    }
}

extern "C" fn unexpected(esr: u64, elr: u64) -> ! {
    crate::println!("FAIL unexpected exception ESR {esr:#x} ELR {elr:#x} on vCPU {}", index());
    loop {
        aarch64_cpu::asm::wfi();
    }
}

/// Runs `f` and returns the exception class of the fault that it met, or `None`.
pub fn probe<R>(f: impl FnOnce() -> R) -> Option<u64> {
    let index = index();
    FAULT[index].store(0, Ordering::Relaxed);
    EXPECTED[index].store(1, Ordering::SeqCst);
    f();
    EXPECTED[index].store(0, Ordering::SeqCst);
    match FAULT[index].load(Ordering::Relaxed) {
        0 => None,
        esr => Some(esr >> 26),
    }
}

/// This vCPU's index.
pub fn index() -> usize {
    let index: usize;
    // SAFETY: reads TPIDR_EL1, set in `run`.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) index, options(nomem, nostack, preserves_flags)) };
    index
}

/// How many vCPUs run.
pub fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// Masks or unmasks interrupts.
pub fn set_masked(masked: bool) {
    // SAFETY: the interrupt handlers touch atomics only.
    unsafe {
        if masked {
            asm!("msr daifset, #2", options(nostack));
        } else {
            asm!("msr daifclr, #2", options(nostack));
        }
    }
}

/// A call to the hypervisor by HVC or SMC: x0 to x3, and what comes back in x0.
pub fn call(smc: bool, function: u64, arguments: [u64; 3]) -> i64 {
    let mut x0 = function;
    // SAFETY: SMCCC calls change x0 to x17 at the most, and none that is used here writes to memory.
    unsafe {
        if smc {
            asm!("smc #0", inout("x0") x0, inout("x1") arguments[0] => _, inout("x2") arguments[1] => _,
                inout("x3") arguments[2] => _, clobber_abi("C"));
        } else {
            asm!("hvc #0", inout("x0") x0, inout("x1") arguments[0] => _, inout("x2") arguments[1] => _,
                inout("x3") arguments[2] => _, clobber_abi("C"));
        }
    }
    x0 as i64
}

/// PSCI CPU_ON of the vCPU with this affinity.
pub fn psci_cpu_on(affinity: u64, index: usize) -> i64 {
    call(false, 0xC400_0003, [affinity, secondary_start as *const () as u64, index as u64])
}

/// CNTVCT, after everything before it.
pub fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}

/// Ticks in so many microseconds.
pub fn micros(us: u64) -> u64 {
    use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};
    CNTFRQ_EL0.get() * us / 1_000_000
}

/// Arms the virtual (or physical) timer for a counter value; `None` turns it off.
pub fn arm(physical: bool, at: Option<u64>) {
    let control = u64::from(at.is_some());
    let at = at.unwrap_or(0);
    // SAFETY: this vCPU's timers.
    unsafe {
        if physical {
            asm!("msr cntp_cval_el0, {}", "msr cntp_ctl_el0, {}", "isb", in(reg) at, in(reg) control, options(nostack));
        } else {
            asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) at, in(reg) control, options(nostack));
        }
    }
}

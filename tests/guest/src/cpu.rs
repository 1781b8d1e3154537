//! Start, exceptions, sleep: what the checks need of a vCPU.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::asm::barrier::{SY, isb};

use crate::{checks, gic, println, psci};

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
        tlbi    vmalle1
        ic      iallu
        mov     x1, #0x300000
        msr     cpacr_el1, x1                   // FP and SIMD do not trap
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
struct Stacks(UnsafeCell<[u8; MAX_CPUS << 14]>);
// SAFETY: used through the stack pointers only, a slice a CPU.
unsafe impl Sync for Stacks {}
static STACKS: Stacks = Stacks(UnsafeCell::new([0; MAX_CPUS << 14]));

/// How many vCPUs are running.
static ONLINE: AtomicUsize = AtomicUsize::new(0);
/// By vCPU: whether a fault is what [`probe`] waits for, and ESR_EL1 and FAR_EL1 of the last one; ESR 0 = none.
static EXPECTED: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static SYNDROME: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static ADDRESS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

extern "C" fn run(index: usize) -> ! {
    // SAFETY: TPIDR_EL1 is this program's own.
    unsafe { asm!("msr tpidr_el1, {}", in(reg) index, options(nomem, nostack)) };
    gic::init(index);
    set_masked(false);
    let job = checks::job_number();
    ONLINE.fetch_add(1, Ordering::Release);
    if index != 0 {
        checks::secondary(index, job)
    }
    for next in 1..MAX_CPUS {
        if start(next) != psci::SUCCESS {
            break;
        }
        while online() <= next {
            relax();
        }
    }
    checks::main()
}

extern "C" fn irq() {
    gic::handle(index(), checks::interrupt);
}

/// A synchronous exception: expected ones are recorded and skipped (a faulting fetch returns to its caller).
extern "C" fn sync(elr: u64, lr: u64) -> u64 {
    let (esr, far): (u64, u64);
    // SAFETY: reads syndrome registers.
    unsafe {
        asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) esr, out(reg) far, options(nomem, nostack))
    };
    let index = index();
    if !EXPECTED[index].load(Ordering::Relaxed) {
        unexpected(esr, elr)
    }
    SYNDROME[index].store(esr, Ordering::Relaxed);
    ADDRESS[index].store(far, Ordering::Relaxed);
    match esr >> 26 {
        INSTRUCTION_ABORT => lr,
        _ => elr + 4,
    }
}

extern "C" fn unexpected(esr: u64, elr: u64) -> ! {
    println!("FAIL unexpected exception ESR {esr:#x} ELR {elr:#x} on vCPU {}", index());
    loop {
        aarch64_cpu::asm::wfi();
    }
}

/// Exception classes (ESR_EL1.EC).
pub const UNDEFINED: u64 = 0x00;
pub const INSTRUCTION_ABORT: u64 = 0x21;
pub const DATA_ABORT: u64 = 0x25;

/// A synchronous exception.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// ESR_EL1.EC.
    pub class: u64,
    /// FAR_EL1.
    pub address: u64,
}

/// Runs `f` and returns the last exception that it met.
pub fn probe<R>(f: impl FnOnce() -> R) -> Option<Fault> {
    let index = index();
    SYNDROME[index].store(0, Ordering::Relaxed);
    EXPECTED[index].store(true, Ordering::SeqCst);
    f();
    EXPECTED[index].store(false, Ordering::SeqCst);
    match SYNDROME[index].load(Ordering::Relaxed) {
        0 => None,
        esr => Some(Fault { class: esr >> 26, address: ADDRESS[index].load(Ordering::Relaxed) }),
    }
}

/// The same, but only the exception's class.
pub fn class_of<R>(f: impl FnOnce() -> R) -> Option<u64> {
    probe(f).map(|fault| fault.class)
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

/// Starts the vCPU with this index: affinity 0.0.0.index, as on all virtual machines here.
pub fn start(index: usize) -> i32 {
    psci::hvc(psci::CPU_ON, [index as u64, secondary_start as *const () as u64, index as u64])
}

/// Ends this vCPU, which takes no part from now on.
pub fn stop() {
    ONLINE.fetch_sub(1, Ordering::Release);
    psci::hvc(psci::CPU_OFF, [0; 3]);
    println!("FAIL vCPU {} goes on after CPU_OFF", index());
}

/// What a loop does that waits for another vCPU. (`core::hint::spin_loop` is an ISB, which does not make the emulator turn to
/// another CPU when it emulates all of them in one thread.)
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Sleeps until the condition holds. An interrupt must come when it begins to.
pub fn wait(condition: impl Fn() -> bool) {
    set_masked(true);
    while !condition() {
        aarch64_cpu::asm::wfi();
        set_masked(false);
        isb(SY);
        set_masked(true);
    }
    set_masked(false);
}

//! From the first instruction to [`roles`](crate::roles), and exceptions.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::mark::INTERRUPT;
use crate::platform::{MAX_CPUS, Platform};
use crate::{console, println, psci, roles};

/// Where QEMU puts the device tree of an ELF file: at the start of RAM, with x0 = 0.
const DEFAULT_TREE: usize = 0x4000_0000;

global_asm!(
    r#"
        .section .text.start, "ax"
        .global _start
_start: b       primary                         // the header of an arm64 Image
        .word   0
        .quad   0x80000                         // text_offset
        .quad   __image_size
        .quad   0xa                             // little-endian, 4 KiB pages, anywhere in memory
        .quad   0, 0, 0
        .ascii  "ARM\x64"
        .word   0

primary:
        mov     x20, x0
        mov     x19, #0
        b       start

        .global secondary_start
secondary_start:
        mov     x19, x0
start:  adrp    x0, {TABLE}
        add     x0, x0, :lo12:{TABLE}
        mov     x1, #0xff00
        msr     mair_el1, x1                    // 0: device, 1: normal write-back
        ldr     x1, =0x280803520                // 4 KiB granule, 32-bit VA, walks write-back inner shareable, 40-bit PA, TTBR1 off
        msr     tcr_el1, x1
        msr     ttbr0_el1, x0
        tlbi    vmalle1
        ic      iallu
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
        msr     tpidr_el1, x19
        adrp    x1, {STACKS}
        add     x1, x1, :lo12:{STACKS}
        add     x2, x19, #1
        add     x1, x1, x2, lsl #14
        mov     sp, x1
        mov     x0, x19
        mov     x1, x20
        b       {RUN}

        // The tables differ in the mark on interrupts.
        .macro  table, name, mark
        .balign 0x800
\name:
        .rept   5
        .balign 0x80
        b       unexpected
        .endr
        .balign 0x80
        .if \mark
        movz    xzr, #{INTERRUPT}
        .endif
        b       on_irq
        .rept   10
        .balign 0x80
        b       unexpected
        .endr
        .endm
        table   vectors, 1
        .global quiet_vectors
        table   quiet_vectors, 0

on_irq: sub     sp, sp, #192
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
        bl      {IRQ}
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

unexpected:
        mrs     x0, esr_el1
        mrs     x1, elr_el1
        mrs     x2, far_el1
        b       {UNEXPECTED}
    "#,
    TABLE = sym TABLE,
    STACKS = sym STACKS,
    RUN = sym run,
    IRQ = sym roles::irq,
    UNEXPECTED = sym unexpected,
    INTERRUPT = const INTERRUPT,
);

unsafe extern "C" {
    fn secondary_start();
    fn quiet_vectors();
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

#[repr(transparent)]
struct Place(UnsafeCell<Option<Platform>>);
// SAFETY: written once by the first CPU, before `PLATFORM` says that it is there.
unsafe impl Sync for Place {}
static PLACE: Place = Place(UnsafeCell::new(None));
static PLATFORM: AtomicPtr<Platform> = AtomicPtr::new(core::ptr::null_mut());

/// The machine.
pub fn platform() -> &'static Platform {
    // SAFETY: `run` has stored it before anything else runs; it is never changed after that.
    unsafe { &*PLATFORM.load(Ordering::Acquire) }
}

extern "C" fn run(index: usize, tree: usize) -> ! {
    if index == 0 {
        let tree = if tree == 0 { DEFAULT_TREE } else { tree };
        // SAFETY: the boot protocol: a device tree is there, its size is its second word, and nobody writes to it.
        let tree = unsafe {
            let size = u32::from_be_bytes(*((tree + 4) as *const [u8; 4])) as usize;
            core::slice::from_raw_parts(tree as *const u8, size)
        };
        let Some(platform) = Platform::new(tree) else { sleep() };
        // SAFETY: nothing else runs yet.
        let place = unsafe { &mut *PLACE.0.get() };
        PLATFORM.store(place.insert(platform), Ordering::Release);
    }
    let platform = platform();
    platform.gic.init(index, platform.timer);
    if index == 0 {
        console::init(platform.uart.unwrap_or(0));
        roles::primary(platform)
    }
    roles::secondary(platform)
}

/// This CPU's index.
pub fn index() -> usize {
    let index: usize;
    // SAFETY: reads TPIDR_EL1, which is this program's own.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) index, options(nomem, nostack, preserves_flags)) };
    index
}

/// Interrupts are not marked from here on.
pub fn quiet() {
    // SAFETY: the same vectors without the mark.
    unsafe { asm!("msr vbar_el1, {}", "isb", in(reg) quiet_vectors as *const () as u64, options(nostack)) };
}

/// Masks or unmasks interrupts.
#[inline(always)]
pub fn set_masked(masked: bool) {
    // SAFETY: the interrupt handler touches atomics only.
    unsafe {
        if masked {
            asm!("msr daifset, #2", options(nostack));
        } else {
            asm!("msr daifclr, #2", options(nostack));
        }
    }
}

/// Starts CPU number `index`.
pub fn start(index: usize) -> bool {
    let platform = platform();
    let entry = secondary_start as *const () as u64;
    psci::call(platform.smc, psci::CPU_ON, [platform.cpus[index], entry, index as u64]) == 0
}

/// What a loop does that waits for an interrupt or another CPU: under `-icount` QEMU goes on with another CPU.
#[inline(always)]
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Waits for an interrupt, which may be masked.
#[inline(always)]
pub fn wfi() {
    // SAFETY: a hint.
    unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
}

/// Sleeps for ever.
pub fn sleep() -> ! {
    set_masked(true);
    loop {
        crate::timer::disarm();
        wfi();
    }
}

extern "C" fn unexpected(esr: u64, elr: u64, far: u64) -> ! {
    println!("FAIL unexpected exception ESR {esr:#x} ELR {elr:#x} FAR {far:#x}");
    sleep()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("FAIL {info}");
    sleep()
}

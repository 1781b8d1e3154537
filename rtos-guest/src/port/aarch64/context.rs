//! Task contexts, and the exception vectors that save and restore them.

use core::arch::{asm, global_asm};
use core::mem::{MaybeUninit, offset_of};
use core::ops::Range;

use crate::{idle, kernel};

/// A task's registers, on its own stack while it does not run.
#[repr(C, align(16))]
pub(super) struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
}

/// SPSR_EL1 of a new task: EL1 with SP_EL0; FIQ and debug exceptions masked, IRQ and SError open (Arm ARM, SPSR_EL1).
const NEW_TASK_SPSR: u64 = 1 << 9 | 1 << 6 | 0b00100;

/// The least that a task's entry may leave of its stack.
const HEADROOM: usize = 512;

/// What fills the part of a stack that was never used.
const UNUSED: u64 = 0x5AFE_57AC_5AFE_57AC;

/// The most bytes of a stack that was [painted](paint) that were ever in use.
pub(crate) fn stack_used(stack: Range<usize>) -> usize {
    let is_unused = |&address: &usize| {
        // SAFETY: stacks are mapped for good, and a racing write by its task yields one value or the other.
        unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() == UNUSED }
    };
    stack
        .clone()
        .step_by(size_of::<u64>())
        .find(|address| !is_unused(address))
        .map_or(0, |top| stack.end - top)
}

/// Marks a stack as never used.
fn paint(stack: &mut [MaybeUninit<u8>]) {
    stack.as_mut_ptr().expose_provenance();
    for word in stack.as_chunks_mut::<8>().0 {
        *word = UNUSED.to_ne_bytes().map(MaybeUninit::new);
    }
}

/// Moves `entry` to the top of `stack` and below it a frame that calls it; returns the frame's address.
pub(super) fn prepare<F: FnOnce()>(stack: &'static mut [MaybeUninit<u8>], entry: F) -> usize {
    const { assert!(align_of::<F>() <= 16) };
    let used = size_of::<F>().next_multiple_of(16) + size_of::<Frame>();
    assert!(used + HEADROOM <= stack.len(), "the stack is too small for the task's entry");
    paint(stack);
    let top = stack.as_mut_ptr_range().end;
    let frame = Frame {
        x: core::array::from_fn(
            |n| if n == 0 { top.addr() - size_of::<F>().next_multiple_of(16) } else { 0 } as u64,
        ),
        elr: enter::<F> as *const () as u64,
        spsr: NEW_TASK_SPSR,
    };
    // SAFETY: `used` bytes lie in `stack`, which is ours while the task lives; both places are aligned, since 16 divides
    // `top` and the sizes.
    unsafe {
        top.sub(size_of::<F>().next_multiple_of(16)).cast::<F>().write(entry);
        let at = top.sub(used).cast::<Frame>();
        at.write(frame);
        at.expose_provenance()
    }
}

/// A task's first instructions.
extern "C" fn enter<F: FnOnce()>(entry: *const F) -> ! {
    // SAFETY: `prepare` wrote it there, and a frame is entered once.
    let entry = unsafe { entry.read() };
    entry();
    kernel::with(|kernel, _| kernel.exit());
    unreachable!("a task that has ended is not switched to")
}

/// Switches to the task that the kernel chooses; returns when that is this one again.
pub(super) fn give_way() {
    // SAFETY: the exception's entry and exit keep every register; other tasks and interrupts may change memory, which
    // the absence of `nomem` tells the compiler.
    unsafe { asm!("svc #0", options(nostack, preserves_flags)) };
}

/// Becomes the idle task, on `stack`, and starts the scheduler.
pub(super) fn idle(stack: &'static mut [MaybeUninit<u8>]) -> ! {
    paint(stack);
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: `stack` is unused, and nothing on the boot stack is needed any more: the exceptions take it over.
    unsafe {
        asm!(
            "adrp x1, __exception_stack_top",
            "add x1, x1, :lo12:__exception_stack_top",
            "mov sp, x1",
            "msr SPSel, #0",
            "mov sp, x0",
            "mov x29, xzr",
            "mov x30, xzr",
            "svc #0",
            "msr daifclr, #6",
            "b {run}",
            in("x0") top,
            run = sym run_idle,
            options(noreturn),
        )
    }
}

extern "C" fn run_idle() -> ! {
    loop {
        idle::once();
    }
}

global_asm!(
    r#"
    .macro save_frame
    sub sp, sp, #{FRAME}
    stp x0, x1, [sp, #16 * 0]
    stp x2, x3, [sp, #16 * 1]
    stp x4, x5, [sp, #16 * 2]
    stp x6, x7, [sp, #16 * 3]
    stp x8, x9, [sp, #16 * 4]
    stp x10, x11, [sp, #16 * 5]
    stp x12, x13, [sp, #16 * 6]
    stp x14, x15, [sp, #16 * 7]
    stp x16, x17, [sp, #16 * 8]
    stp x18, x19, [sp, #16 * 9]
    stp x20, x21, [sp, #16 * 10]
    stp x22, x23, [sp, #16 * 11]
    stp x24, x25, [sp, #16 * 12]
    stp x26, x27, [sp, #16 * 13]
    stp x28, x29, [sp, #16 * 14]
    mrs x0, elr_el1
    mrs x1, spsr_el1
    stp x30, x0, [sp, #16 * 15]
    str x1, [sp, #{SPSR}]
    mov x0, sp
    .endm

    // The table has 16 entries of 32 instructions: from the current EL with SP_EL0 and with SP_ELx, and from a lower
    // EL in AArch64 and AArch32; each for synchronous, IRQ, FIQ, SError (Arm ARM, "Exception vectors").
    .macro fault offset
    .org vectors + \offset
    mov x0, #\offset
    b {handle_fault}
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    // A task's SVC is its wish to give way. Whether it is one is found out on SP_EL1: if its stack is what faulted,
    // nothing can be saved on it.
    stp x0, x1, [sp, #-16]!
    mrs x0, esr_el1
    ubfx x0, x0, #26, #6
    cmp x0, #0x15
    ldp x0, x1, [sp], #16
    b.ne task_fault
    msr SPSel, #0
    save_frame
    msr SPSel, #1
    bl {switch}
    b restore_frame

    .org vectors + 0x080
    msr SPSel, #0
    save_frame
    msr SPSel, #1
    bl {handle_irq}
    b restore_frame

    fault 0x100
    fault 0x180
    fault 0x200
    fault 0x280
    fault 0x300
    fault 0x380
    fault 0x400
    fault 0x480
    fault 0x500
    fault 0x580
    fault 0x600
    fault 0x680
    fault 0x700
    fault 0x780

task_fault:
    mov x0, #0
    b {handle_fault}

restore_frame:
    msr SPSel, #0
    mov sp, x0
    ldp x30, x0, [sp, #16 * 15]
    ldr x1, [sp, #{SPSR}]
    msr elr_el1, x0
    msr spsr_el1, x1
    ldp x2, x3, [sp, #16 * 1]
    ldp x4, x5, [sp, #16 * 2]
    ldp x6, x7, [sp, #16 * 3]
    ldp x8, x9, [sp, #16 * 4]
    ldp x10, x11, [sp, #16 * 5]
    ldp x12, x13, [sp, #16 * 6]
    ldp x14, x15, [sp, #16 * 7]
    ldp x16, x17, [sp, #16 * 8]
    ldp x18, x19, [sp, #16 * 9]
    ldp x20, x21, [sp, #16 * 10]
    ldp x22, x23, [sp, #16 * 11]
    ldp x24, x25, [sp, #16 * 12]
    ldp x26, x27, [sp, #16 * 13]
    ldp x28, x29, [sp, #16 * 14]
    ldp x0, x1, [sp, #16 * 0]
    add sp, sp, #{FRAME}
    eret
"#,
    FRAME = const size_of::<Frame>(),
    SPSR = const offset_of!(Frame, spsr),
    handle_irq = sym super::handle_irq,
    handle_fault = sym super::handle_fault,
    switch = sym super::switch,
);

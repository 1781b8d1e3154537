//! The port to AArch64 at EL1 on one CPU.
//!
//! Tasks run with SPSel = 0, each on its own stack (SP_EL0); exceptions run with SPSel = 1 on one stack of their own
//! (SP_EL1) and with interrupts masked. An exception's entry saves all registers on the stack of the task that it
//! interrupts, so that a task which does not run is nothing but its stack pointer, and a switch is to leave the
//! exception on another one. A task gives way by SVC.

mod boot;
mod context;
mod gic;
mod mmio;
mod mmu;
pub(crate) mod serial;
mod smccc;
mod stolen;
mod timer;

use core::cell::OnceCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{DAIF, ELR_EL1, ESR_EL1, FAR_EL1, Readable, SPSel};
use critical_section::{CriticalSection, Mutex};

use crate::kernel::{self, Priority};
use crate::{console, interrupt};

use super::stack::{PAGE, Stack};
pub(crate) use boot::channel;
use context::Frame;
pub(crate) use context::stack_used;
pub(crate) use smccc::call as hypercall;
pub(crate) use stolen::stolen_nanos;
pub(crate) use timer::counter;

/// The interrupt controller and the timer's interrupt: set once at boot.
static INTERRUPTS: Mutex<OnceCell<(gic::Gic, u32)>> = Mutex::new(OnceCell::new());

/// Set when a task more urgent than the running one became ready.
static SWITCH: AtomicBool = AtomicBool::new(false);

/// Asks for a switch at the end of the outermost critical section or of the interrupt.
pub(crate) fn request_switch() {
    SWITCH.store(true, Ordering::Relaxed);
}

/// Starts the created task `priority`, which calls `entry` on `stack`.
pub(crate) fn start<const SIZE: usize>(
    stack: &'static Stack<SIZE>,
    priority: Priority,
    entry: impl FnOnce() + Send + 'static,
) {
    mmu::unmap(stack.addresses().start - PAGE);
    // SAFETY: the kernel lets no other task be created with this stack until this one has ended.
    let context = context::prepare(unsafe { stack.claim() }, entry);
    kernel::with(|kernel, _| kernel.start(priority, context));
}

/// Waits until an interrupt is pending, whether or not interrupts are masked.
pub(crate) fn wait_for_interrupt() {
    aarch64_cpu::asm::wfi();
}

/// Prepares an interrupt: its trigger, its priority, its way to this CPU.
pub(crate) fn configure_interrupt(intid: u32, trigger: interrupt::Trigger) {
    with_gic(|gic| gic.configure(intid, trigger));
}

/// Enables or disables an interrupt.
pub(crate) fn set_interrupt_enabled(intid: u32, enabled: bool) {
    with_gic(|gic| gic.set_enabled(intid, enabled));
}

fn with_gic<R>(f: impl FnOnce(&gic::Gic) -> R) -> R {
    critical_section::with(|cs| f(&interrupts(cs).0))
}

/// The interrupt controller and the timer's interrupt.
fn interrupts(cs: CriticalSection<'_>) -> &(gic::Gic, u32) {
    INTERRUPTS.borrow(cs).get().expect("the interrupt controller is set up")
}

/// Handles an interrupt that was taken from the task of `frame`; returns the frame of the task to go on with. If there is
/// another one, it comes as soon as this one is done.
extern "C" fn handle_irq(frame: *mut Frame) -> *mut Frame {
    // SAFETY: interrupts are masked until the exception returns.
    let cs = unsafe { CriticalSection::new() };
    let (gic, timer_intid) = interrupts(cs);
    if let Some(acknowledged) = gic.acknowledge() {
        if acknowledged.intid() == *timer_intid {
            // The timer's line is a level: it must fall before the end of the interrupt. `switch` does the rest.
            timer::disarm();
        } else {
            interrupt::dispatch(acknowledged.intid());
        }
        gic.end(acknowledged);
    }
    switch(frame)
}

/// Saves the task of `frame`, makes those ready whose time has come, sets the timer for the next deadline and returns the
/// frame of the task to go on with.
extern "C" fn switch(frame: *mut Frame) -> *mut Frame {
    SWITCH.store(false, Ordering::Relaxed);
    // SAFETY: interrupts are masked until the exception returns.
    let cs = unsafe { CriticalSection::new() };
    let context = kernel::in_exception(cs, |kernel| {
        let now = counter();
        kernel.expire(now);
        timer::arm(kernel.next_deadline());
        kernel.switch(frame.expose_provenance(), now)
    });
    core::ptr::with_exposed_provenance_mut(context)
}

/// An exception that nothing here expects; `vector` is its offset in the vector table.
extern "C" fn handle_fault(vector: u64) -> ! {
    let (esr, elr, far) = (ESR_EL1.get(), ELR_EL1.get(), FAR_EL1.get());
    if let Some(task) = kernel::running_task()
        && (task.stack.start.saturating_sub(PAGE)..task.stack.start).contains(&(far as usize))
    {
        die(format_args!("stack overflow in task \"{}\": elr={elr:#x} far={far:#x}", task.name));
    }
    die(format_args!("exception {vector:#x}: esr={esr:#x} elr={elr:#x} far={far:#x}"))
}

/// Prints why, and powers the machine off: a virtual machine's end is seen from outside.
fn die(why: fmt::Arguments<'_>) -> ! {
    mask_interrupts();
    console::print_line_raw(format_args!("mobi-rtos: {why}"));
    smccc::system_off();
    loop {
        aarch64_cpu::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    die(format_args!("{info}"))
}

/// Masks interrupts; returns whether they were open.
fn mask_interrupts() -> bool {
    let open = !DAIF.is_set(DAIF::I);
    // SAFETY: masking interrupts breaks no invariant. It is a compiler barrier (no `nomem`): what follows stays after it.
    unsafe { core::arch::asm!("msr daifset, #2", options(nostack, preserves_flags)) };
    open
}

/// Whether a task runs with interrupts open: whether it can wait.
pub(crate) fn may_wait() -> bool {
    !DAIF.is_set(DAIF::I) && !SPSel.is_set(SPSel::SP)
}

struct Masked;
critical_section::set_impl!(Masked);

// SAFETY: there is one CPU, and with IRQs masked (FIQs are never used) nothing else runs on it. Releasing the
// outermost section may switch tasks, after everything that the section guarded has been let go of.
unsafe impl critical_section::Impl for Masked {
    unsafe fn acquire() -> bool {
        mask_interrupts()
    }

    unsafe fn release(outermost: bool) {
        if outermost {
            if SWITCH.load(Ordering::Relaxed) && !SPSel.is_set(SPSel::SP) {
                context::give_way();
            }
            // SAFETY: interrupts were open when the section began, and what it guarded is no longer in use.
            unsafe { core::arch::asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
        }
    }
}

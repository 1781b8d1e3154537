//! EL2's own faults: what the vectors call, and the backtrace.

use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, FP, Readable};

use crate::{PAGE, image, mmu};

/// The stack on which a fatal fault is reported, since the faulting one may be full. One for all CPUs: the first to fault reports.
#[repr(C, align(4096))]
pub(crate) struct Emergency(core::cell::UnsafeCell<[u8; EMERGENCY_SIZE]>);
pub(crate) const EMERGENCY_SIZE: usize = 2 * PAGE;
// SAFETY: written through the stack pointer only, by the one CPU that got through `fatal` first.
unsafe impl Sync for Emergency {}
#[unsafe(link_section = ".stacks")]
pub(crate) static EMERGENCY: Emergency = Emergency(core::cell::UnsafeCell::new([0; EMERGENCY_SIZE]));

/// The registers of a fatal fault.
#[repr(C)]
#[derive(Debug)]
pub struct Crash {
    /// x0 to x30, then SP.
    pub x: [u64; 32],
}

/// Called by the vectors, on the emergency stack. Panics with what the syndrome registers say; the panic handler is the program's.
pub(crate) extern "C" fn mobivmm_fatal(kind: u64, crash: &Crash) -> ! {
    let (esr, elr, far) = (ESR_EL2.get(), ELR_EL2.get(), FAR_EL2.get());
    let base = image::range().start as u64;
    let what = ["synchronous exception", "IRQ", "FIQ", "SError"][(kind & 3) as usize];
    let stack = if kind < 4 { " on SP_EL0" } else { "" };
    let overflow = if mmu::is_guard(far as usize) { " (stack overflow: guard page)" } else { "" };
    panic!(
        "{what}{stack} at image+{:#x}: ESR {esr:#x} FAR {far:#x}{overflow} SP {:#x} LR image+{:#x}",
        elr.wrapping_sub(base),
        crash.x[31],
        crash.x[30].wrapping_sub(base)
    )
}

/// Calls `each` with the offset from the image's start of every return address, from the caller outwards: the chain of frame records
/// (AAPCS64, "The Frame Pointer"), which vectors.S continues across a fault.
pub fn backtrace(mut each: impl FnMut(usize)) {
    let image = image::range();
    let mut frame = FP.get() as usize;
    for _ in 0..32 {
        if !frame.is_multiple_of(8)
            || !image.contains(&frame)
            || mmu::is_guard(frame)
            || mmu::is_guard(frame + 15)
        {
            return;
        }
        // SAFETY: both words lie in the image's mapped, readable part, as just checked; frame records are never written by others.
        let (next, ret) = unsafe { ((frame as *const usize).read(), (frame as *const usize).add(1).read()) };
        if !(image.start..crate::image::text_end()).contains(&ret) {
            return;
        }
        each(ret - image.start);
        frame = next;
    }
}

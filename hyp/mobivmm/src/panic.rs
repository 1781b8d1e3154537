//! The end of EL2: a report with a backtrace that the runner symbolises, and an exit status that is not 0.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{console, machine};

static PANICKED: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // One report is enough: another CPU's, or a fault while reporting, would only garble it.
    if PANICKED.swap(true, Ordering::AcqRel) {
        arch::cpu::park()
    }
    console::emergency(format_args!("PANIC cpu {}: {}\n", arch::cpu::index(), Message(info)));
    let mut frame = 0;
    arch::panic::backtrace(|offset| {
        console::emergency(format_args!("  #{frame} 0x{offset:x}\n"));
        frame += 1;
    });
    match machine::get() {
        Some(machine) => machine.end(1),
        None => arch::cpu::park(),
    }
}

struct Message<'a>(&'a PanicInfo<'a>);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.message())?;
        match self.0.location() {
            Some(at) => write!(f, " at {at}"),
            None => Ok(()),
        }
    }
}

//! The console: a PL011, by polling.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::mmio;

/// Its base; 0 = there is none.
static UART: AtomicUsize = AtomicUsize::new(0);

/// Uses the PL011 at this address.
pub fn init(base: usize) {
    UART.store(base, Ordering::Relaxed);
}

/// Writes to the console.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let uart = UART.load(Ordering::Relaxed);
        for byte in text.bytes().filter(|_| uart != 0) {
            while mmio::read(uart + 0x18) & 0x20 != 0 {}
            mmio::write(uart, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}

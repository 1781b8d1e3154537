//! The console: PL011 by polling for output, by interrupt for input.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::gic::{read, write};

const UART: usize = 0x0900_0000;
/// The PL011's INTID.
pub const INTID: u32 = 33;

/// What came in: written by the interrupt handler, read by the main program.
static RING: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];
static HEAD: AtomicUsize = AtomicUsize::new(0);
static TAIL: AtomicUsize = AtomicUsize::new(0);

/// Turns the receive interrupts on.
pub fn init() {
    write(UART + 0x2c, 0x70);
    write(UART + 0x30, 0x301);
    write(UART + 0x38, 0x50);
    crate::gic::enable_spi(INTID as usize, 0, 0xa0, false);
}

/// The receive interrupt: takes what the FIFO has as long as there is room.
pub fn interrupt() {
    while read(UART + 0x18) & 0x10 == 0 {
        let head = HEAD.load(Ordering::Relaxed);
        if head - TAIL.load(Ordering::Acquire) == RING.len() {
            write(UART + 0x38, 0);
            return;
        }
        RING[head % RING.len()].store(read(UART) as u8, Ordering::Relaxed);
        HEAD.store(head + 1, Ordering::Release);
    }
}

/// Whether there is input.
pub fn has_input() -> bool {
    TAIL.load(Ordering::Relaxed) != HEAD.load(Ordering::Acquire)
}

/// The next byte of input, if there is one.
pub fn take() -> Option<u8> {
    let tail = TAIL.load(Ordering::Relaxed);
    if tail == HEAD.load(Ordering::Acquire) {
        return None;
    }
    let byte = RING[tail % RING.len()].load(Ordering::Relaxed);
    TAIL.store(tail + 1, Ordering::Release);
    write(UART + 0x38, 0x50);
    Some(byte)
}

/// Writes to the console.
pub struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while read(UART + 0x18) & 0x20 != 0 {}
            write(UART, u32::from(byte));
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::uart::Uart, $($argument)*);
    }};
}

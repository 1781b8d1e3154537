//! The console: MobiVMM's paravirtual one, or the PL011 of a machine without MobiVMM. Tasks that read or write wait
//! for it without spinning.

use core::cell::Cell;
use core::convert::Infallible;
use core::fmt;

use critical_section::Mutex;
use embedded_io::{ErrorType, Read, Write};

use crate::kernel;
use crate::port::serial;
use crate::sem::Semaphore;

/// The console as an embedded-io device. Any number of handles share it; each call is atomic towards other tasks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl ErrorType for Console {
    type Error = Infallible;
}

impl Read for Console {
    /// Waits until there is input and reads what there is of it.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        if buffer.is_empty() {
            return Ok(0);
        }
        Ok(INPUT.locked(|| INPUT.retry(|| serial::read(buffer))))
    }
}

impl Write for Console {
    /// Waits until some of `bytes` can be written, and writes that.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(OUTPUT.locked(|| OUTPUT.retry(|| serial::write(bytes))))
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Prints a line, atomically towards other tasks. Not for interrupt handlers.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}

/// What [`println!`] calls: `line` and CR LF.
pub fn print_line(line: fmt::Arguments<'_>) {
    OUTPUT.locked(|| print_with(line, |bytes| OUTPUT.retry(|| serial::write(bytes))));
}

/// Prints a line past all locks, spinning while the console is full: for a panic.
#[cfg(target_os = "none")]
pub(crate) fn print_line_raw(line: fmt::Arguments<'_>) {
    print_with(line, serial::write);
}

fn print_with(line: fmt::Arguments<'_>, write: impl FnMut(&[u8]) -> usize) {
    let mut out = Buffered { write, bytes: heapless::Vec::new() };
    // Neither the sink nor the formatting of `core`'s own types fails; a failing `Display` cuts its line short.
    let _ = fmt::Write::write_fmt(&mut out, format_args!("{line}\r\n"));
    out.flush();
}

/// Collects what a format string writes in small pieces into as much as one hypercall carries.
struct Buffered<W: FnMut(&[u8]) -> usize> {
    write: W,
    bytes: heapless::Vec<u8, { abi::smccc::CONSOLE_WRITE_MAX }>,
}

impl<W: FnMut(&[u8]) -> usize> Buffered<W> {
    fn flush(&mut self) {
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            rest = rest.get((self.write)(rest)..).unwrap_or_default();
        }
        self.bytes.clear();
    }
}

impl<W: FnMut(&[u8]) -> usize> fmt::Write for Buffered<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.bytes.is_full() {
                self.flush();
            }
            self.bytes.push(byte).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

static INPUT: Direction = Direction::new(serial::RX);
static OUTPUT: Direction = Direction::new(serial::TX);

/// One of the console's two directions.
struct Direction {
    /// The event for which a task waits.
    event: u64,
    lock: Semaphore,
    ready: Semaphore,
}

impl Direction {
    const fn new(event: u64) -> Self {
        Self { event, lock: Semaphore::new(1), ready: Semaphore::new(0) }
    }

    fn locked<R>(&self, f: impl FnOnce() -> R) -> R {
        self.lock.take();
        let result = f();
        self.lock.give();
        result
    }

    /// Tries to move bytes until that moves any. Between two tries a task waits for the interrupt; before the
    /// scheduler starts this spins.
    fn retry(&self, mut try_move: impl FnMut() -> usize) -> usize {
        loop {
            let moved = try_move();
            if moved > 0 {
                return moved;
            }
            if kernel::in_task() {
                listen(|events| events | self.event);
                self.ready.take();
            }
        }
    }
}

/// The events for which the console's interrupt is open; for each a task waits.
static LISTENING: Mutex<Cell<u64>> = Mutex::new(Cell::new(0));

/// Changes [`LISTENING`] and tells the device; returns what it was.
fn listen(change: impl FnOnce(u64) -> u64) -> u64 {
    critical_section::with(|cs| {
        let before = LISTENING.borrow(cs).get();
        let after = change(before);
        LISTENING.borrow(cs).set(after);
        serial::listen(after);
        before
    })
}

/// The console's interrupt. It is a level: closing all events quiets it, and the tasks, which find out themselves
/// which of them has something to do, open theirs again.
#[cfg(target_os = "none")]
pub(crate) fn interrupt(_intid: u32) {
    let events = listen(|_| 0);
    for direction in [&INPUT, &OUTPUT] {
        if events & direction.event != 0 {
            direction.ready.give();
        }
    }
}

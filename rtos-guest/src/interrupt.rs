//! Interrupts of devices. A handler runs with interrupts masked on a stack of its own; it quiets the device and gives
//! a semaphore or sends a message to the task that does the work. Where only a task can quiet the device, the handler
//! is a [`Deferred`].

use core::cell::{Cell, RefCell};

use critical_section::Mutex;
use heapless::Vec;

use crate::port;
use crate::sem::Semaphore;

/// How many handlers there can be.
const HANDLERS: usize = 16;

/// What makes an interrupt pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Its line, for as long as it is asserted.
    Level,
    /// A rising edge of its line.
    Edge,
}

/// There are 16 handlers already, or the interrupt has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachError;

/// What is done about an interrupt. Functions `fn(u32)` are handlers, too.
pub trait Handler: Sync {
    /// Handles the interrupt `intid`, with interrupts masked.
    fn handle(&self, intid: u32);
}

impl<F: Fn(u32) + Sync> Handler for F {
    fn handle(&self, intid: u32) {
        self(intid);
    }
}

/// An interrupt and its handler.
type Entry = (u32, &'static dyn Handler);

static TABLE: Mutex<RefCell<Vec<Entry, HANDLERS>>> = Mutex::new(RefCell::new(Vec::new()));

/// Has `handler` called on every interrupt `intid` (GIC numbering: SPI n is 32 + n), and enables it.
///
/// # Errors
/// [`AttachError`] if the table is full or the interrupt attached.
pub fn attach(intid: u32, trigger: Trigger, handler: &'static dyn Handler) -> Result<(), AttachError> {
    critical_section::with(|cs| {
        let mut table = TABLE.borrow_ref_mut(cs);
        if table.iter().any(|&(id, _)| id == intid) {
            return Err(AttachError);
        }
        table.push((intid, handler)).map_err(|_| AttachError)
    })?;
    port::configure_interrupt(intid, trigger);
    port::set_interrupt_enabled(intid, true);
    Ok(())
}

/// Calls the handler of `intid`, if there is one. The port calls this, with interrupts masked.
pub(crate) fn dispatch(intid: u32) {
    let handler = critical_section::with(|cs| {
        TABLE.borrow_ref(cs).iter().find(|&&(id, _)| id == intid).map(|&(_, handler)| handler)
    });
    if let Some(handler) = handler {
        handler.handle(intid);
    }
}

/// A handler that leaves everything to a task: the interrupt stays disabled from when it comes until the task waits for
/// the next one.
///
/// ```no_run
/// use mobi_rtos::interrupt::{self, Deferred, Trigger};
/// static UART: Deferred = Deferred::new();
///
/// fn task() {
///     interrupt::attach(34, Trigger::Level, &UART).unwrap();
///     loop {
///         UART.wait();
///         // Serve the device until it is quiet.
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Deferred {
    came: Semaphore,
    /// The interrupt, while it is disabled.
    disabled: Mutex<Cell<Option<u32>>>,
}

impl Deferred {
    /// For one interrupt.
    pub const fn new() -> Self {
        Self { came: Semaphore::binary(), disabled: Mutex::new(Cell::new(None)) }
    }

    /// Enables the interrupt and waits for it.
    ///
    /// # Panics
    /// As [`Semaphore::take`].
    pub fn wait(&self) {
        if let Some(intid) = critical_section::with(|cs| self.disabled.borrow(cs).take()) {
            port::set_interrupt_enabled(intid, true);
        }
        self.came.take();
    }
}

impl Handler for Deferred {
    fn handle(&self, intid: u32) {
        port::set_interrupt_enabled(intid, false);
        critical_section::with(|cs| self.disabled.borrow(cs).set(Some(intid)));
        self.came.give();
    }
}

impl Default for Deferred {
    fn default() -> Self {
        Self::new()
    }
}

//! Interrupts of devices. A handler runs with interrupts masked on a stack of its own; it quiets the device and gives
//! a semaphore or sends a message to the task that does the work.

use core::cell::RefCell;

use critical_section::Mutex;
use heapless::Vec;

use crate::port;

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

/// A handler; it is told the interrupt's number.
pub type Handler = fn(u32);

static TABLE: Mutex<RefCell<Vec<(u32, Handler), HANDLERS>>> = Mutex::new(RefCell::new(Vec::new()));

/// Calls `handler` on every interrupt `intid` (GIC numbering: SPI n is 32 + n), and enables it.
///
/// # Errors
/// [`AttachError`] if the table is full or the interrupt attached.
pub fn attach(intid: u32, trigger: Trigger, handler: Handler) -> Result<(), AttachError> {
    critical_section::with(|cs| {
        let mut table = TABLE.borrow_ref_mut(cs);
        if table.iter().any(|&(id, _)| id == intid) {
            return Err(AttachError);
        }
        table.push((intid, handler)).map_err(|_| AttachError)
    })?;
    port::enable_interrupt(intid, trigger);
    Ok(())
}

/// Calls the handler of `intid`, if there is one. The port calls this, with interrupts masked.
pub(crate) fn dispatch(intid: u32) {
    let handler = critical_section::with(|cs| {
        TABLE.borrow_ref(cs).iter().find(|&&(id, _)| id == intid).map(|&(_, handler)| handler)
    });
    if let Some(handler) = handler {
        handler(intid);
    }
}

//! What happens when no task can run.

use core::cell::Cell;

use critical_section::Mutex;

use crate::{port, pv};

/// A function to call.
type Hook = fn();

static HOOK: Mutex<Cell<Option<Hook>>> = Mutex::new(Cell::new(None));

/// Has `hook` called, with interrupts open, each time before the CPU goes to sleep because no task can run. It must not
/// wait, and should be short: nothing is as unimportant.
pub fn set_hook(hook: Hook) {
    critical_section::with(|cs| HOOK.borrow(cs).set(Some(hook)));
}

/// What the idle task does, over and over: calls the hook and sleeps until an interrupt has come.
pub(crate) fn once() {
    if let Some(hook) = critical_section::with(|cs| HOOK.borrow(cs).get()) {
        hook();
    }
    if !pv::reservation::end_job() {
        port::wait_for_interrupt();
    }
}

//! Runs applications on a host in virtual time, for their tests and the kernel's own: each task is a thread, of which
//! only the one that the kernel has chosen moves. Time stands still while a task runs and jumps to the next deadline
//! when all wait, so that a run is deterministic and takes no longer than its computations.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::interrupt::{self, Trigger};
use crate::kernel::{self, Kernel, Priority, PriorityInUse};

/// One application at a time.
static RUN: Mutex<()> = Mutex::new(());
/// The virtual time in nanoseconds.
static NOW: AtomicU64 = AtomicU64::new(0);
/// Whether the kernel wants another task to run.
static SWITCH: AtomicBool = AtomicBool::new(false);
/// Whose turn it is, and the bell for a change of it.
static TURN: (Mutex<Priority>, Condvar) = (Mutex::new(Priority::IDLE), Condvar::new());
/// What a critical section holds.
static CRITICAL: Mutex<()> = Mutex::new(());

thread_local! {
    /// The task that this thread is, if any.
    static SELF: Cell<Option<Priority>> = const { Cell::new(None) };
    /// The critical section that this thread is in, if any.
    static HELD: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Runs `start` and the tasks it spawns until all have ended or wait for something that cannot come any more.
pub fn run(start: impl FnOnce()) {
    let _one = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    kernel::with(|kernel, _| *kernel = Kernel::new());
    NOW.store(0, Ordering::SeqCst);
    start();
    SELF.set(Some(Priority::IDLE));
    switch(Priority::IDLE);
    while let Some(deadline) = kernel::with(|kernel, _| kernel.next_deadline()) {
        NOW.fetch_max(deadline, Ordering::SeqCst);
        kernel::with(|kernel, _| kernel.expire(deadline));
    }
    SELF.set(None);
}

/// Raises the interrupt `intid`: its handler runs, then the task that it made ready, if that is the most urgent.
pub fn raise(intid: u32) {
    critical_section::with(|_| interrupt::dispatch(intid));
}

pub(crate) fn spawn(
    _stack: &'static mut [MaybeUninit<u8>],
    priority: Priority,
    entry: impl FnOnce() + Send + 'static,
) -> Result<(), PriorityInUse> {
    kernel::with(|kernel, _| kernel.start(priority, 0))?;
    thread::spawn(move || {
        SELF.set(Some(priority));
        wait_for_turn(priority);
        entry();
        SELF.set(None);
        kernel::with(|kernel, _| kernel.exit());
        pass_turn();
    });
    Ok(())
}

pub(crate) fn counter() -> u64 {
    NOW.load(Ordering::SeqCst)
}

pub(crate) fn enable_interrupt(_intid: u32, _trigger: Trigger) {}

pub(crate) fn request_switch() {
    SWITCH.store(true, Ordering::SeqCst);
}

/// Lets the task run that the kernel chooses, and returns when that is `me` again.
fn switch(me: Priority) {
    if pass_turn() != me {
        wait_for_turn(me);
    }
}

fn pass_turn() -> Priority {
    SWITCH.store(false, Ordering::SeqCst);
    let next = kernel::with(|kernel, _| {
        kernel.switch(0);
        kernel.running()
    });
    *TURN.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
    TURN.1.notify_all();
    next
}

fn wait_for_turn(me: Priority) {
    let turn = TURN.0.lock().unwrap_or_else(PoisonError::into_inner);
    drop(
        TURN.1
            .wait_while(turn, |turn| *turn != me)
            .unwrap_or_else(PoisonError::into_inner),
    );
}

struct CriticalSection;
critical_section::set_impl!(CriticalSection);

// SAFETY: `acquire` returns with `CRITICAL` locked by this thread, until the `release` of the outermost section.
unsafe impl critical_section::Impl for CriticalSection {
    unsafe fn acquire() -> bool {
        HELD.with_borrow_mut(|held| {
            let outermost = held.is_none();
            if outermost {
                *held = Some(CRITICAL.lock().unwrap_or_else(PoisonError::into_inner));
            }
            outermost
        })
    }

    unsafe fn release(outermost: bool) {
        if outermost {
            HELD.set(None);
            if let Some(me) = SELF.get().filter(|_| SWITCH.load(Ordering::SeqCst)) {
                switch(me);
            }
        }
    }
}

/// The console on the host: standard output, and no input.
pub(crate) mod serial {
    use std::io::Write;

    pub(crate) const RX: u64 = 1;
    pub(crate) const TX: u64 = 2;

    pub(crate) fn read(_buffer: &mut [u8]) -> usize {
        0
    }

    pub(crate) fn write(bytes: &[u8]) -> usize {
        // A closed standard output is no reason for an application to stop.
        let _ = std::io::stdout().write_all(bytes);
        bytes.len()
    }

    pub(crate) fn listen(_events: u64) {}
}

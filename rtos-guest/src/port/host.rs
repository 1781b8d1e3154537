//! Runs applications on a host in virtual time, for their tests and the kernel's own: each task is a thread, of which
//! only the one that the kernel has chosen moves. Time stands still while a task runs and jumps to the next deadline
//! when all wait, so that a run is deterministic and takes no longer than its computations.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::kernel::{self, Kernel, Priority};
use crate::time::Duration;
use crate::{idle, interrupt};

/// Whose turn it is: the run's number, which keeps the threads of earlier runs asleep, and the task.
type Turn = (u64, Priority);

/// The number of the run; held by it, so that there is one at a time.
static RUN: Mutex<u64> = Mutex::new(0);
/// The virtual time in nanoseconds.
static NOW: AtomicU64 = AtomicU64::new(0);
/// The virtual time at which the run ends, and whether it has.
static END: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicBool = AtomicBool::new(false);
/// Whether the kernel wants another task to run.
static SWITCH: AtomicBool = AtomicBool::new(false);
/// Whose turn it is, and the bell for a change of it.
static TURN: (Mutex<Turn>, Condvar) = (Mutex::new((0, Priority::IDLE)), Condvar::new());
/// What a critical section holds.
static CRITICAL: Mutex<()> = Mutex::new(());
/// The interrupts that were disabled.
static DISABLED: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Why a task panicked.
static PANIC: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);

thread_local! {
    /// The turn for which this thread waits, if it is a task.
    static SELF: Cell<Option<Turn>> = const { Cell::new(None) };
    /// The critical section that this thread is in, if any.
    static HELD: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Runs `start` and the tasks it spawns until all have ended or wait for something that cannot come any more.
///
/// # Panics
/// If a task does.
pub fn run(start: impl FnOnce()) {
    run_to(u64::MAX, start);
}

/// As [`run`], but ends at the latest when `duration` of virtual time has passed.
///
/// # Panics
/// If a task does.
pub fn run_for(duration: Duration, start: impl FnOnce()) {
    run_to(duration.as_ticks(), start);
}

fn run_to(end: u64, start: impl FnOnce()) {
    let mut run = lock(&RUN);
    *run += 1;
    let me = (*run, Priority::IDLE);
    *lock(&TURN.0) = me;
    NOW.store(0, Ordering::SeqCst);
    kernel::with(|kernel, _| *kernel = Kernel::new());
    start();
    SELF.set(Some(me));
    switch(me);
    END.store(end, Ordering::SeqCst);
    OVER.store(false, Ordering::SeqCst);
    while lock(&PANIC).is_none() && !OVER.load(Ordering::SeqCst) {
        idle::once();
    }
    SELF.set(None);
    let panic = lock(&PANIC).take();
    drop(run);
    if let Some(why) = panic {
        resume_unwind(why);
    }
}

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the interrupt `intid`: its handler runs, then the task that it made ready, if that is the most urgent. False if
/// it is disabled: then nothing happens.
pub fn raise(intid: u32) -> bool {
    critical_section::with(|_| {
        let enabled = !lock(&DISABLED).contains(&intid);
        if enabled {
            interrupt::dispatch(intid);
        }
        enabled
    })
}

/// What the kernel asks of this port.
pub(crate) mod port {
    use std::ops::Range;

    use abi::smccc::NOT_SUPPORTED;

    use super::*;
    use crate::dt::Channel;
    use crate::interrupt::Trigger;
    use crate::port::Stack;
    use crate::pv::page::Page;

    pub(crate) use super::serial;

    pub(crate) fn start<const SIZE: usize>(
        _stack: &'static Stack<SIZE>,
        priority: Priority,
        entry: impl FnOnce() + Send + 'static,
    ) {
        // The task may be chosen at the end of the critical section: then its thread must be there.
        critical_section::with(|_| {
            kernel::with(|kernel, _| kernel.start(priority, 0));
            let me = (lock(&TURN.0).0, priority);
            thread::spawn(move || {
                SELF.set(Some(me));
                wait_for_turn(me);
                let result = catch_unwind(AssertUnwindSafe(entry));
                SELF.set(None);
                if let Err(why) = result {
                    *lock(&PANIC) = Some(why);
                }
                kernel::with(|kernel, _| kernel.exit());
                pass_turn();
            });
        });
    }

    pub(crate) fn stack_used(_stack: Range<usize>) -> usize {
        0
    }

    pub(crate) fn counter() -> u64 {
        NOW.load(Ordering::SeqCst)
    }

    pub(crate) fn stolen_nanos() -> Option<u64> {
        None
    }

    pub(crate) fn hypercall(_function: u32, _args: [u64; 7]) -> [u64; 8] {
        [NOT_SUPPORTED as u64; 8]
    }

    pub(crate) fn channel(_name: &str) -> Option<(usize, Channel<'static>, &'static Page)> {
        None
    }

    pub(crate) fn configure_interrupt(_intid: u32, _trigger: Trigger) {}

    pub(crate) fn set_interrupt_enabled(intid: u32, enabled: bool) {
        let mut disabled = lock(&DISABLED);
        disabled.retain(|&other| other != intid);
        if !enabled {
            disabled.push(intid);
        }
    }

    pub(crate) fn may_wait() -> bool {
        SELF.get().is_some() && HELD.with_borrow(Option::is_none)
    }

    pub(crate) fn request_switch() {
        SWITCH.store(true, Ordering::SeqCst);
    }

    /// Nothing comes but the time: goes to the next deadline.
    pub(crate) fn wait_for_interrupt() {
        let end = END.load(Ordering::SeqCst);
        match kernel::with(|kernel, _| kernel.next_deadline()).filter(|&deadline| deadline <= end) {
            Some(deadline) => {
                NOW.fetch_max(deadline, Ordering::SeqCst);
                kernel::with(|kernel, _| kernel.expire(deadline));
            }
            None => OVER.store(true, Ordering::SeqCst),
        }
    }
}

/// Lets the task run that the kernel chooses, and returns when that is `me` again.
fn switch(me: Turn) {
    if pass_turn() != me {
        wait_for_turn(me);
    }
}

fn pass_turn() -> Turn {
    SWITCH.store(false, Ordering::SeqCst);
    let next = kernel::with(|kernel, _| {
        kernel.switch(0, NOW.load(Ordering::SeqCst));
        kernel.running()
    });
    let mut turn = lock(&TURN.0);
    turn.1 = next;
    TURN.1.notify_all();
    *turn
}

fn wait_for_turn(me: Turn) {
    drop(TURN.1.wait_while(lock(&TURN.0), |turn| *turn != me).unwrap_or_else(PoisonError::into_inner));
}

struct CriticalSection;
critical_section::set_impl!(CriticalSection);

// SAFETY: `acquire` returns with `CRITICAL` locked by this thread, until the `release` of the outermost section.
unsafe impl critical_section::Impl for CriticalSection {
    unsafe fn acquire() -> bool {
        HELD.with_borrow_mut(|held| {
            let outermost = held.is_none();
            if outermost {
                *held = Some(lock(&CRITICAL));
            }
            outermost
        })
    }

    unsafe fn release(outermost: bool) {
        if outermost {
            HELD.set(None);
            let due = SWITCH.load(Ordering::SeqCst) && !thread::panicking();
            if let Some(me) = SELF.get().filter(|_| due) {
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

//! mobi-rtos: a small preemptive real-time kernel, as a library that applications link.
//!
//! An application is one ELF file that boots at EL1 on one AArch64 CPU: as a guest of MobiVMM, where it uses paravirtual
//! services, or on a bare machine such as QEMU's `virt`, with GICv2 or GICv3. It finds its devices in the device tree.
//! On a host the same application runs in virtual time (`host`), for tests of its logic.
//!
//! ```no_run
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//! use mobi_rtos::time::{self, ExtU64};
//! use mobi_rtos::{Priority, Task, println};
//!
//! static HELLO: Task<4096> = Task::new();
//!
//! mobi_rtos::app!(start);
//!
//! /// Runs once, before the scheduler starts.
//! fn start() {
//!     HELLO.spawn("hello", Priority::new(10), || {
//!         let mut release = time::now();
//!         loop {
//!             println!("hello at {}", time::now());
//!             release += 100.millis();
//!             time::delay_until(release);
//!         }
//!     }).unwrap();
//! }
//! ```
//!
//! # A tour
//! * **Tasks.** A [`Task`] is a stack in a `static`; [`Task::spawn`] gives it a name, one of 63 [priorities](Priority)
//!   that no other task has, and a closure to run. The most urgent task that can run does, and is found in constant time.
//!   Overflowing its stack hits a page that faults, and ends in a line with the task's name; [`task::statistics`] tells
//!   how much CPU time and stack each task uses.
//! * **Time.** [`time::delay_until`] and all time-outs set the hardware timer for just their end: there is no tick, and
//!   [`idle`] sleeps. [`Timers`] call functions once or periodically.
//! * **Sharing.** A [`Mutex`] guards a value and lends its owner the urgency of those who wait, through any chain;
//!   a deadlock is found when it would begin.
//! * **Telling.** [`Semaphore`]s count, [`Flags`] say which of several events have come, a [`Queue`] keeps messages in
//!   order, a [`Mailbox`] the latest one. A unit, message or lock passes to the most urgent waiter at once.
//! * **Interrupts.** A handler ([`interrupt`]) gives a semaphore, sets flags or sends a message; or it is
//!   [deferred](interrupt::Deferred) to a task whole.
//! * **Devices.** The [`Console`] is `embedded-io`, [`time::Delay`] and [pins](pv::gpio) are `embedded-hal`;
//!   [`loopback`] has devices to test drivers with.
//! * **MobiVMM** ([`pv`]). An application tells when its job is done, reads its [reservation](pv::reservation) and what is
//!   left of it, asks for another one, and talks through [channels](pv::channel) to other VMs.
//!
//! What tasks and handlers may call: a task everything; an interrupt handler, and code in a critical section
//! (`critical_section::with`), what does not wait: `give`, `set`, `post` and all that begins with `try_`. What waits
//! panics there. A panic prints a line and powers the (virtual) machine off.
//!
//! # For those who know uC/OS-II
//! | uC/OS-II | here |
//! |---|---|
//! | `OSInit`, `OSStart` | [`app!`] |
//! | `OSTaskCreate`, `OSTaskCreateExt`, `OSTaskNameSet` | [`Task::spawn`] |
//! | `OSTaskDel(OS_PRIO_SELF)` | returning from the task's closure |
//! | `OSTaskDel` of another, `OSTaskSuspend`, `OSTaskResume` | not there: a task waits for what it is told by |
//! | `OSTaskChangePrio` | not there: a [`Mutex`] does it where it is needed |
//! | `OSTaskStkChk`, `OSTaskQuery`, `OS_TCB` counters | [`task::statistics`] |
//! | `OSTimeDly`, `OSTimeDlyHMSM` | [`time::delay`], [`time::delay_until`] |
//! | `OSTimeGet`, `OS_TICKS_PER_SEC` | [`time::now`], in nanoseconds; no tick |
//! | `OSSemCreate`, `OSSemPend`, `OSSemAccept`, `OSSemPost` | [`Semaphore::new`], [`take`](Semaphore::take), [`try_take`](Semaphore::try_take), [`give`](Semaphore::give) |
//! | `OSMutexCreate`, `OSMutexPend`, `OSMutexAccept`, `OSMutexPost` | [`Mutex::new`], [`lock`](Mutex::lock), [`try_lock`](Mutex::try_lock), the guard's end; no priority is reserved |
//! | `OSQCreate`, `OSQPost`, `OSQPend`, `OSQAccept` | [`Queue::new`], [`send`](Queue::send), [`receive`](Queue::receive), [`try_receive`](Queue::try_receive) |
//! | `OSMboxCreate`, `OSMboxPost`, `OSMboxPend`, `OSMboxAccept` | [`Mailbox::new`], [`try_post`](Mailbox::try_post), [`fetch`](Mailbox::fetch), [`try_fetch`](Mailbox::try_fetch) |
//! | `OSFlagCreate`, `OSFlagPost`, `OSFlagPend`, `OS_FLAG_CONSUME` | [`Flags::new`], [`set`](Flags::set), [`wait`](Flags::wait), [`clear_on_exit`](flags::Events::clear_on_exit) |
//! | `OSTmrCreate`, `OSTmrStart`, `OSTmrStop` | [`Timers::add`], [`Timer::start`], [`Timer::start_periodic`], [`Timer::stop`] |
//! | pend with a timeout in ticks | `…_timeout` and `…_until` |
//! | `OSMemCreate`, `OSMemGet`, `OSMemPut` | not there: `heapless::pool`, or values in queues |
//! | `OSIntEnter`, `OSIntExit` | not needed: the kernel's vectors do it |
//! | `OS_ENTER_CRITICAL`, `OSSchedLock` | `critical_section::with` |
//! | `OSTaskIdleHook` | [`idle::set_hook`] |
//! | `OSStatTask`, `OSCPUUsage` | the idle task's time in [`task::statistics`] |
#![cfg_attr(target_os = "none", no_std)]
#![deny(unsafe_code)]

pub mod console;
pub mod dt;
pub mod flags;
pub mod histogram;
pub mod idle;
pub mod interrupt;
pub mod kernel;
pub mod loopback;
pub mod mailbox;
pub mod mutex;
#[expect(unsafe_code, reason = "the only place for it")]
mod port;
pub mod pv;
pub mod queue;
pub mod sem;
pub mod task;
pub mod time;
pub mod timer;

pub use console::Console;
pub use flags::Flags;
pub use kernel::Priority;
pub use mailbox::Mailbox;
pub use mutex::{Mutex, MutexGuard};
#[cfg(not(target_os = "none"))]
pub use port::host;
pub use queue::Queue;
pub use sem::Semaphore;
pub use task::Task;
pub use timer::{Timer, Timers};

/// Names the function that sets up the application: it runs once, before the scheduler starts, to spawn the first
/// tasks. In the crate of the binary, which has `#![cfg_attr(target_os = "none", no_std, no_main)]`.
#[macro_export]
macro_rules! app {
    ($start:path) => {
        #[cfg(target_os = "none")]
        #[unsafe(export_name = "mobi_rtos_app")]
        extern "Rust" fn __mobi_rtos_app() {
            $start()
        }

        #[cfg(not(target_os = "none"))]
        fn main() {
            eprintln!(
                "in virtual time on the host; the guest is built with --target aarch64-unknown-none-softfloat"
            );
            $crate::host::run($start);
        }
    };
}

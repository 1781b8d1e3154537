//! mobi-rtos: a small preemptive real-time kernel, as a library that applications link.
//!
//! It runs at EL1 on one AArch64 CPU: as a guest of MobiVMM, where it uses the paravirtual console, or on a bare
//! machine such as QEMU's `virt`, with the same binary. It finds its devices in the device tree.
//!
//! * Up to 63 [tasks](Task) with unique fixed priorities; the most urgent that can run does.
//! * [`Semaphore`]s and [`Queue`]s, also from interrupt handlers ([`interrupt`]).
//! * [`time`]: absolute and relative waits with the counter's resolution, and no tick.
//! * [`Console`] and [`time::Delay`] for drivers on embedded-io and embedded-hal.
//! * No heap: everything is a `static`.
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
//!     HELLO.spawn(Priority::new(10), || {
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
//! On a host the same application runs in virtual time ([`host`]), for tests of its logic.
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

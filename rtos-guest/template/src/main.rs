//! Blinks a line on the console.
#![cfg_attr(target_os = "none", no_std, no_main)]

use mobi_rtos::time::{self, ExtU64};
use mobi_rtos::{Priority, Task, println};

/// The task's stack.
static BLINK: Task<4096> = Task::new();

mobi_rtos::app!(start);

/// Runs before the scheduler starts.
fn start() {
    BLINK.spawn("blink", Priority::new(10), blink).expect("priority 10 is free");
}

/// Once a second, without drift.
fn blink() {
    let mut release = time::now();
    for n in 0_u32.. {
        println!("blink {n}");
        release += 1.secs();
        time::delay_until(release);
    }
}

//! A control loop: the most urgent task runs a fixed amount of work every period and measures how late it is released.
//! Every second a less urgent one prints what came of it; a shell answers on the console.
//!
//! ```text
//! period=1000us n=1000 min=48ns p50=127ns p99=255ns max=203ns misses=0
//! jitter <=63ns:12 <=127ns:740 <=255ns:248
//! ```
//! Under a hypervisor that tells it, `stolen=` is the time since boot in which that ran something else.
//! Lateness is the time from the planned release to the task's first instruction; `n`, the histogram and the misses
//! count since the start or the last change of the period. A job that ends after the next release is a miss, and so is
//! each release that passed meanwhile: the loop skips those jobs and stays on its grid. After each job the hypervisor is
//! told when the next one is released.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod plant;
mod shell;
mod statistics;

use core::cell::Cell;

use critical_section::Mutex;
use mobi_rtos::pv::reservation;
use mobi_rtos::time::{self, Duration, ExtU64};
use mobi_rtos::{Priority, Semaphore, Task, println};

use plant::{Pid, Plant};
use statistics::STATISTICS;

/// The period at the start.
const PERIOD: Duration = Duration::from_ticks(1_000_000);
/// Controller steps a job: the work, about 17,000 instructions.
const STEPS: u32 = 500;

static CONTROL: Task<8192> = Task::new();
static SHELL: Task<8192> = Task::new();
static REPORT: Task<8192> = Task::new();

/// The period that the loop takes up at its next release.
static NEW_PERIOD: Mutex<Cell<Duration>> = Mutex::new(Cell::new(PERIOD));
/// Given when the loop has taken up a new period.
static PERIOD_CHANGED: Semaphore = Semaphore::new(0);

mobi_rtos::app!(start);

fn start() {
    println!("control-loop: period {PERIOD}, {STEPS} controller steps a job");
    CONTROL.spawn("control", Priority::new(1), control).expect("priority 1 is free");
    SHELL.spawn("shell", Priority::new(10), shell::run).expect("priority 10 is free");
    REPORT.spawn("report", Priority::new(20), report).expect("priority 20 is free");
}

/// The control task.
fn control() {
    let mut pid = Pid::new(3 << 14, 1 << 12, 1 << 13);
    let mut plant = Plant::new();
    let mut period = PERIOD;
    let mut release = time::now() + period;
    loop {
        time::delay_until(release);
        let late = time::now() - release;
        for _ in 0..STEPS {
            plant.step(pid.step(plant::SETPOINT, plant.output()));
        }
        let finish = time::now();
        release += period;
        let mut misses = 0;
        if finish > release {
            misses = 1;
            while release < finish {
                release += period;
                misses += 1;
            }
        }
        STATISTICS.record(late, misses, plant.output());

        let wanted = critical_section::with(|cs| NEW_PERIOD.borrow(cs).get());
        if wanted != period {
            release = release - period + wanted;
            period = wanted;
            STATISTICS.restart(period);
            PERIOD_CHANGED.give();
        }
        reservation::job_done(release);
    }
}

/// Changes the period, and returns when that has happened.
fn set_period(period: Duration) {
    let before = critical_section::with(|cs| NEW_PERIOD.borrow(cs).replace(period));
    if before != period {
        PERIOD_CHANGED.take();
    }
}

/// The reporting task.
fn report() {
    let mut next = time::now();
    loop {
        next += 1.secs();
        time::delay_until(next);
        STATISTICS.print();
    }
}

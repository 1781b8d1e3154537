//! Two tasks and what is between them: a periodic one takes samples, a less urgent one averages and prints them.
//!
//! ```text
//! two-tasks: a sample every 10 ms
//! samples 0 to 99: average 49, at 990918928 ns
//! ```
#![cfg_attr(target_os = "none", no_std, no_main)]

use mobi_rtos::time::{self, ExtU64, Instant};
use mobi_rtos::{Priority, Queue, Task, println};

/// Samples that are averaged.
const BLOCK: u32 = 100;

/// A measurement, and when it was made.
struct Sample {
    at: Instant,
    value: u32,
}

static SAMPLE: Task<4096> = Task::new();
static AVERAGE: Task<8192> = Task::new();
static SAMPLES: Queue<Sample, 16> = Queue::new();

mobi_rtos::app!(start);

/// Runs before the scheduler starts.
fn start() {
    println!("two-tasks: a sample every 10 ms");
    SAMPLE.spawn("sample", Priority::new(1), sample).expect("priority 1 is free");
    AVERAGE.spawn("average", Priority::new(10), average).expect("priority 10 is free");
}

/// Takes a sample every 10 ms. A release is the last one plus the period, so that no delay adds up.
fn sample() {
    let mut release = time::now();
    for value in 0.. {
        SAMPLES.send(Sample { at: release, value });
        release += 10.millis();
        time::delay_until(release);
    }
}

/// Prints the average of each block of samples.
fn average() {
    for block in 0.. {
        let (mut sum, mut at) = (0, time::now());
        for _ in 0..BLOCK {
            let sample = SAMPLES.receive();
            sum += u64::from(sample.value);
            at = sample.at;
        }
        let average = sum / u64::from(BLOCK);
        println!("samples {} to {}: average {average}, at {at}", block * BLOCK, (block + 1) * BLOCK - 1);
    }
}

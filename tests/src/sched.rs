//! The scheduler, seen from outside its guests: who had the CPUs and when, and which deadlines were missed. All of it by the
//! deterministic clock, and nearly all at one CPU: QEMU lets several CPUs run in turns then, so that each is so much slower.

mod admission;
mod agreement;
mod deadlines;
mod devices;
mod idle;
mod occupancy;
mod overrun;
mod scene;
mod shares;
mod timing;
mod waiting;

use crate::Test;

pub use occupancy::{Occupancy, Span, shares};

pub fn tests() -> Vec<Test> {
    [
        timing::tests(),
        waiting::tests(),
        deadlines::tests(),
        admission::tests(),
        devices::tests(),
        idle::tests(),
        overrun::tests(),
        shares::tests(),
        agreement::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

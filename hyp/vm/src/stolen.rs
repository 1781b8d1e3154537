//! Stolen time (Arm DEN 0057A, "Paravirtualized Time for Arm-based Systems"): how long each vCPU could have run but did
//! not, told to the guest in a page that it may read.
//!
//! The page holds a record for each vCPU: a revision and attributes of 32 bits each, both 0, and the stolen time in
//! nanoseconds, 64 bits that are written in one access; all little-endian.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::bus;

/// Bytes from one vCPU's record to the next: the alignment that the specification asks for.
const STRIDE: u64 = 64;
const STOLEN: u64 = 8;

/// The guest's address of a vCPU's record.
pub(crate) fn record(vcpu: usize) -> u64 {
    bus::STOLEN_TIME.start + vcpu as u64 * STRIDE
}

/// Where in the page a vCPU's stolen time is.
pub const fn offset(vcpu: usize) -> u64 {
    vcpu as u64 * STRIDE + STOLEN
}

/// Since when a vCPU could run: a time in nanoseconds, or one of these.
const RUNS: u64 = 0;
const NEVER: u64 = u64::MAX;

/// When a vCPU became able to run.
#[derive(Debug)]
pub struct Waiting(AtomicU64);

impl Waiting {
    /// One that is off.
    pub const fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }

    /// The vCPU goes to sleep until it is woken, or until a time. To be called before the scheduler lets it sleep.
    pub fn sleeps(&self, until: Option<u64>) {
        self.0.store(until.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// The vCPU has lost its CPU; unless it sleeps, it could still run.
    pub fn leaves(&self, now: u64) {
        if self.0.load(Ordering::Relaxed) == RUNS {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// The vCPU is woken. The time is asked for only if it does not run.
    pub fn wakes(&self, now: impl FnOnce() -> u64) {
        if self.0.load(Ordering::Relaxed) != RUNS {
            self.0.fetch_min(now(), Ordering::Relaxed);
        }
    }

    /// The vCPU runs from now on. Returns how long it waited for that: to be added to its record.
    pub fn runs(&self, now: u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            RUNS => 0,
            _ => now.saturating_sub(self.0.swap(RUNS, Ordering::Relaxed)),
        }
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;

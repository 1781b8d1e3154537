//! Stolen time (Arm DEN 0057A, "Paravirtualized Time for Arm-based Systems"): how long each vCPU could have run but did
//! not, told to the guest in a page that it may read.
//!
//! The page holds a record for each vCPU: a revision and attributes of 32 bits each, both 0, and the stolen time in
//! nanoseconds, 64 bits that are written in one access; all little-endian.

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

#[cfg(test)]
mod tests;

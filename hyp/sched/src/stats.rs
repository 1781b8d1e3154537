//! What the scheduler counts.

use crate::ids::Ns;

/// A vCPU's account since it was added, up to its CPU's last decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time on CPUs, what EL2 did on its behalf included.
    pub ran: Ns,
    /// Time for which it wanted to run and did not (its stolen time).
    pub waited: Ns,
    /// How often it came onto a CPU that had something else before.
    pub switches: u64,
    /// How often it came onto another CPU than the one before.
    pub migrations: u64,
    /// How often it ran out of budget while it wanted to run.
    pub throttles: u64,
    /// Jobs that it reported done, and those of them that were late.
    pub jobs: u64,
    /// Jobs done after their deadline.
    pub misses: u64,
}

impl Stats {
    /// Nothing has happened.
    pub(crate) const NONE: Self =
        Self { ran: 0, waited: 0, switches: 0, migrations: 0, throttles: 0, jobs: 0, misses: 0 };
}

//! The scheduler against a model of a machine: CPUs that pick when told or when their timer fires, and vCPUs that work
//! and sleep.

mod changes;
mod fluid;
mod interleavings;
mod machine;
mod protocol;
mod random;
mod reservations;
mod shares;

/// How many cases a property is tried with: `PROPTEST_CASES`, or `n`.
fn cases(n: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(n)
}

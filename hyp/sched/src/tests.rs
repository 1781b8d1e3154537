//! The scheduler against a model of a machine: CPUs that pick when told or when their timer fires, and vCPUs that work
//! and sleep.

mod fluid;
mod interleavings;
mod machine;
mod protocol;
mod random;
mod reservations;
mod shares;

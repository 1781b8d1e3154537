//! The scheduler's promises, in virtual time.

mod common;
mod deadlines;
mod determinism;
mod idle;
mod shares;

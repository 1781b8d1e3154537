//! What MobiVMM and the code around it agree on: hypercalls and shared pages (with guests), the console multiplexing
//! on the wire and the trace in memory (with the runner on the host). Every number here is part of the interface: changing one needs a new
//! [`smccc::REVISION_MAJOR`] or a new escape.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod channel;
pub mod mux;
pub mod smccc;
pub mod trace;

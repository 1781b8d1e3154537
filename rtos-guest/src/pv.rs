//! What a guest can have of MobiVMM beyond a machine: its [reservation] of CPU time, and [channels](channel) to other
//! VMs. Without MobiVMM, reservations are [not supported](Error::NotSupported) and there are no channels but
//! [local ones](channel::Local), so that an application that asks runs everywhere.

pub mod channel;
pub mod gpio;
pub mod reservation;

pub use abi::smccc::Error;

use crate::port;

/// Calls the hypervisor; returns x1 to x7.
fn call(function: u32, args: [u64; 3]) -> Result<[u64; 7], Error> {
    let [x1, x2, x3] = args;
    let [x0, results @ ..] = port::hypercall(function, [x1, x2, x3, 0, 0, 0, 0]);
    Error::of(x0).map_or(Ok(results), Err)
}

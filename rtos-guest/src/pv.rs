//! What a guest can have of MobiVMM beyond a machine: its [reservation] of CPU time, and [channels](channel) to other
//! VMs. Without MobiVMM, reservations are [not supported](Error::NotSupported) and there are no channels but
//! [local ones](channel::Local), so that an application that asks runs everywhere.

pub mod channel;
pub mod gpio;
pub mod page;
pub mod reservation;

pub use abi::smccc::Error;

use crate::port;

/// Calls the hypervisor; returns x1 to x7.
fn call(function: u32, args: [u64; 3]) -> Result<[u64; 7], Error> {
    let [x1, x2, x3] = args;
    let [x0, results @ ..] = port::hypercall(function, [x1, x2, x3, 0, 0, 0, 0]);
    error(x0).map_or(Ok(results), Err)
}

/// The error in the x0 that a call returned; None if it is not negative. One that this version does not know is
/// [`Error::NotSupported`].
const fn error(x0: u64) -> Option<Error> {
    Some(match x0 as i64 {
        0.. => return None,
        -3 => Error::InvalidParameter,
        -4 => Error::NotPermitted,
        -5 => Error::OverCapacity,
        -6 => Error::NoPartition,
        -7 => Error::Busy,
        _ => Error::NotSupported,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_register() {
        use Error::*;
        for error in [NotSupported, InvalidParameter, NotPermitted, OverCapacity, NoPartition, Busy] {
            assert_eq!(super::error(error as i64 as u64), Some(error));
        }
        assert_eq!(error(i64::MIN as u64), Some(NotSupported));
        assert_eq!((error(0), error(i64::MAX as u64)), (None, None));
    }
}

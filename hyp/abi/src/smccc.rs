//! Vendor-specific hypervisor service calls (SMCCC 1.2, Arm DEN 0028E: owning entity 6), by HVC.
//!
//! Arguments are in x1.., the result in x0 (and x1.. where a call says so). A negative x0 is an [`Error`].
//! A guest that sees another UID than [`UID`], or [`NOT_SUPPORTED`], runs without MobiVMM and uses real devices.

/// "Call UID": returns the four words of [`UID`] in w0 to w3 (SMCCC 1.2).
pub const CALL_UID: u32 = 0x8600_FF01;
/// "Call revision": returns [`REVISION_MAJOR`] in w0 and [`REVISION_MINOR`] in w1.
pub const CALL_REVISION: u32 = 0x8600_FF03;

/// MobiVMM's UID, 9f4c8a52-6d1e-4b0b-a1d7-5c36e0b72f11, as [`CALL_UID`] returns it: four little-endian words of its bytes.
pub const UID: [u32; 4] = [0x528a_4c9f, 0x0b4b_1e6d, 0x365c_d7a1, 0x112f_b7e0];
/// Raised when a call changes or goes away.
pub const REVISION_MAJOR: u32 = 1;
/// Raised when a call is added.
pub const REVISION_MINOR: u32 = 1;

/// x1 = number of bytes (0 to [`CONSOLE_WRITE_MAX`]), x2 to x7 = the bytes, little-endian, eight a register.
/// Returns in x0 how many bytes were taken: fewer than offered when the console's buffer is full.
pub const CONSOLE_WRITE: u32 = 0xC600_0001;
/// Returns in x0 the number of bytes read (0 to [`CONSOLE_READ_MAX`]), in x1 to x3 the bytes as above.
pub const CONSOLE_READ: u32 = 0xC600_0002;
/// x1 = events for which the console interrupt (the PL011's, INTID 33, level) is asserted: an OR of
/// [`CONSOLE_EVENT_RX`] and [`CONSOLE_EVENT_TX`]. Returns 0. The level follows the condition, not the edge.
pub const CONSOLE_EVENTS: u32 = 0xC600_0003;

/// The job of the calling vCPU is done, and the next one is released at x1, on the guest's virtual counter (CNTVCT_EL0). x2
/// is 0 or [`JOB_DONE_WAIT`]. Returns 0.
///
/// It is a hint for the vCPU's reservation: what is left of the budget is not wanted before x1, from when on the whole
/// budget is, within the reservation's deadline. It never moves the current deadline to an earlier time, and takes nothing
/// from a guest that is woken before x1. A time that has passed is now. Errors: [`Error::NotSupported`] (also where the vCPU
/// has no reservation), [`Error::InvalidParameter`] (x2); there is no wait then.
pub const JOB_DONE: u32 = 0xC600_0004;
/// [`JOB_DONE`] then waits as a WFI does, so that one call does for both.
pub const JOB_DONE_WAIT: u64 = 1;

/// Returns 0, and in x1 to x3 the calling vCPU's [`Reservation`]: budget, period and deadline in nanoseconds. Errors:
/// [`Error::NotSupported`] if it has none.
pub const RESERVATION_GET: u32 = 0xC600_0005;
/// Returns 0, in x1 what is left of the current budget in nanoseconds, and in x2 when it is replenished, on the virtual
/// counter. Errors: [`Error::NotSupported`] if the vCPU has no reservation.
pub const RESERVATION_LEFT: u32 = 0xC600_0006;
/// Asks for another reservation for the calling vCPU: x1 to x3 as [`RESERVATION_GET`] returns them. It holds from the next
/// period on when this returns 0; else nothing has changed. Errors: [`Error::NotSupported`] if the vCPU has none,
/// [`Error::InvalidParameter`], [`Error::NotPermitted`], [`Error::OverCapacity`], [`Error::NoPartition`], [`Error::Busy`].
pub const RESERVATION_SET: u32 = 0xC600_0007;

/// Rings the bell at the other end of the channel x1 (see [`crate::channel`]): the interrupt of that end becomes pending, if
/// it is not already. Everything written before is seen by who takes the interrupt. Returns 0. Errors:
/// [`Error::InvalidParameter`] if the VM has no such channel, [`Error::NotSupported`] if nobody is at its other end.
pub const CHANNEL_NOTIFY: u32 = 0xC600_0008;

/// At least one byte can be read.
pub const CONSOLE_EVENT_RX: u64 = 1;
/// At least [`CONSOLE_WRITE_MAX`] bytes can be written.
pub const CONSOLE_EVENT_TX: u64 = 2;
/// The most bytes that one [`CONSOLE_WRITE`] carries.
pub const CONSOLE_WRITE_MAX: usize = 48;
/// The most bytes that one [`CONSOLE_READ`] returns.
pub const CONSOLE_READ_MAX: usize = 24;

/// SMCCC "unknown function identifier", as a signed 64-bit value (SMCCC 1.2).
pub const NOT_SUPPORTED: i64 = -1;

/// Why a vendor call was refused: the negative value in x0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Error {
    /// The call does not exist in this revision.
    NotSupported = NOT_SUPPORTED,
    /// An argument is out of the range that the call documents.
    InvalidParameter = -3,
    /// The machine file does not allow it.
    NotPermitted = -4,
    /// All CPUs together have less than that to give.
    OverCapacity = -5,
    /// There would be enough, but not on any one CPU.
    NoPartition = -6,
    /// Another vCPU of this VM asks for something at this moment: ask again.
    Busy = -7,
}

/// A vCPU's reservation of CPU time, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// CPU time in every period.
    pub budget: u64,
    /// How often.
    pub period: u64,
    /// Since the period's start: the budget is had by then. `budget ≤ deadline ≤ period`.
    pub deadline: u64,
}

/// What a reservation still gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// What is left of the budget, in nanoseconds.
    pub budget: u64,
    /// When it is replenished: a counter value.
    pub replenished: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_is_the_documented_uuid_in_little_endian_words() {
        let uuid: [u8; 16] =
            [0x9f, 0x4c, 0x8a, 0x52, 0x6d, 0x1e, 0x4b, 0x0b, 0xa1, 0xd7, 0x5c, 0x36, 0xe0, 0xb7, 0x2f, 0x11];
        let bytes: Vec<u8> = UID.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes, uuid);
    }
}

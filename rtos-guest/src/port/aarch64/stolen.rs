//! Stolen time (Arm DEN 0057A, "Paravirtualized time for Arm-based systems"): how long this CPU could have run but did
//! not, because the hypervisor ran something else.

use core::cell::Cell;

use critical_section::Mutex;

use super::{mmu, smccc};

const PV_TIME_FEATURES: u32 = 0xC500_0020;
const PV_TIME_ST: u32 = 0xC500_0021;

/// The record (DEN 0057A): revision and attributes, both 0, and the stolen time in nanoseconds at offset 8.
const RECORD_SIZE: usize = 16;
const STOLEN_NANOS: usize = 8;

/// The record's address.
static RECORD: Mutex<Cell<Option<usize>>> = Mutex::new(Cell::new(None));

/// Asks the hypervisor for the record and maps it.
pub(super) fn set_up() {
    if smccc::call(PV_TIME_FEATURES, [PV_TIME_ST.into(), 0, 0, 0, 0, 0, 0])[0] != 0 {
        return;
    }
    let address = smccc::call(PV_TIME_ST, [0; 7])[0];
    if (address as i64) >= 0 {
        mmu::map_read_only(address as usize, RECORD_SIZE);
        critical_section::with(|cs| RECORD.borrow(cs).set(Some(address as usize)));
    }
}

/// The stolen time in nanoseconds, if the hypervisor tells it.
pub(crate) fn stolen_nanos() -> Option<u64> {
    let record = critical_section::with(|cs| RECORD.borrow(cs).get())?;
    let nanos = core::ptr::with_exposed_provenance::<u64>(record + STOLEN_NANOS);
    // SAFETY: `set_up` mapped it, aligned to 64; the hypervisor writes it in one access (DEN 0057A).
    Some(u64::from_le(unsafe { nanos.read_volatile() }))
}

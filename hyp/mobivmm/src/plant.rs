//! Delays on the paths that `cargo xtask bench` measures, each behind a feature of its own, `plant_` and the row's name. All are off
//! but for `cargo xtask bench --plant`, which shows that a row notices the one on its path, and no other row does.

use core::hint::black_box;

use bundle::Schedule;

use crate::guest::Guest;

/// Instructions of a delay, about.
pub const DELAY: u64 = 500;
/// The function identifier of PSCI_VERSION.
const PSCI_VERSION: u64 = 0x8400_0000;
/// A VM's GICD_CTLR, a write to which takes longest, and its GICD_TYPER.
const GICD_CTLR: u64 = 0x0800_0000;
const GICD_TYPER: u64 = 0x0800_0004;

/// Takes about so many instructions: a round is five.
#[inline(never)]
pub fn spin(instructions: u64) {
    (0..instructions / 5).for_each(|n| _ = black_box(n));
}

/// A delay, if the feature is on and this is where its row looks.
macro_rules! plant {
    ($feature:tt, $applies:expr) => {
        if cfg!(feature = $feature) && $applies {
            $crate::plant::spin($crate::plant::DELAY);
        }
    };
}

/// The delays in answers to traps. Loads trap as well as what is measured, which is the first VM.
#[inline(always)]
pub fn trap(guest: &Guest, x0: u64, esr: u64) {
    let far = || arch::enter::fault_address().0;
    let (ec, first) = (esr >> 26, guest.index == 0);
    let (call, abort) = (first && ec == 0x16 && x0 == PSCI_VERSION, first && ec == 0x24);
    plant!("plant_null_hypercall", call && arch::errata::workaround(0x8000_3fff) == 0);
    plant!("plant_null_hypercall_unmitigated", call && arch::errata::workaround(0x8000_3fff) != 0);
    plant!("plant_mmio_gicd_read", abort && far() == GICD_TYPER);
    plant!("plant_mmio_worst", abort && far() == GICD_CTLR);
}

/// The delay in CPU_ON, ten times as long. Loads start vCPUs, some of them while latencies are measured: not where a VM has a reservation.
#[inline(always)]
pub fn start(guests: &[&Guest], guest: &Guest) {
    let reserved = |guest: &&Guest| matches!(guest.config.schedule, Schedule::Reservation { .. });
    if cfg!(feature = "plant_irq_off_max") && guest.index != 0 && !guests.iter().any(reserved) {
        spin(10 * DELAY);
    }
}

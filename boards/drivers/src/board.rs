//! What the device tree does not say about a machine.

use core::ops::Range;

use crate::platform::Platform;

/// A board: data only. What the device tree tells is not repeated here.
#[derive(Debug)]
pub struct Board {
    /// For the console and for `--board`.
    pub name: &'static str,
    /// The root node's `compatible` strings that mean this board.
    pub compatible: &'static [&'static str],
    /// How the machine is turned off.
    pub power: PowerMethod,
    /// CPUs that the board can have.
    pub max_cpus: usize,
    /// Memory that firmware keeps using, whether or not the device tree reserves it.
    pub firmware: Option<Range<u64>>,
    /// What EL2's own paths cost here.
    pub timing: Timing,
}

/// How a machine is turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerMethod {
    /// PSCI SYSTEM_OFF.
    Psci,
    /// The watchdog of the BCM2835 power manager ([`crate::bcm2835_pm`]).
    Bcm2835Pm,
}

/// Upper bounds for the scheduler's admission test, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The longest time for which EL2 masks interrupts.
    pub irq_off_max_ns: u32,
    /// One switch between VMs, decision included.
    pub vm_switch_ns: u32,
}

/// The first board of which the machine is one, by the `compatible` of the root node.
pub fn select(boards: &[&'static Board], platform: &Platform<'_>) -> Option<&'static Board> {
    boards.iter().copied().find(|board| platform.compatible().any(|name| board.compatible.contains(&name)))
}

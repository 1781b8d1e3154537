//! Raspberry Pi 4 Model B (BCM2711: four Cortex-A72, GIC-400), and QEMU's `raspi4b`.
//!
//! Oddities:
//! * The firmware has no PSCI (an SMC hangs): CPUs start by spin table, at 0xd8 + 8 × n in the page that firmware keeps at
//!   address 0, and power is the BCM2835 power manager's. "Off" is firmware's halt: the board stays supplied.
//! * No SMMU: a VM with a device that does DMA is as trusted as EL2.
//! * The PL011 is wired to the Bluetooth chip, and the pins 14 and 15 of the header to the mini UART, until `config.txt` has
//!   `enable_uart=1` and `dtoverlay=disable-bt`. Firmware sets its rate, 115,200 baud: the device tree does not tell its clock.
//! * The GPU's memory is missing from the memory that firmware writes into the device tree; QEMU's machine has exactly 2 GiB.
//! * Cortex-A72 r0p3: erratum 1319367 (speculative AT with a half-switched translation regime) concerns the world switch.
//! * The device tree of Linux has devices that QEMU lacks (GENET, PCIe, rng200): reads of their registers abort.
#![no_std]
#![forbid(unsafe_code)]

use drivers::board::{Board, PowerMethod, Timing};

/// Raspberry Pi 4 Model B.
pub static BOARD: Board = Board {
    name: "rpi4",
    compatible: &["raspberrypi,4-model-b", "raspberrypi,4-compute-module", "raspberrypi,400", "brcm,bcm2711"],
    power: PowerMethod::Bcm2835Pm,
    max_cpus: 4,
    // Firmware's stub with its spin table.
    firmware: Some(0..0x1000),
    // Estimates: neither has been measured on the board. Of the longest paths' instructions (3,000 and 4,500, see `board_virt`) one in
    // forty waits for memory, for 200 ns.
    timing: Timing { irq_off_max_ns: 15_000, vm_switch_ns: 22_500 },
};

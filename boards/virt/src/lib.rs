//! QEMU's `virt` machine with `virtualization=on`: GICv2 or GICv3, PSCI by SMC.
//!
//! Oddities:
//! * A kernel that is not an arm64 `Image` (an ELF file) is entered with x0 = 0; the device tree is at the start of RAM then.
//! * The GICv2 interface stops at 8 CPUs.
//! * `-M virt,dtb-randomness=off` is needed for two runs to be given the same device tree.
#![no_std]
#![forbid(unsafe_code)]

use drivers::board::{Board, PowerMethod, Timing};

/// QEMU `-M virt`.
pub static BOARD: Board = Board {
    name: "virt",
    compatible: &["linux,dummy-virt"],
    power: PowerMethod::Psci,
    max_cpus: drivers::MAX_CPUS,
    firmware: None,
    // Under `-icount shift=0` an instruction takes a nanosecond. `cargo xtask test --e2e sched_timing` measures both, with 64 vCPUs, and
    // fails if they are more.
    timing: Timing { irq_off_max_ns: 3_000, vm_switch_ns: 4_500 },
};

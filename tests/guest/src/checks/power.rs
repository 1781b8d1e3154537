//! PSCI.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::everywhere;
use super::report::Check;
use crate::psci::{self, Conduit, call, hvc};
use crate::{cpu, time};

/// PSCI answers, by HVC and by SMC, and what is unknown or wrong gets an error.
pub fn psci() {
    let mut check = Check::new("psci");
    // What is in this VM's RAM, but never run: all these calls fail.
    let entry = 0x4008_0000;
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        let mut answers = |what: &str, function, arguments, expected| {
            check.equal(what, (conduit, call(conduit, function, arguments)), (conduit, expected));
        };
        answers("version", psci::VERSION, [0; 3], 0x1_0001);
        answers("features of CPU_ON", psci::FEATURES, [psci::CPU_ON.into(), 0, 0], psci::SUCCESS);
        answers("features of nothing", psci::FEATURES, [0x8400_001f, 0, 0], psci::NOT_SUPPORTED);
        answers("an unknown function", 0x8400_dead, [0; 3], psci::NOT_SUPPORTED);
        answers("migration", psci::MIGRATE_INFO_TYPE, [0; 3], 2);
        answers("an unknown vCPU", psci::CPU_ON, [0x1234_5600, entry, 0], psci::INVALID_PARAMETERS);
        answers(
            "a vCPU beyond the last",
            psci::CPU_ON,
            [cpu::online() as u64, entry, 0],
            psci::INVALID_PARAMETERS,
        );
        answers("this vCPU", psci::CPU_ON, [0, entry, 0], psci::ALREADY_ON);
        answers("what is on", psci::AFFINITY_INFO, [0; 3], psci::SUCCESS);
        answers("what there is not", psci::AFFINITY_INFO, [0xff00, 0, 0], psci::INVALID_PARAMETERS);
    }
    smc_is_skipped_once(&mut check);
    check.verdict();
}

/// An SMC is a call also with an immediate; the next instruction is executed, once.
fn smc_is_skipped_once(check: &mut Check) {
    let (mut result, mut next) = (0x8400_0000i64, 0);
    // SAFETY: a call that changes x0 to x17 at the most.
    unsafe {
        asm!("smc #0", "add x20, x20, #1", inout("x0") result, inout("x20") next, clobber_abi("C"));
    }
    check.equal("SMC", (result, next), (0x1_0001, 1));
    result = 0x8400_0000;
    // SAFETY: as above.
    unsafe {
        asm!("smc #1", "add x20, x20, #1", inout("x0") result, inout("x20") next, clobber_abi("C"));
    }
    check.equal("SMC with a reserved immediate", (result, next), (-1, 2));
}

/// The vCPU that [`power`] turns off.
static TARGET: AtomicUsize = AtomicUsize::new(0);

/// vCPUs turn themselves off, are seen to be off, and are turned on again.
pub fn power() {
    let mut check = Check::new("power");
    let vcpus = cpu::online();
    for index in (1..vcpus).chain(1..vcpus) {
        TARGET.store(index, Ordering::Release);
        everywhere(|index| {
            if TARGET.load(Ordering::Acquire) == index {
                super::finish();
                cpu::stop();
            }
        });
        let is_off = || hvc(psci::AFFINITY_INFO, [index as u64, 0, 0]) == psci::OFF;
        check.holds("the vCPU is off", time::spin(5_000_000, is_off));
        check.equal("CPU_ON", cpu::start(index), psci::SUCCESS);
        check.holds("the vCPU is on", time::spin(5_000_000, || cpu::online() == vcpus));
        check.equal("CPU_ON again", cpu::start(index), psci::ALREADY_ON);
        everywhere(|_| {});
    }

    cpu::set_masked(true);
    let due = time::ticks() + time::micros(1_000);
    time::arm(false, Some(due));
    while time::ticks() < due {
        check.equal("CPU_SUSPEND to a standby", hvc(psci::CPU_SUSPEND, [0; 3]), psci::SUCCESS);
    }
    time::arm(false, None);
    cpu::set_masked(false);
    check.verdict();
}

/// All vCPUs stop the VM at the same time.
pub fn all_at_once(function: u32) {
    static FUNCTION: AtomicU32 = AtomicU32::new(0);
    FUNCTION.store(function, Ordering::Release);
    everywhere(|_| _ = hvc(FUNCTION.load(Ordering::Acquire), [0; 3]));
}

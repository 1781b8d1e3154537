//! What a guest must not do, or what it must not see, gets the architected answer, and the guest lives.

use core::arch::asm;

use super::report::Check;
use crate::cpu::{DATA_ABORT, Fault, INSTRUCTION_ABORT, UNDEFINED, class_of, probe};
use crate::gic::{self, distributor, read, redistributor, write};

/// A hole in the guest platform's address map, inside this program's own.
const HOLE: usize = 0x0b00_0000;
const BELOW_RAM: usize = 0x3fff_f000;
const ABOVE_RAM: usize = 0x7fff_f000;
const UART: usize = 0x0900_0000;
/// GICD_TYPER.
const TYPER: usize = 0x4;

/// Accesses that go wrong, and some that only look as if they would.
pub fn faults() {
    let mut check = Check::new("faults");
    for at in [HOLE, BELOW_RAM, ABOVE_RAM] {
        let fault = Some(Fault { class: DATA_ABORT, address: at as u64 });
        check.equal("a load from nowhere", probe(|| read(at)), fault);
        check.equal("a store to nowhere", probe(|| write(at, 1)), fault);
    }
    for at in [HOLE, BELOW_RAM] {
        let fault = Some(Fault { class: INSTRUCTION_ABORT, address: at as u64 });
        check.equal("a jump to nowhere", probe(|| jump(at)), fault);
    }
    check.equal("a jump to a device", class_of(|| jump(UART)), Some(INSTRUCTION_ABORT));
    check.equal(
        "a misaligned load from a device",
        class_of(|| read(distributor(TYPER + 1))),
        Some(DATA_ABORT),
    );

    let typer = read(distributor(TYPER));
    let (loaded, mut base): (u32, usize);
    base = distributor(TYPER);
    // SAFETY: reads GICD_TYPER.
    unsafe { asm!("ldr {:w}, [{}], #4", out(reg) loaded, inout(reg) base, options(nostack)) };
    check.equal("a load with write-back", (loaded, base), (typer, distributor(TYPER + 4)));
    let (first, second): (u32, u32);
    // SAFETY: reads GICD_TYPER and GICD_IIDR.
    unsafe {
        asm!("ldp {:w}, {:w}, [{}]", out(reg) first, out(reg) second, in(reg) base - 4, options(nostack))
    };
    check.equal("a load of a pair", (first, second), (typer, read(base)));

    // SAFETY: a load from a device, which at the worst faults.
    let exclusive =
        class_of(|| unsafe { asm!("ldxr {:w}, [{}]", out(reg) _, in(reg) base, options(nostack)) });
    check.holds("an exclusive load works or faults", matches!(exclusive, None | Some(DATA_ABORT)));
    // SAFETY: HCR_EL2 is not this exception level's.
    let el2 = class_of(|| unsafe { asm!("mrs {}, hcr_el2", out(reg) _, options(nostack)) });
    check.equal("a register of EL2", el2, Some(UNDEFINED));
    // SAFETY: a register of the implementation's: nothing, or undefined.
    let implementation = class_of(|| unsafe { asm!("msr s3_1_c15_c2_0, xzr", options(nostack)) });
    check.holds("an implementation's register", matches!(implementation, None | Some(UNDEFINED)));
    check.verdict();
}

/// The emulator's back door to its host is shut: the instruction is undefined, as on a board, and the machine goes on.
pub fn semihosting() {
    let mut check = Check::new("semihosting");
    let block = [0x20026u64, 0]; // SYS_EXIT_EXTENDED: the application has ended, with status 0.
    let class = class_of(|| {
        // SAFETY: ends the machine, or is undefined.
        unsafe { asm!("hlt #0xf000", inout("x0") 0x20u64 => _, in("x1") block.as_ptr(), options(nostack)) }
    });
    check.equal("HLT", class, Some(UNDEFINED));
    check.verdict();
}

/// Loses the vectors, then needs them: no guest can go on from there.
pub fn crash() {
    // SAFETY: there is nothing left to be unsafe for.
    unsafe { asm!("msr vbar_el1, {}", "isb", in(reg) HOLE, options(nostack)) };
    jump(HOLE);
}

/// Calls what is no code: the fault returns here.
fn jump(at: usize) {
    // SAFETY: the fetch faults, and the handler goes on at the return address.
    unsafe { asm!("blr {}", in(reg) at, clobber_abi("C")) };
}

macro_rules! id_register {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reads an ID register.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Features whose state is not switched between VMs are hidden, and not there.
pub fn ids() {
    let mut check = Check::new("ids");
    let hidden: [(&str, u64, &[u32]); 4] = [
        // EL2, EL3, RAS, SVE, MPAM, AMU.
        ("ID_AA64PFR0_EL1", id_register!("id_aa64pfr0_el1"), &[8, 12, 28, 32, 40, 44]),
        // MTE, SME.
        ("ID_AA64PFR1_EL1", id_register!("id_aa64pfr1_el1"), &[8, 24]),
        // The PMU, trace, SPE, TRBE.
        ("ID_AA64DFR0_EL1", id_register!("id_aa64dfr0_el1"), &[4, 8, 32, 44]),
        // Unallocated.
        (
            "S3_0_C0_C7_7",
            id_register!("s3_0_c0_c7_7"),
            &[0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60],
        ),
    ];
    for (name, value, fields) in hidden {
        for shift in fields {
            check.equal(name, (shift, value >> shift & 0xf), (shift, 0));
        }
    }
    check.holds("at most 40 bits of physical address", id_register!("id_aa64mmfr0_el1") & 0xf <= 2);

    // SAFETY: reads a register.
    let pmu = class_of(|| unsafe { asm!("mrs {}, pmcr_el0", out(reg) _, options(nostack)) });
    check.equal("PMCR_EL0", pmu, Some(UNDEFINED));
    // Even if the guest itself would not trap it: CPACR_EL1.ZEN and SMEN.
    // SAFETY: only traps of features that this program does not use change.
    unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) 0x333_0000u64, options(nostack)) };
    // SAFETY: rdvl x9, #1
    let sve = class_of(|| unsafe { asm!(".inst 0x04bf5029", out("x9") _, options(nostack)) });
    check.equal("an SVE instruction", sve, Some(UNDEFINED));
    // SAFETY: rdsvl x9, #1
    let sme = class_of(|| unsafe { asm!(".inst 0x04bf5829", out("x9") _, options(nostack)) });
    check.equal("an SME instruction", sme, Some(UNDEFINED));
    // SAFETY: as in the start.
    unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) 0x30_0000u64, options(nostack)) };
    check.verdict();
}

/// Every register of the GIC, known or not, can be read, and reserved ones read as zero and ignore writes.
pub fn registers() {
    let mut check = Check::new("registers");
    let reads = |at: usize| probe(|| read(at));
    let end = if gic::v3() { 0x1_0000 } else { 0x1000 };
    for offset in (0..end).step_by(4) {
        check.equal("GICD", (offset, reads(distributor(offset))), (offset, None));
    }
    let mut reserved = |at: usize| {
        check.equal("a store", probe(|| write(at, !0)), None);
        check.equal("a reserved register", read(at), 0);
    };
    reserved(distributor(0xc));
    reserved(distributor(0x3c));
    if gic::v3() {
        reserved(redistributor(0, 0x28));
        reserved(redistributor(0, 0x1_0f00));
        for offset in (0..0x2_0000).step_by(4) {
            check.equal("GICR", (offset, reads(redistributor(0, offset))), (offset, None));
        }
        let beyond = class_of(|| read(redistributor(8, 8)));
        check.holds("beyond the last redistributor", matches!(beyond, None | Some(DATA_ABORT)));
    }
    check.verdict();
}

//! Stolen time (Arm DEN 0057A).

use super::report::Check;
use crate::cpu::{DATA_ABORT, class_of};
use crate::gic::{read, write};
use crate::psci::{NOT_SUPPORTED, SUCCESS, hvc};
use crate::{cpu, println, time};

const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const PV_TIME_FEATURES: u32 = 0xc500_0020;
const PV_TIME_ST: u32 = 0xc500_0021;

/// The record is there, cannot be written, and grows only while others have this CPU.
pub fn stolen() {
    let mut check = Check::new("stolen");
    let features = |function: u32| hvc(PV_TIME_FEATURES, [function.into(), 0, 0]);
    check.equal("its feature", hvc(SMCCC_ARCH_FEATURES, [PV_TIME_FEATURES.into(), 0, 0]), SUCCESS);
    check.equal("the record's feature", features(PV_TIME_ST), SUCCESS);
    check.equal("another feature", features(PV_TIME_ST + 1), NOT_SUPPORTED);
    let record = hvc(PV_TIME_ST, [0; 3]) as usize;
    check.equal("alignment, revision, attributes", (record % 64, read(record), read(record + 4)), (0, 0, 0));
    check.equal("a write", class_of(|| write(record + 8, 0)), Some(DATA_ABORT));

    let ns = || u64::from(read(record + 8)) | u64::from(read(record + 12)) << 32;
    let (before, from) = (ns(), time::ticks());
    let until = from + time::micros(100_000);
    while time::ticks() < until {
        cpu::relax();
    }
    let (stolen, passed) = (ns() - before, (time::ticks() - from) * 1_000 / time::micros(1_000) * 1_000);
    println!("stolen={} of {} us", stolen / 1_000, passed / 1_000);
    check.holds("less is stolen than passes", stolen <= passed);
    check.verdict();
}

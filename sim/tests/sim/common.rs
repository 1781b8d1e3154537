//! Machines for the tests, as text.

use machines::Machine;
use mobivmm_sim::{Costs, Options, Outcome, Report, VcpuReport, simulate};
use sched::admission::Overhead;
use sched::{CpuSet, Ns};
use std::path::Path;

pub const MS: Ns = 1_000_000;
pub const S: Ns = 1_000_000_000;
/// QEMU's `virt`.
pub const VIRT: Overhead = {
    let timing = board_virt::BOARD.timing;
    Overhead { irq_off_max: timing.irq_off_max_ns as Ns, vm_switch: timing.vm_switch_ns as Ns }
};

/// A machine of VMs: name, vCPUs, and further lines.
pub fn machine(vms: &[(&str, u32, &str)]) -> Machine {
    let vm = |(name, vcpus, more): &(&str, u32, &str)| {
        format!("[[vm]]\nname = \"{name}\"\nkernel = \"a:b\"\nmemory = \"16MiB\"\nvcpus = {vcpus}\n{more}\n")
    };
    parse(&format!("[machine]\nname = \"test\"\n{}", vms.iter().map(vm).collect::<String>()))
}

/// A machine from the text of its file.
pub fn parse(text: &str) -> Machine {
    Machine::parse(Path::new("test.toml"), text).unwrap()
}

/// The text of a machine file of the project.
pub fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../machines").join(name)).unwrap()
}

pub fn options(cpus: usize, seed: u64, duration: Ns) -> Options {
    Options {
        online: CpuSet::first(cpus),
        overhead: VIRT,
        costs: Costs::of(VIRT),
        seed,
        duration,
        charted: 0,
    }
}

pub fn run(machine: &Machine, cpus: usize, seed: u64, duration: Ns) -> Outcome {
    simulate(machine, &options(cpus, seed, duration)).unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// The vCPUs of a VM.
pub fn vcpus<'a>(report: &'a Report, vm: &'a str) -> impl Iterator<Item = &'a VcpuReport> {
    report.vcpus.iter().filter(move |vcpu| vcpu.name.split('.').next() == Some(vm))
}

/// The share of a VM, in percent of one CPU.
pub fn share(report: &Report, vm: &str) -> f64 {
    vcpus(report, vm).map(|vcpu| vcpu.share).sum()
}

/// Asserts that `value` is `expected`, give or take `percent` of that.
#[track_caller]
pub fn within(percent: f64, value: f64, expected: f64, report: &Report) {
    let off = (value - expected).abs() / expected * 100.0;
    assert!(off <= percent, "{value:.3} and not {expected:.3}: off by {off:.2} %\n{report}");
}

//! Admission at boot: what was promised on another machine is refused where it cannot be kept, with the sums of each CPU, and the
//! others run.

use anyhow::{Result, ensure};
use machines::Machine;
use qemu::HYPERVISOR;
use sched::CpuSet;

use super::scene::{VIRT, Vm, machine};
use crate::Test;
use crate::lab::{Lab, Setup, until};

/// The CPUs that `cargo xtask machine check` assumes.
const VIRT_CPUS: usize = 4;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("sched_refused_on_fewer_cpus", fewer_cpus),
        Test::new("sched_refused_on_slower_board", slower_board),
    ]
}

/// Three vCPUs of 60 % have a CPU each where there are four, and one has none where there are two.
fn fewer_cpus(lab: &Lab<'_>, name: &str) -> Result<()> {
    let sixty = |name| Vm::new(name, "hypercall").schedule("{ budget = \"600us\", period = \"1ms\" }");
    let vms = [sixty("a"), sixty("b"), sixty("c"), Vm::new("other", "hypercall")];
    let machine = machine(lab, name, &vms)?;
    let setup = lab.setup_of(name, &machine)?.cpus("cortex-a72", 2);
    let line = "^vm c: refused: vCPU 0: no partition found: 600us in every 1ms \\(60\\.00 %\\) fits nowhere.*; \
                CPU 0 60\\.00 %, CPU 1 60\\.00 %, of 95\\.00 % that can be reserved$";
    refused(&machine, setup, "c", line, &["a", "b", "other"])
}

/// Two switches and the longest time with interrupts masked fit into the rest of a period on a board whose EL2 is fast.
fn slower_board(lab: &Lab<'_>, name: &str) -> Result<()> {
    let hasty = Vm::new("hasty", "hypercall").schedule("{ budget = \"100us\", period = \"150us\" }");
    let machine = machine(lab, name, &[hasty, Vm::new("other", "hypercall")])?;
    let setup = lab.setup_of(name, &machine)?.rpi4(lab)?;
    let line = "^vm hasty: refused: vCPU 0: over capacity: not even an empty CPU has 100us in every 150us .*; \
                CPU 0 0\\.00 %, CPU 1 0\\.00 %, CPU 2 0\\.00 %, CPU 3 0\\.00 %, of 95\\.00 % that can be reserved$";
    refused(&machine, setup, "hasty", line, &["other"])
}

/// The host admits `machine` for another board than `setup` is; there, `vm` does not start, and the log says so as `line`.
fn refused(machine: &Machine, setup: Setup, vm: &str, line: &str, others: &[&str]) -> Result<()> {
    machine.admit(CpuSet::first(VIRT_CPUS), VIRT)?;
    let mut script = vec![until(HYPERVISOR, line)?];
    for other in others {
        script.push(until(other, "^done")?);
    }
    let report = setup.run(script)?;
    let said = report.outcome.console(vm);
    ensure!(said.is_empty(), "{vm} was refused, and said {said:?}");
    Ok(())
}

//! VMs that stop and start in the worst ways.

use anyhow::{Result, ensure};
use qemu::{Gic, HYPERVISOR};

use crate::Test;
use crate::lab::{Setup, send, until};

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for gic in [Gic::V3, Gic::V2] {
        for cpus in [4, 2] {
            tests.push(Test::new(format!("lifecycle_all_at_once_gic{gic}_{cpus}cpus"), move |lab, name| {
                let setup = lab.setup(name, "tests/machines/checks.toml")?;
                all_at_once(setup.gic(gic).cpus("cortex-a72", cpus))
            }));
        }
    }
    tests
}

/// All vCPUs of a VM ask for a reset, or for its end, at the same time: it happens once, and the other VM, which is busy, goes on.
fn all_at_once(setup: Setup) -> Result<()> {
    const RESETS: usize = 5;
    let ready = |vm: &str| until(vm, "^checks ready: ");
    let mut script = vec![ready("checks")?, ready("other")?, send("other", "spin")];
    for _ in 0..RESETS {
        script.extend([send("checks", "reset-all"), ready("checks")?]);
    }
    script.extend([send("checks", "off-all"), until(HYPERVISOR, "^vm checks: stopped")?]);
    script.extend([send("other", "sgis"), until("other", "^(PASS|FAIL) sgis")?]);
    script.extend([send("other", "off-all"), until(HYPERVISOR, "^all VMs have stopped$")?]);
    let report = setup.run_to_status(script, 0)?;
    let log = report.outcome.console(HYPERVISOR);
    let (restarts, stops) =
        (log.matches("vm checks: restarts").count(), log.matches("vm checks: stopped").count());
    ensure!((restarts, stops) == (RESETS, 1), "{restarts} restarts and {stops} stops:\n{log}");
    Ok(())
}

//! Stolen time, as guests see it.

use anyhow::{Context, Result, ensure};
use qemu::Gic;
use regex::Regex;

use crate::Test;
use crate::lab::{Lab, Setup, send, until};

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for gic in [Gic::V3, Gic::V2] {
        tests.push(Test::new(format!("stolen_time_checks_gic{gic}_icount"), move |lab: &Lab<'_>, name| {
            checks(lab.setup(name, "tests/machines/checks.toml")?.gic(gic).icount(true))
        }));
    }
    tests.push(Test::new("stolen_time_two_linux_icount", |lab: &Lab<'_>, name: &str| {
        linux(lab.setup(name, "machines/two-linux.toml")?.icount(true).timeout(400))
    }));
    tests
}

/// Next to nothing is stolen from a vCPU that has a CPU, and half from one that shares it with another VM of the same weight, however
/// many busy vCPUs that one has.
fn checks(setup: Setup) -> Result<()> {
    let script = || -> Result<_> {
        Ok(vec![
            until("checks", "^checks ready: ")?,
            until("other", "^checks ready: ")?,
            send("checks", "stolen"),
            until("checks", "^(PASS|FAIL) stolen")?,
            send("other", "spin"),
            send("checks", "stolen"),
            until("checks", "^(PASS|FAIL) stolen")?,
        ])
    };
    let report = setup.cpus("cortex-a72", 1).run(script()?)?;
    let shares = parts(report.outcome.console("checks"))?;
    let [alone, shared] = shares[..].try_into().context("not two lines about stolen time")?;
    ensure!(alone < 0.01, "{alone} of the time is stolen from a vCPU that is alone");
    ensure!((0.495..0.505).contains(&shared), "{shared} is stolen, and not half");
    Ok(())
}

/// What part of the time each of the test guest's lines about it says was stolen.
pub fn parts(console: &str) -> Result<Vec<f64>> {
    let regex = Regex::new("(?m)^stolen=([0-9]+) of ([0-9]+) us$")?;
    let parts = regex.captures_iter(console).map(|found| {
        let [stolen, passed] = [1, 2].map(|n| found[n].parse::<f64>());
        Ok(stolen? / passed?)
    });
    parts.collect()
}

/// Linux finds the records, and accounts for what the other Linux took from it.
fn linux(setup: Setup) -> Result<()> {
    const VMS: [&str; 2] = ["linux-a", "linux-b"];
    const BUSY: &str = "for n in 1 2 3 4; do (i=0; while [ $i -lt 300 ]; do i=$((i+1)); done) & done; wait; head -1 /proc/stat";
    let mut script = vec![until(VMS[0], "arm-pv: using stolen time PV")?];
    for vm in VMS {
        script.push(until(vm, "~ #")?);
    }
    script.extend(VMS.map(|vm| send(vm, BUSY)));
    for vm in VMS {
        // user, nice, system, idle, iowait, irq, softirq, and steal: in ticks.
        script.push(until(vm, "^cpu +([0-9]+ ){7}[1-9]")?);
    }
    setup.cpus("cortex-a72", 2).run(script).map(drop)
}

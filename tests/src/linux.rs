//! The Linux guest: beside the RTOS, and against another Linux.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use qemu::{Gic, Step};

use crate::Test;
use crate::lab::{Lab, Setup, send, until};

/// Seconds for a run in which Linux boots.
const TIMEOUT: u64 = 120;

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for gic in [Gic::V3, Gic::V2] {
        for cpu in ["cortex-a72", "max"] {
            for icount in [false, true] {
                let name = format!(
                    "phone_gic{gic}_{}{}",
                    cpu.replace("cortex-", ""),
                    if icount { "_icount" } else { "" }
                );
                tests.push(Test::new(name, move |lab, name| {
                    phone(lab, name, gic)?.cpus(cpu, 4).icount(icount).run(script()?).map(drop)
                }));
            }
        }
    }
    for gic in [Gic::V3, Gic::V2] {
        let name = format!("phone_gic{gic}_icount_repeats");
        tests.push(Test::new(name, move |lab, name| repeats(phone(lab, name, gic)?.icount(true))));
    }
    for gic in [Gic::V3, Gic::V2] {
        let name = format!("two_linux_gic{gic}");
        tests.push(Test::new(name, move |lab, name| {
            let setup = lab.setup(name, "machines/two-linux.toml")?.gic(gic).cpus("cortex-a72", 2);
            two_linux(setup)
        }));
    }
    tests
}

fn phone(lab: &Lab<'_>, name: &str, gic: Gic) -> Result<Setup> {
    Ok(lab.setup(name, "machines/phone.toml")?.gic(gic).timeout(TIMEOUT))
}

/// Linux reaches its shell, has its two CPUs, and the control loop goes on.
fn script() -> Result<Vec<Step>> {
    Ok(vec![
        until("linux", "~ #")?,
        send("linux", "nproc"),
        until("linux", "^2$")?,
        until("control", "misses=")?,
    ])
}

/// Two runs under the deterministic clock, side by side on the host, print the same.
fn repeats(setup: Setup) -> Result<()> {
    let runs = [setup.clone().log("1.log"), setup.log("2.log")];
    let [one, two] = thread::scope(|scope| {
        runs.map(|setup| scope.spawn(move || setup.run(script()?)))
            .map(|run| run.join().map_err(|_| anyhow!("the run panicked")).flatten())
    });
    let (one, two) = (one.context("first run")?, two.context("second run")?);
    if let Some((a, b)) = one.lines.iter().zip(&two.lines).find(|(a, b)| a != b) {
        return Err(anyhow!("the runs differ:\n{a}\n{b}"));
    }
    ensure!(one.lines.len() == two.lines.len(), "one run prints more than the other");
    ensure!(one.outcome.consoles == two.outcome.consoles, "the consoles differ");
    Ok(())
}

/// Both VMs reach the shell, have their four vCPUs, and keep all of them busy on two CPUs. Neither has to wait for the other's end.
fn two_linux(setup: Setup) -> Result<()> {
    const VMS: [&str; 2] = ["linux-a", "linux-b"];
    const COUNT: &str = "for n in 1 2 3 4; do (i=0; while [ $i -lt 4000 ]; do i=$((i+1)); \
                         [ $((i%500)) = 0 ] && echo job-$n-$i; done) & done; wait; echo all-done";
    let mut script = Vec::new();
    for vm in VMS {
        script.extend([until(vm, "~ #")?, send(vm, "nproc"), until(vm, "^4$")?, until(vm, "~ #")?]);
    }
    script.extend(VMS.map(|vm| send(vm, COUNT)));
    for vm in VMS {
        script.push(until(vm, "^all-done$")?);
    }
    let report = setup.run(script)?;
    let lines = || report.lines.iter().filter_map(|line| line.split_once(" | "));
    let first = lines().position(|(_, line)| line == "all-done").context("no VM is done")?;
    for vm in VMS {
        let steps = lines().take(first).filter(|(of, line)| *of == vm && line.starts_with("job-")).count();
        ensure!(steps > 4, "{vm} got {steps} of 32 steps done before the first VM was done");
        for job in 1..=4 {
            let last = format!("job-{job}-4000");
            ensure!(lines().any(|(of, line)| of == vm && line == last), "{vm} has not said {last}");
        }
    }
    Ok(())
}

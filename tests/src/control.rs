//! Shares and reservations change while the machine runs, by a guest's own wish and by the operator's, and take effect at once.

use anyhow::{Context, Result, ensure};
use machines::Machine;
use qemu::{Gic, HYPERVISOR, Step};

use crate::Test;
use crate::lab::{Lab, Setup, send, until};
use crate::stolen::parts;

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for gic in [Gic::V3, Gic::V2] {
        tests.push(Test::new(format!("control_reservations_gic{gic}_icount"), move |lab: &Lab<'_>, name| {
            reservations(setup(lab, name)?.gic(gic))
        }));
    }
    tests.push(Test::new("control_shares_icount", |lab: &Lab<'_>, name: &str| shares(setup(lab, name)?)));
    tests
}

/// Two VMs with reservations, of which one may ask for others, and two with shares; one CPU.
fn setup(lab: &Lab<'_>, name: &str) -> Result<Setup> {
    let vm = |name: &str, schedule: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"test-guest:checks\"\nmemory = \"16MiB\"\nschedule = {schedule}\n"
        )
    };
    let vms = [
        vm("asks", "{ budget = \"200us\", period = \"1ms\", adjustable = 50 }"),
        vm("rival", "{ budget = \"500us\", period = \"1ms\" }"),
        vm("one", "{ weight = 256 }"),
        vm("two", "{ weight = 256 }"),
    ];
    let text = format!("[machine]\nname = \"control\"\n{}", vms.concat());
    let machine = Machine::parse(&lab.files.join(name).with_added_extension("toml"), &text)?;
    Ok(lab.setup_of(name, &machine)?.cpus("cortex-a72", 1).icount(true))
}

fn ready() -> Result<Vec<Step>> {
    ["asks", "rival", "one", "two"].into_iter().map(|vm| until(vm, "^checks ready: ")).collect()
}

/// What a vCPU asks for, and what it is told: the answer, and the reservation that holds then.
fn ask(vm: &str, wanted: &str, answer: &str) -> Result<[Step; 2]> {
    Ok([send(vm, &format!("reserve {wanted}")), until(vm, &format!("^reserve={answer}$"))?])
}

/// What the operator types, and what the log says then.
fn order(command: &str, answer: &str) -> Result<[Step; 2]> {
    Ok([send(HYPERVISOR, command), until(HYPERVISOR, &format!("^{answer}$"))?])
}

fn reservations(setup: Setup) -> Result<()> {
    const AS_IT_WAS: &str = "get=0 now=300000/1000000/900000";
    let mut script = ready()?;
    script.extend(ask("asks", "300000 1000000 900000", &format!("0 {AS_IT_WAS}"))?);
    // The sum is more than the CPU has; more than the machine file permits; no reservations at all.
    script.extend(ask("asks", "480000 1000000 1000000", &format!("-5 {AS_IT_WAS}"))?);
    script.extend(ask("asks", "600000 1000000 1000000", &format!("-4 {AS_IT_WAS}"))?);
    for wrong in ["0 0 0", "999 1000000 1000000", "2000 1000 1000", "x x x", "2000 10000000001 2000"] {
        script.extend(ask("asks", wrong, &format!("-3 {AS_IT_WAS}"))?);
    }
    script.extend(ask("rival", "500000 1000000 1000000", "-4 get=0 now=500000/1000000/1000000")?);
    script.extend(ask("one", "300000 1000000 1000000", "-1 get=-1 now=0/0/0")?);
    // What one gives up another one can have.
    script.extend(order(
        "reserve rival 900us 1ms",
        "vm rival: refused, nothing has changed: vCPU 0: .*over capacity.*",
    )?);
    script.extend(ask("rival", "1 1 1", "-3 get=0 now=500000/1000000/1000000")?);
    script.extend(order("reserve rival 100us 1ms", r"vm rival: 100us in every 1ms \(10\.00 %\)")?);
    script.push(until(HYPERVISOR, r"^CPU 0: 40\.0+ % reserved$")?);
    script.extend(ask("asks", "480000 1000000 1000000", "0 get=0 now=480000/1000000/1000000")?);
    // A VM that has gone leaves what it had.
    script.extend(order("reserve asks 800us 1ms", "vm asks: 800us .*")?);
    script.extend([send("asks", "off"), until(HYPERVISOR, "^vm asks: stopped; .*")?]);
    script.extend(order("reserve rival 900us 1ms", "vm rival: 900us .*")?);
    script.extend(order("reserve asks 1us 1ms", "it does not run")?);
    setup.run(script).map(drop)
}

fn shares(setup: Setup) -> Result<()> {
    let stolen =
        || -> Result<[Step; 2]> { Ok([send("one", "stolen"), until("one", "^(PASS|FAIL) stolen")?]) };
    let mut script = ready()?;
    script.push(send("two", "spin"));
    script.extend(stolen()?);
    script.extend(order("weight two 768", "vm two: Running, 1 vCPUs, weight 768, cap 0 %")?);
    script.extend(stolen()?);
    for (refused, why) in [
        ("weight two 0", "refused, nothing has changed: .*"),
        ("weight two 65536", "refused, nothing has changed: .*"),
        ("weight two -1", "a weight is a whole number .*"),
        ("cap two 101", "refused, nothing has changed: .*"),
        ("weight asks 5", "it has a reservation .*"),
        ("reserve two 1ms 2ms", "it has a share .*"),
        ("weight nobody 5", "there is no such VM: .*"),
        ("reserve rival 1 2", "a duration is .*"),
        ("weight two", "commands: .*"),
        ("hello", "commands: .*"),
    ] {
        script.extend(order(refused, why)?);
    }
    script.extend(stolen()?);
    script.extend(order("cap two 10", "vm two: Running, 1 vCPUs, weight 768, cap 10 %")?);
    script.extend(stolen()?);
    let report = setup.run(script)?;
    let parts = parts(report.outcome.console("one"))?;
    let parts: [f64; 4] = parts[..].try_into().context("not four lines about stolen time")?;
    for (part, expected) in parts.into_iter().zip([0.5, 0.75, 0.75, 0.1]) {
        ensure!(
            (part - expected).abs() < 0.01,
            "{parts:?} of the time are stolen, one of them is not {expected}"
        );
    }
    Ok(())
}

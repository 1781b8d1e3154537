//! The virtual platform from the inside: the test guest's checks, and what its VM may and may not do to the other one.

use anyhow::{Context, Result, ensure};
use qemu::{Gic, HYPERVISOR, Step};
use regex::RegexBuilder;

use crate::Test;
use crate::lab::{Lab, Report, Setup, send, until};

/// A test of this file: what is run on which machine.
type Body = fn(Setup) -> Result<()>;

/// The test guest twice: `checks` with four vCPUs, `other` with two.
pub const CHECKS_TOML: &str = "tests/machines/checks.toml";

/// The guest's checks that need nothing but an answer, by machine: where CPUs are enough, and where vCPUs wait for them.
const CHECKS: [&str; 12] =
    ["faults", "ids", "registers", "psci", "power", "memory", "wfi", "muted", "spis", "split", "sgis", "fp"];

pub fn tests() -> Vec<Test> {
    let bodies: [(&str, Body); 9] = [
        ("platform", platform),
        ("timer", timer),
        ("sgis_and_fp_on_two_cpus", overcommitted),
        ("input", |setup| input(setup, 1)),
        ("input_on_four_cpus", |setup| input(setup, 4)),
        ("reset", reset),
        ("off", off),
        ("crash", crash),
        ("crash_on_one_cpu", |setup| crash(setup.cpus("cortex-a72", 1))),
    ];
    let mut tests = Vec::new();
    for (what, body) in bodies {
        for gic in [Gic::V3, Gic::V2] {
            for icount in [false, true] {
                let name = format!("checks_{what}_gic{gic}{}", if icount { "_icount" } else { "" });
                tests.push(Test::new(name, move |lab, name| {
                    body(lab.setup(name, CHECKS_TOML)?.gic(gic).icount(icount))
                }));
            }
        }
    }
    for gic in [Gic::V3, Gic::V2] {
        tests.push(Test::new(format!("checks_idle_gic{gic}_icount"), move |lab, name| {
            idle(lab.setup(name, CHECKS_TOML)?.gic(gic).icount(true))
        }));
    }
    tests.push(Test::new("checks_semihosting", |lab: &Lab<'_>, name: &str| {
        let [send, verdict] = check("checks", "semihosting")?;
        lab.setup(name, CHECKS_TOML)?.run(vec![ready("checks")?, send, verdict]).map(drop)
    }));
    // A newer CPU, and one on which 32-bit code can run at EL0 only.
    for model in ["max", "neoverse-n1"] {
        tests.push(Test::new(format!("checks_platform_gic3_{model}"), move |lab: &Lab<'_>, name: &str| {
            platform(lab.setup(name, CHECKS_TOML)?.cpus(model, 4))
        }));
    }
    tests
}

/// Has `vm` carry out a command, and waits for its verdict.
fn check(vm: &str, command: &str) -> Result<[Step; 2]> {
    Ok([send(vm, command), until(vm, &format!("^(PASS|FAIL) {command}"))?])
}

fn ready(vm: &str) -> Result<Step> {
    until(vm, "^checks ready: ")
}

/// Every check, with a CPU for each vCPU.
pub fn platform(setup: Setup) -> Result<()> {
    let mut script = vec![ready("checks")?];
    for command in CHECKS {
        script.extend(check("checks", command)?);
    }
    setup.run(script).map(drop)
}

/// The longest that a timer interrupt may have to wait, ms: every CPU has three busy vCPUs, with time slices of 5 ms.
const TIMER_LATENESS: u64 = 50;

/// Timer interrupts whose handlers are pre-empted, and end on another CPU than they began on.
fn timer(setup: Setup) -> Result<()> {
    let icount = setup.is_icount();
    let mut script = vec![ready("checks")?, ready("other")?, send("other", "spin")];
    script.extend(check("checks", "timer")?);
    script.push(send("checks", "off"));
    script.push(until(HYPERVISOR, "^vm checks: stopped; .*$")?);
    let report = setup.cpus("cortex-a72", 2).run(script)?;
    ensure!(moves(&report, "checks")? > 0, "no vCPU ever moved to another CPU");
    let late = number(r"^timer: ([0-9]+) ms late", report.outcome.console("checks"))?;
    ensure!(!icount || late <= TIMER_LATENESS, "a timer interrupt came {late} ms late");
    Ok(())
}

/// How often a VM's vCPUs moved between CPUs.
fn moves(report: &Report, vm: &str) -> Result<u64> {
    let regex = format!("^vm {vm}: stopped; ([0-9]+) vCPU moves between CPUs");
    number(&regex, report.outcome.console(HYPERVISOR))
}

/// The number that a line has where `regex` has its group.
fn number(regex: &str, console: &str) -> Result<u64> {
    let regex = RegexBuilder::new(regex).multi_line(true).build()?;
    let found = regex.captures(console).with_context(|| format!("no line matches {regex}"))?;
    Ok(found[1].parse()?)
}

/// Six busy vCPUs on two CPUs: no SGI is lost, and no FP register mixed up, within a VM and between two.
fn overcommitted(setup: Setup) -> Result<()> {
    let mut script = vec![ready("checks")?, ready("other")?, send("checks", "fp"), send("other", "fp")];
    for vm in ["checks", "other"] {
        script.push(until(vm, "^(PASS|FAIL) fp")?);
    }
    script.push(send("other", "spin"));
    script.extend(check("checks", "sgis")?);
    setup.cpus("cortex-a72", 2).run(script).map(drop)
}

/// Nothing spins and nothing ticks while all vCPUs sleep: half an hour of virtual time, in which idle CPUs cost the emulator nothing
/// and busy ones would take it longer than that.
fn idle(setup: Setup) -> Result<()> {
    let script = vec![
        ready("checks")?,
        ready("other")?,
        send("checks", "sleep 1800"),
        until("checks", "^slept 1800$")?,
    ];
    setup.timeout(60).run(script).map(drop)
}

/// Console input, each byte value and faster than it is read, to two busy VMs at once: none is lost, none is doubled, and none comes
/// before another one, whichever CPU hands them over.
fn input(setup: Setup, cpus: u32) -> Result<()> {
    let mut state = 1u32;
    let random = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let bytes: Vec<u8> = (0..=255).cycle().take(2048).chain(random.take(2048)).collect();
    let sum = bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut script = Vec::new();
    for vm in ["checks", "other"] {
        script.extend([ready(vm)?, send(vm, &format!("count {}", bytes.len())), until(vm, "^counting")?]);
    }
    script.extend(["checks", "other"].map(|vm| Step::send(vm, &bytes)));
    for vm in ["checks", "other"] {
        script.push(until(vm, &format!("^counted {} sum={sum:08x}$", bytes.len()))?);
    }
    setup.cpus("cortex-a72", cpus).run(script).map(drop)
}

/// A VM starts again as if nothing had been, as often as it likes, and the other one does not notice.
fn reset(setup: Setup) -> Result<()> {
    let mut script =
        vec![ready("checks")?, ready("other")?, send("other", "count 4"), until("other", "^counting 4")?];
    for _ in 0..3 {
        script.extend(check("checks", "sgis")?);
        script.extend([
            send("checks", "reset"),
            until(HYPERVISOR, "^vm checks: restarts")?,
            ready("checks")?,
        ]);
    }
    script.extend(check("checks", "memory")?);
    script.extend([Step::send("other", "abcd"), until("other", "^counted 4 ")?]);
    script.extend(check("other", "sgis")?);
    let report = setup.run(script)?;
    let starts = report.outcome.console("other").matches("checks ready").count();
    ensure!(starts == 1, "the other VM started {starts} times");
    Ok(())
}

/// A VM that turns itself off is gone alone; the machine ends with the last one, with status 0.
fn off(setup: Setup) -> Result<()> {
    let mut script = vec![ready("checks")?, ready("other")?];
    script.extend([send("checks", "off"), until(HYPERVISOR, "^vm checks: stopped")?]);
    for command in ["sgis", "wfi"] {
        script.extend(check("other", command)?);
    }
    script.extend([send("other", "off"), until(HYPERVISOR, "^all VMs have stopped$")?]);
    setup.run_to_status(script, 0).map(drop)
}

/// A VM that cannot go on, because the very vector of its fault faults, is stopped alone, with a line that says where. The other one
/// is busy meanwhile, with its stack and its exception registers at other places every time it loses the CPU.
fn crash(setup: Setup) -> Result<()> {
    let mut script = vec![ready("checks")?, ready("other")?];
    script.extend([send("other", "count 4"), until("other", "^counting 4$")?, send("checks", "crash")]);
    script.push(until(HYPERVISOR, "^vm checks: vCPU 0 at 0xb000200 cannot go on .*: stopped$")?);
    script.extend([send("other", "abcd"), until("other", "^counted 4 ")?]);
    for command in ["sgis", "wfi"] {
        script.extend(check("other", command)?);
    }
    script.push(send("other", "off"));
    setup.run_to_status(script, 0).map(drop)
}

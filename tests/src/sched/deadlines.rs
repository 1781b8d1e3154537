//! Deadlines: a real-time VM that has a reservation misses none, whatever the others on its CPU do; without it, it does.

use anyhow::{Context, Result, ensure};
use qemu::{Job, Step};

use super::occupancy::shares;
use super::scene::{MS, SHARE, Scene, Seen, US, Vm};
use crate::Test;
use crate::lab::{Lab, send, until};

const PERIOD: u64 = MS;
const WORK: u64 = 200 * US;
/// A job fits into it.
const RESERVATION: &str = "{ budget = \"250us\", period = \"1ms\" }";
/// What Linux does on each of its two vCPUs.
const BUSY: &str = "for n in 1 2; do while :; do :; done & done; echo bu''sy";
/// When Linux runs that.
const LINUX_UP: u64 = 3_200 * MS;

pub fn tests() -> Vec<Test> {
    let periods = |jobs| move |lab: &Lab<'_>, name: &str| beside_linux(lab, name, jobs);
    vec![
        Test::new("sched_one_cpu_10000_periods_icount", periods(10_000)),
        Test::new("sched_one_cpu_100000_periods_icount", periods(100_000)).long(),
        Test::new("sched_one_cpu_unreserved_icount", unreserved),
        Test::new("sched_phone_on_one_cpu_icount", phone),
        Test::new("sched_storms_icount", storms),
        Test::new("sched_storm_of_sgis_from_another_cpu_icount", sgis_from_another_cpu),
    ]
}

/// Beside a Linux that is busy on both its vCPUs, on one CPU.
fn beside_linux(lab: &Lab<'_>, name: &str, jobs: u64) -> Result<()> {
    let linux = Vm::linux("linux").vcpus(2);
    let task = Vm::new("task", &task(jobs, LINUX_UP, WORK)).schedule(RESERVATION);
    let seen = Scene::new(lab, name, 1, &[task, linux])?.timeout(3 * 3_600).run(script(true)?)?;
    ensure!(began_after_linux(&seen), "Linux was not up in {LINUX_UP} ns");
    let misses = misses(&seen, jobs)?;
    ensure!(misses == 0, "{misses} deadlines were missed");
    let had = shares(&seen.spans()?, 2, &(LINUX_UP..LINUX_UP + jobs * PERIOD));
    ensure!(had[1] > 0.75, "Linux has had {} of the CPU: it was not busy", had[1]);
    Ok(())
}

/// The machine of the main job on one CPU: mobi-rtos' control loop, which counts its misses itself, while Linux boots and then is busy on
/// both its vCPUs for 10 s.
fn phone(lab: &Lab<'_>, name: &str) -> Result<()> {
    let mut script = busy_linux()?.to_vec();
    script.push(until("control", "n=1[5-9][0-9]{3} .* misses=")?);
    let setup = lab.setup(name, "machines/phone.toml")?.cpus("cortex-a72", 1).icount(true);
    let report = setup.timeout(3_600).run(script)?;
    let console = report.outcome.console("control");
    let seconds: Vec<&str> = console.lines().filter(|line| line.contains("misses=")).collect();
    let missed = seconds.iter().find(|line| !line.contains("misses=0 ") && !line.ends_with("misses=0"));
    ensure!(missed.is_none(), "the control loop missed deadlines: {}", missed.unwrap_or(&""));
    let up = report.lines.iter().position(|line| line == "linux | busy").context("Linux was never busy")?;
    let before = report.lines[..up].iter().filter(|line| line.contains("misses=")).count();
    ensure!(seconds.len() - before >= 10, "Linux was busy for {} s only", seconds.len() - before);
    Ok(())
}

/// The first one without a reservation, beside that Linux and four others: a fifth of the CPU is more than a share.
fn unreserved(lab: &Lab<'_>, name: &str) -> Result<()> {
    const JOBS: u64 = 1_000;
    let mut vms =
        vec![Vm::new("task", &task(JOBS, LINUX_UP, WORK)).schedule(SHARE), Vm::linux("linux").vcpus(2)];
    let burner = format!("burn from={LINUX_UP}");
    vms.extend((1..=4).map(|n| Vm::new(format!("burner-{n}"), &burner)));
    let seen = Scene::new(lab, name, 1, &vms)?.marks_only().run(script(true)?)?;
    ensure!(began_after_linux(&seen), "Linux was not up in {LINUX_UP} ns");
    let misses = misses(&seen, JOBS)?;
    ensure!(misses > JOBS / 2, "only {misses} deadlines of {JOBS} were missed without a reservation");
    Ok(())
}

/// Beside storms of every kind on the same CPU.
fn storms(lab: &Lab<'_>, name: &str) -> Result<()> {
    const JOBS: u64 = 1_000;
    let mut vms = vec![Vm::new("task", &task(JOBS, 500 * MS, WORK)).schedule(RESERVATION)];
    let roles = ["everything", "timers", "sgis", "hypercalls", "everything"];
    vms.extend(roles.iter().enumerate().map(|(n, role)| Vm::new(format!("storm-{n}"), role).vcpus(2)));
    let seen = Scene::new(lab, name, 1, &vms)?.marks_only().run(script(false)?)?;
    let misses = misses(&seen, JOBS)?;
    ensure!(misses == 0, "{misses} deadlines were missed");
    Ok(())
}

/// SGIs from a vCPU to two that sleep, of which one at least shares the real-time VM's CPU. The two CPUs run in turns, so the job is
/// shorter.
fn sgis_from_another_cpu(lab: &Lab<'_>, name: &str) -> Result<()> {
    const JOBS: u64 = 300;
    let vms = [
        Vm::new("task", &task(JOBS, 500 * MS, WORK / 4)).schedule(RESERVATION),
        Vm::new("burner", "burn"),
        Vm::new("storm", "ipis").vcpus(3),
    ];
    let seen = Scene::new(lab, name, 2, &vms)?.run(script(false)?)?;
    let misses = misses(&seen, JOBS)?;
    ensure!(misses == 0, "{misses} deadlines were missed");
    let spans = seen.spans()?;
    let place = spans.iter().find(|span| span.vm == 0).context("the task never ran")?.cpu;
    let stormed = spans.iter().filter(|span| span.cpu == place && span.vm == 2).count();
    ensure!(stormed > 100, "the storm was on the real-time VM's CPU only {stormed} times");
    Ok(())
}

/// The role of the task.
fn task(jobs: u64, at: u64, work: u64) -> String {
    format!("jobs n={jobs} period={PERIOD} work={work} at={at}")
}

/// Runs to the end of the task's jobs.
fn script(linux: bool) -> Result<Vec<Step>> {
    let mut script = Vec::new();
    if linux {
        script.extend(busy_linux()?);
    }
    script.extend([until("task", "^jobs=[0-9]+ misses=[0-9]+$")?, until("task", "^done")?]);
    Ok(script)
}

/// Linux comes up, and is busy from then on.
fn busy_linux() -> Result<[Step; 3]> {
    Ok([until("linux", "~ #")?, send("linux", BUSY), until("linux", "^busy")?])
}

/// Whether all that was judged happened while Linux was busy.
fn began_after_linux(seen: &Seen) -> bool {
    let at = |line| seen.report.lines.iter().position(|at| at == line);
    matches!((at("linux | busy"), at("task | jobs begin")), (Some(busy), Some(begin)) if busy < begin)
}

/// How many of the task's jobs missed their deadlines, seen from outside; the guest has to agree.
fn misses(seen: &Seen, expected: u64) -> Result<u64> {
    let jobs = seen.jobs()?;
    ensure!(jobs.len() as u64 == expected, "{} jobs were recorded, not {expected}", jobs.len());
    let misses = jobs.iter().filter(|job| job.missed()).count() as u64;
    let mut lines = seen.report.outcome.console("task").lines();
    let said: Option<u64> = lines.find_map(|line| line.split_once("misses=")?.1.parse().ok());
    let said = said.context("the guest does not say how many deadlines it missed")?;
    let latest = jobs.iter().map(Job::lateness).max().unwrap_or(0);
    ensure!(
        misses == said,
        "{misses} deadlines were missed, the guest says {said}; jobs began up to {latest} ns late"
    );
    Ok(misses)
}

//! Deadlines, seen from outside: a real-time VM beside one that burns its CPU misses none; without its reservation it misses.

use anyhow::{Context, Result, ensure};
use machines::Machine;
use qemu::{Job, Jobs, Recording};

use crate::Test;
use crate::lab::{Lab, until};

/// Jobs of a task: a fifth of each millisecond.
const JOBS: usize = 1_000;
/// The VM's share if it has no reservation.
const SHARE: &str = "{ weight = 256 }";
const RESERVATION: &str = "{ budget = \"250us\", period = \"1ms\" }";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("jobs_reserved_icount", |lab: &Lab<'_>, name: &str| {
            let (jobs, said) = run(lab, name, RESERVATION)?;
            let latest = jobs.iter().map(Job::lateness).max().unwrap_or(0);
            let missed = jobs.iter().filter(|job| job.missed()).count();
            ensure!(
                missed == 0 && said == 0,
                "{missed} deadlines were missed, the guest says {said}; up to {latest} ns late"
            );
            Ok(())
        }),
        Test::new("jobs_shared_icount", |lab: &Lab<'_>, name: &str| {
            let (jobs, said) = run(lab, name, SHARE)?;
            let missed = jobs.iter().filter(|job| job.missed()).count();
            ensure!(missed > JOBS / 10, "only {missed} deadlines were missed beside a burner");
            ensure!(missed == said, "{missed} deadlines were missed, the guest says {said}");
            Ok(())
        }),
    ]
}

/// The jobs as seen from outside, and how many missed their deadlines as the guest itself says.
fn run(lab: &Lab<'_>, name: &str, schedule: &str) -> Result<(Vec<Job>, usize)> {
    let vm = |name: &str, role: &str, schedule: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"bench-guest:bench\"\ncmdline = \"{role}\"\nmemory = \"4MiB\"\n\
             schedule = {schedule}\n"
        )
    };
    let task = vm("task", &format!("jobs n={JOBS} period=1000000 work=200000"), schedule);
    let text =
        format!("[machine]\nname = \"jobs\"\n{task}{}{}", vm("a", "burn", SHARE), vm("b", "burn", SHARE));
    let machine = Machine::parse(&lab.files.join(name).with_added_extension("toml"), &text)?;
    let mut recording =
        Recording::new(lab.plugin.clone(), lab.files.join(name).with_added_extension("events"));
    recording.entries = false;
    let setup = lab.setup_of(name, &machine)?.cpus("cortex-a72,cntfrq=1000000000", 1).icount(true);
    let report = setup
        .record(&recording)
        .run(vec![until("task", "^jobs=[0-9]+ misses=[0-9]+$")?, until("task", "^done")?])?;
    let said =
        report.outcome.console("task").lines().find_map(|line| line.split_once("misses=")?.1.parse().ok());

    let mut collector = Jobs::default();
    let mut jobs = Vec::new();
    for event in recording.read()? {
        jobs.extend(collector.observe(&event?));
    }
    ensure!(jobs.len() == JOBS, "{} jobs were recorded, not {JOBS}", jobs.len());
    Ok((jobs, said.context("the guest does not say how many deadlines it missed")?))
}

//! Device interrupts take nothing from a reservation. The device is the UART, which interrupts for what is typed. When that comes is the
//! host's affair, but what is asserted holds whenever it comes.

use anyhow::{Result, ensure};
use qemu::{JOB_BEGIN, JOB_END, Kind};

use super::scene::{MS, Scene, Seen, US, Vm};
use crate::Test;
use crate::lab::{Lab, send, until};

const PERIOD: u64 = MS;
const WORK: u64 = 200 * US;
const JOBS: u64 = 2_000;
/// When the jobs begin: Linux is up.
const AT: u64 = 3_200 * MS;
/// Bytes that are typed: more than Linux can take while there are jobs.
const TYPED: usize = 8 << 20;
/// The vector of an interrupt that is taken from EL1 or EL0 in AArch64.
const INTERRUPT: u16 = 0x480;

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_storm_of_uart_interrupts_for_linux_icount", storm).long()]
}

/// On one CPU with a Linux to which more is typed than it can take, the jobs of a VM with a reservation are done in time, and nothing
/// interrupts them once they have begun.
fn storm(lab: &Lab<'_>, name: &str) -> Result<()> {
    let role = format!("jobs n={JOBS} period={PERIOD} work={WORK} at={AT}");
    let task = Vm::new("task", &role).schedule("{ budget = \"250us\", period = \"1ms\" }");
    let vms = [task, Vm::linux("linux").vcpus(2)];
    let line = "to be or not to be, that is the question\n";
    let script = vec![
        until("linux", "~ #")?,
        send("linux", "stty -echo; cat > /dev/null"),
        send("linux", &line.repeat(TYPED / line.len())),
        until("task", "^done")?,
    ];
    let seen = Scene::new(lab, name, 1, &vms)?.uart().timeout(1_200).run(script)?;
    let jobs = seen.jobs()?;
    ensure!(jobs.len() as u64 == JOBS, "{} jobs were recorded, not {JOBS}", jobs.len());
    let misses = jobs.iter().filter(|job| job.missed()).count();
    ensure!(misses == 0, "{misses} deadlines were missed");
    let (inside, outside) = interrupts(&seen)?;
    ensure!(inside == 0, "{inside} interrupts were taken in the middle of jobs");
    // Two a job are the task's own timers.
    ensure!(outside > 4 * JOBS, "only {outside} interrupts between {JOBS} jobs are no storm");
    Ok(())
}

/// How many interrupts EL2 took while a job was under way, and between the first job and the last.
fn interrupts(seen: &Seen) -> Result<(u64, u64)> {
    let (mut inside, mut outside, mut working) = (0, 0, None);
    for event in seen.events()? {
        match event?.kind {
            Kind::Mark { id: JOB_BEGIN, .. } => working = Some(true),
            Kind::Mark { id: JOB_END, .. } => working = Some(false),
            Kind::Entry { vector: INTERRUPT, .. } => match working {
                Some(true) => inside += 1,
                Some(false) => outside += 1,
                None => {}
            },
            _ => {}
        }
    }
    Ok((inside, outside))
}

//! Device interrupts take nothing from a reservation. The device is the UART, which interrupts for what is typed. When that comes is the
//! host's affair, but what is asserted holds whenever it comes.

use anyhow::{Result, ensure};
use qemu::{JOB_BEGIN, JOB_END, Kind, Sections};

use super::scene::{MS, Scene, Seen, US, VIRT, Vm};
use crate::Test;
use crate::lab::{Lab, send, until};

const PERIOD: u64 = MS;
const WORK: u64 = 200 * US;
const JOBS: u64 = 1_000;
/// When the jobs begin: Linux is up.
const AT: u64 = 4_500 * MS;
/// Bytes that are typed: more than Linux can take while there are jobs.
const TYPED: usize = 8 << 20;
/// The vector of an interrupt that is taken from EL1 or EL0 in AArch64.
const INTERRUPT: u16 = 0x480;

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_storm_of_uart_interrupts_for_linux_icount", storm).long()]
}

/// On one CPU with a Linux to which more is typed than it can take, and which prints as much as it can, the jobs of a VM with a reservation
/// are done in time, and nothing interrupts them once they have begun. EL2 is never away for longer than the board's data says.
fn storm(lab: &Lab<'_>, name: &str) -> Result<()> {
    let role = format!("jobs n={JOBS} period={PERIOD} work={WORK} at={AT}");
    let task = Vm::new("task", &role).schedule("{ budget = \"250us\", period = \"1ms\" }");
    let vms = [task, Vm::linux("linux").vcpus(2)];
    let line = "to be or not to be, that is the question\n";
    let script = vec![
        until("linux", "~ #")?,
        send("linux", "stty -echo; echo re''ady; cat > /dev/null"),
        until("linux", "^ready")?,
        send("linux", &line.repeat(TYPED / line.len())),
        until("task", "^done")?,
    ];
    let seen = Scene::new(lab, name, 1, &vms)?.uart().timeout(1_200).run(script)?;
    let jobs = seen.jobs()?;
    ensure!(jobs.len() as u64 == JOBS, "{} jobs were recorded, not {JOBS}", jobs.len());
    let misses = jobs.iter().filter(|job| job.missed()).count();
    ensure!(misses == 0, "{misses} deadlines were missed");
    let storm = Storm::of(&seen)?;
    ensure!(storm.inside == 0, "{} interrupts were taken in the middle of jobs", storm.inside);
    // Two a job are the task's own timers.
    ensure!(storm.outside > 4 * JOBS, "only {} interrupts between {JOBS} jobs are no storm", storm.outside);
    ensure!(
        storm.masked <= VIRT.irq_off_max,
        "interrupts were masked for {} ns: more than {VIRT:?} (boards/virt)",
        storm.masked
    );
    Ok(())
}

/// What was seen of it from the first job to the last.
#[derive(Default)]
struct Storm {
    /// Interrupts that EL2 took while a job was under way, and between jobs.
    inside: u64,
    outside: u64,
    /// The longest time for which EL2 did not notice interrupts.
    masked: u64,
}

impl Storm {
    fn of(seen: &Seen) -> Result<Self> {
        let (mut this, mut working, mut sections) = (Self::default(), None, Sections::default());
        for event in seen.events()? {
            let event = event?;
            if let (Some(section), Some(_)) = (sections.observe(&event), working) {
                this.masked = this.masked.max(section.length);
            }
            match event.kind {
                Kind::Mark { id: JOB_BEGIN, .. } => working = Some(true),
                Kind::Mark { id: JOB_END, .. } => working = Some(false),
                Kind::Entry { vector: INTERRUPT, .. } => match working {
                    Some(true) => this.inside += 1,
                    Some(false) => this.outside += 1,
                    None => {}
                },
                _ => {}
            }
        }
        Ok(this)
    }
}

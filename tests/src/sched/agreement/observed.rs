//! What a recording shows of jobs and of EL2's visits around them. There is one CPU.

use anyhow::{Context, Result};
use qemu::{Clock, Event, JOB_BEGIN, JOB_END, Job, Jobs, Kind, Section, Sections};
use sched::Ns;
use sim::Costs;

use super::super::scene::{Seen, VIRT};

/// The bench guest's mark in its interrupt vector.
const INTERRUPT: u16 = 3;
/// The vector of an interrupt that is taken from EL1 or EL0 in AArch64.
const INTERRUPTED: u16 = 0x480;

/// A recording.
#[derive(Default)]
pub struct Observed {
    /// The jobs of each VM.
    pub by_vm: Vec<Vec<Job>>,
    visits: Visits,
}

/// What visits to EL2 and the guests beside their work took, ns.
#[derive(Clone, Default)]
struct Visits {
    /// To a VM with jobs that did not run just before, by [`Switch::kind`].
    switches: [Vec<Ns>; 4],
    /// Back to the same VM.
    exits: Vec<Ns>,
    longest: Ns,
    /// From a guest's entry to its job, and from the job's end to the next exit.
    before: Vec<Ns>,
    after: Vec<Ns>,
}

/// The last entry of a VM, and what brought it if that was a switch to one with jobs, until anything else happens.
#[derive(Default)]
struct Entered {
    at: Ns,
    switch: Option<Switch>,
}

struct Switch {
    length: Ns,
    /// The VM before went to sleep; else an interrupt is why.
    sleep: bool,
}

impl Switch {
    /// A number for its kind. `due`: the timer of the VM that is entered interrupts that at once.
    const fn kind(sleep: bool, due: bool) -> usize {
        (sleep as usize) << 1 | due as usize
    }
}

impl Observed {
    /// What was recorded from the time `from` on. The first `tasks` VMs have jobs.
    pub fn of(seen: &Seen, from: Ns, tasks: usize) -> Result<Self> {
        let (mut clock, mut collector, mut sections) =
            (Clock::default(), Jobs::default(), Sections::default());
        let mut this = Self { by_vm: vec![Vec::new(); tasks], ..Self::default() };
        let (mut entered, mut worked, mut vector) = (Entered::default(), None, 0);
        for event in seen.events()? {
            let event = event?;
            clock.observe(&event);
            if let Some(job) = collector.observe(&event) {
                this.by_vm
                    .get_mut(usize::from(job.vmid) - 1)
                    .context("a job of a VM without tasks")?
                    .push(job);
            }
            let section = sections.observe(&event);
            let now = clock.time(&event);
            if now < from {
                continue;
            }
            if let Kind::Entry { vector: at, .. } = event.kind {
                vector = at;
            }
            if let Some(Section { visit: Some(length), switch, .. }) = section {
                this.visits.longest = this.visits.longest.max(length);
                let to_task = event.kind.entered().is_some_and(|vmid| usize::from(vmid) <= tasks);
                let sleep = vector != INTERRUPTED;
                entered =
                    Entered { at: now, switch: (switch && to_task).then_some(Switch { length, sleep }) };
                this.visits.exits.extend((!switch).then_some(length));
            }
            this.visits.observe(&event, now, &mut entered, &mut worked);
        }
        Ok(this)
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.by_vm.iter().flatten()
    }
}

impl Visits {
    /// Takes an event of the guest that was `entered`, or that ends it. `worked` is the end of its job, until it exits.
    fn observe(&mut self, event: &Event, now: Ns, entered: &mut Entered, worked: &mut Option<Ns>) {
        let due = matches!(event.kind, Kind::Mark { id: INTERRUPT, .. });
        if (due || matches!(event.kind, Kind::Entry { .. }))
            && let Some(Switch { length, sleep }) = entered.switch.take()
        {
            self.switches[Switch::kind(sleep, due)].push(length);
        }
        match event.kind {
            Kind::Mark { id: JOB_BEGIN, .. } => self.before.push(now - entered.at),
            Kind::Mark { id: JOB_END, .. } => *worked = Some(now),
            Kind::Entry { .. } => self.after.extend(worked.take().map(|at| now - at)),
            _ => {}
        }
    }
}

/// What was measured in all recordings.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Medians.
    pub costs: Costs,
    /// Of a guest from its timer interrupt to its job, and from the job's end until it sleeps: medians.
    pub before: Ns,
    pub after: Ns,
    /// The longest visit.
    pub longest: Ns,
}

impl Measured {
    /// Of these recordings.
    pub fn of(observed: &[Observed]) -> Result<Self> {
        let median = |values: fn(&Visits) -> &Vec<Ns>| {
            let mut all: Vec<Ns> = observed.iter().flat_map(|at| values(&at.visits)).copied().collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().context("nothing was measured")
        };
        let due = median(|at| &at.switches[Switch::kind(false, true)])?;
        let sleep = median(|at| &at.switches[Switch::kind(true, false)])?;
        // That of the guest's own timer is what such a switch takes more.
        let timer = median(|at| &at.switches[Switch::kind(true, true)])?.saturating_sub(sleep);
        let switch = due.saturating_sub(timer);
        let exit = median(|at| &at.exits)?;
        let (before, after) = (median(|at| &at.before)?, median(|at| &at.after)?);
        let longest = observed.iter().map(|at| at.visits.longest).max().unwrap_or(0);
        let costs = Costs { switch, sleep, exit, timer, kick: VIRT.irq_off_max };
        Ok(Self { costs, before, after, longest })
    }
}

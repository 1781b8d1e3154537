//! What a recording shows of jobs and of EL2's visits around them. There is one CPU.

use anyhow::{Context, Result};
use qemu::{Clock, Event, JOB_BEGIN, JOB_END, Job, Jobs, Kind, Section, Sections};
use sched::Ns;
use sim::Costs;

use super::super::scene::{Seen, VIRT};

/// The bench guest's mark in its interrupt vector.
const INTERRUPT: u16 = 3;

/// A recording.
#[derive(Default)]
pub struct Observed {
    /// The jobs of each VM, with the visits to EL2 between the release and the end of each.
    pub by_vm: Vec<Vec<(Job, u64)>>,
    visits: Visits,
}

/// What visits to EL2 and the guests beside their work took, ns.
#[derive(Clone, Default)]
struct Visits {
    /// From another VM to one with jobs, where its timer interrupted it at once.
    switches: Vec<Ns>,
    /// Those that brought it that interrupt after it had been entered; 0 if it came with the switch.
    timers: Vec<Ns>,
    /// Back to the same VM.
    exits: Vec<Ns>,
    longest: Ns,
    /// From a guest's entry to its job, and from the job's end to the next exit.
    before: Vec<Ns>,
    after: Vec<Ns>,
}

/// A VM is entered.
#[derive(Default)]
struct Entered {
    at: Ns,
    /// What the switch to it took, and visits since.
    switch: Ns,
    timer: Ns,
}

impl Observed {
    /// What was recorded from the time `from` on.
    pub fn of(seen: &Seen, from: Ns) -> Result<Self> {
        let (mut clock, mut collector, mut sections) =
            (Clock::default(), Jobs::default(), Sections::default());
        let (mut this, mut jobs, mut ends) = (Self::default(), Vec::new(), Vec::new());
        let (mut entered, mut worked) = (Entered::default(), None);
        for event in seen.events()? {
            let event = event?;
            clock.observe(&event);
            jobs.extend(collector.observe(&event));
            let section = sections.observe(&event);
            let now = clock.time(&event);
            if now < from {
                continue;
            }
            if let Some(Section { visit: Some(length), switch, .. }) = section {
                ends.push(now);
                this.visits.longest = this.visits.longest.max(length);
                entered = if switch {
                    Entered { at: now, switch: length, timer: 0 }
                } else {
                    this.visits.exits.push(length);
                    Entered { at: now, timer: entered.timer + length, ..entered }
                };
            }
            this.visits.observe(&event, now, &entered, &mut worked);
        }
        for job in jobs {
            let vm = usize::from(job.vmid) - 1;
            let before = |time: Ns| ends.partition_point(|end| *end <= time) as u64;
            this.by_vm.resize(this.by_vm.len().max(vm + 1), Vec::new());
            this.by_vm[vm].push((job, before(job.end) - before(job.release)));
        }
        Ok(this)
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.by_vm.iter().flatten().map(|(job, _)| job)
    }
}

impl Visits {
    /// Takes an event of the guest that was `entered`, or that ends it. `worked` is the end of its job, until it exits.
    fn observe(&mut self, event: &Event, now: Ns, entered: &Entered, worked: &mut Option<Ns>) {
        match event.kind {
            Kind::Mark { id: INTERRUPT, .. } => {
                self.switches.push(entered.switch);
                self.timers.push(entered.timer);
            }
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
        let (switch, timer, exit) =
            (median(|at| &at.switches)?, median(|at| &at.timers)?, median(|at| &at.exits)?);
        let (before, after) = (median(|at| &at.before)?, median(|at| &at.after)?);
        let longest = observed.iter().map(|at| at.visits.longest).max().unwrap_or(0);
        let costs = Costs { switch, exit, timer, kick: VIRT.irq_off_max };
        Ok(Self { costs, before, after, longest })
    }
}

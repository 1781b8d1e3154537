//! Who had which CPU, from a recording.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use machines::Machine;
use qemu::{Clock, Event, Kind};
use sched::CpuSet;
use sim::ideal::Ideal;

/// A CPU was a VM's: from its entry until another VM is entered there, or the CPU sleeps. EL2's work in between counts, as it does
/// in the scheduler's books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub cpu: u8,
    /// The place of the VM in the machine file.
    pub vm: usize,
    /// ns.
    pub time: Range<u64>,
}

impl Span {
    /// How much of it lies in `window`, ns.
    pub fn within(&self, window: &Range<u64>) -> u64 {
        self.time.end.min(window.end).saturating_sub(self.time.start.max(window.start))
    }
}

/// Makes [`Span`]s of events.
#[derive(Debug, Default)]
pub struct Occupancy {
    clock: Clock,
    /// By CPU: who has it, and since when.
    cpus: HashMap<u8, (u16, u64)>,
}

impl Occupancy {
    /// Takes an event; returns the span that it ends.
    pub fn observe(&mut self, event: &Event) -> Option<Span> {
        self.clock.observe(event);
        let next = event.kind.entered();
        if next.is_none() && event.kind != Kind::Wait {
            return None;
        }
        let before = self.cpus.get(&event.cpu).copied();
        if before.map(|(vmid, _)| vmid) == next {
            return None;
        }
        let now = self.clock.time(event);
        match next {
            Some(vmid) => self.cpus.insert(event.cpu, (vmid, now)),
            None => self.cpus.remove(&event.cpu),
        };
        // VMIDs are given in the order of the VMs, from 1.
        before.map(|(vmid, since)| Span { cpu: event.cpu, vm: usize::from(vmid) - 1, time: since..now })
    }
}

/// The part of one CPU's time in `window` that each of `vms` VMs had.
pub fn shares(spans: &[Span], vms: usize, window: &Range<u64>) -> Vec<f64> {
    let mut had = vec![0; vms];
    for span in spans {
        had[span.vm] += span.within(window);
    }
    had.iter().map(|had| *had as f64 / (window.end - window.start) as f64).collect()
}

/// The farthest that each VM with a share was behind or ahead of the fluid ideal from the beginning of `window` on, ns, if all its vCPUs
/// always want to run: at every instant the CPUs that run no reservation are divided in proportion to the weights. It is farthest where
/// somebody begins to run or ends.
pub fn lags(spans: &[Span], machine: &Machine, window: &Range<u64>) -> Vec<f64> {
    let claims = sim::claims(machine);
    let wants = claims.iter().zip(0..).fold(0, |set, (claim, n)| set | u64::from(claim.is_some()) << n);
    let cpus: BTreeSet<u8> = spans.iter().map(|span| span.cpu).collect();
    let mut changes: Vec<(u64, usize, Option<usize>)> = Vec::new();
    for Span { cpu, vm, time } in spans.iter().filter(|span| span.within(window) > 0) {
        let cpu = cpus.range(..cpu).count();
        // Who comes follows who goes.
        changes.push((time.end.min(window.end), cpu, None));
        changes.push((time.start.max(window.start), cpu, Some(*vm)));
    }
    changes.sort_by_key(|(at, ..)| *at);

    let (mut ideal, mut occupants) = (Ideal::new(claims.clone()), vec![None; cpus.len()]);
    let (mut had, mut lags, mut now) =
        (vec![0; machine.vms.len()], vec![0.0f64; machine.vms.len()], window.start);
    for (at, cpu, occupant) in changes {
        for vm in occupants.iter().copied().flatten() {
            had[vm] += at - now;
        }
        now = at;
        occupants[cpu] = occupant;
        let shared =
            |vm: &Option<usize>| vm.is_none_or(|vm| claims.iter().flatten().any(|claim| claim.vm == vm));
        let free = occupants.iter().zip(0..).fold(0, |set, (vm, n)| set | u64::from(shared(vm)) << n);
        ideal.advance(now - window.start, wants, CpuSet(free));
        let mut due = vec![0.0; machine.vms.len()];
        for (claim, service) in claims.iter().zip(&ideal.service) {
            claim.iter().for_each(|claim| due[claim.vm] += service);
        }
        for (vm, lag) in lags.iter_mut().enumerate() {
            *lag = lag.max((due[vm] - had[vm] as f64).abs());
        }
    }
    lags
}

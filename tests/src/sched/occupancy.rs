//! Who had which CPU, from a recording.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use machines::{Machine, Schedule};
use qemu::{Clock, Event, Kind};
use sched::CpuSet;
use sim::ideal::Ideal;

use super::scene::VIRT;

/// A CPU was a VM's: from its entry until another VM is entered there, or the CPU sleeps. EL2's work in between counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub cpu: u8,
    /// The place of the VM in the machine file.
    pub vm: usize,
    /// When the visit to EL2 began that ended with its entry, ns.
    pub visit: u64,
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
    /// By CPU: the span that has not ended yet.
    spans: HashMap<u8, Span>,
    /// By CPU: when EL2 was entered, if it has not been left since.
    visits: HashMap<u8, u64>,
    /// When the last event happened.
    now: u64,
}

impl Occupancy {
    /// Takes an event; returns the span that it ends.
    pub fn observe(&mut self, event: &Event) -> Option<Span> {
        self.clock.observe(event);
        self.now = self.clock.time(event);
        if let Kind::Entry { .. } = event.kind {
            self.visits.entry(event.cpu).or_insert(self.now);
        }
        let next = event.kind.entered();
        if next.is_none() && event.kind != Kind::Wait {
            return None;
        }
        let visit = self.visits.remove(&event.cpu).unwrap_or(self.now);
        // VMIDs are given in the order of the VMs, from 1.
        let next = next.map(|vmid| usize::from(vmid) - 1);
        if self.spans.get(&event.cpu).map(|span| span.vm) == next {
            return None;
        }
        let begun = next.map(|vm| Span { cpu: event.cpu, vm, visit, time: self.now..self.now });
        let ended = match begun {
            Some(span) => self.spans.insert(event.cpu, span),
            None => self.spans.remove(&event.cpu),
        };
        ended.map(|span| Span { time: span.time.start..self.now, ..span })
    }

    /// Those that have not ended when the recording does.
    pub fn rest(self) -> impl Iterator<Item = Span> {
        let now = self.now;
        self.spans.into_values().map(move |span| Span { time: span.time.start..now, ..span })
    }
}

/// The spans of `machine` as the scheduler's books have them: a visit to EL2 is the time of who comes, but for the switch away from a
/// reservation, which pays for that itself.
fn booked(spans: &[Span], machine: &Machine) -> Vec<Span> {
    let mut booked: Vec<Span> = Vec::with_capacity(spans.len());
    let mut last: HashMap<u8, usize> = HashMap::new();
    for span in spans {
        let mut begin = span.visit;
        if let Some(before) = last.insert(span.cpu, booked.len()).map(|n| &mut booked[n])
            && before.time.end == span.time.start
        {
            if matches!(machine.vms[before.vm].schedule, Schedule::Reservation { .. }) {
                begin = (begin + VIRT.vm_switch).min(span.time.start);
            }
            before.time.end = begin;
        }
        booked.push(Span { time: begin..span.time.end, ..*span });
    }
    booked
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
/// always want to run: at every instant the CPUs that run no reservation are divided in proportion to the weights, by the scheduler's
/// books. (On several CPUs QEMU can let another one take its turn within a visit to EL2. Whose such visits are must be the same in both.)
/// It is farthest where somebody begins to run or ends.
pub fn lags(spans: &[Span], machine: &Machine, window: &Range<u64>) -> Vec<f64> {
    let claims = sim::claims(machine);
    let wants = claims.iter().zip(0..).fold(0, |set, (claim, n)| set | u64::from(claim.is_some()) << n);
    let cpus: BTreeSet<u8> = spans.iter().map(|span| span.cpu).collect();
    let mut changes: Vec<(u64, usize, Option<usize>)> = Vec::new();
    for Span { cpu, vm, time, .. } in booked(spans, machine).iter().filter(|span| span.within(window) > 0) {
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

//! Who had which CPU, from a recording.

use std::collections::HashMap;
use std::ops::Range;

use qemu::{Clock, Event, Kind};

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

/// The farthest that a VM was behind or ahead of `share` of one CPU, counted from the beginning of `window`, ns. It is farthest where
/// it begins to run or ends.
pub fn lag(spans: &[Span], vm: usize, share: f64, window: &Range<u64>) -> f64 {
    let (mut had, mut lag) = (0.0, 0.0f64);
    let mut ends: Vec<(u64, f64)> = spans
        .iter()
        .filter(|span| span.vm == vm)
        .map(|span| (span.time.start.max(window.start), span.time.end.min(window.end)))
        .filter(|(start, end)| start < end)
        .flat_map(|(start, end)| [(start, 0.0), (end, (end - start) as f64)])
        .collect();
    ends.sort_by_key(|end| end.0);
    for (at, ran) in ends {
        had += ran;
        lag = lag.max((had - share * (at - window.start) as f64).abs());
    }
    lag
}

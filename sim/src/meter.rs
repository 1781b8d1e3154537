//! What the simulator counts, apart from the scheduler's own books.

use crate::ideal::{Claim, Ideal};
use sched::{CpuId, CpuSet, Ns, VcpuId};

/// What occupies a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Span {
    /// The CPU.
    pub cpu: u8,
    /// The vCPU.
    pub vcpu: u16,
    /// From when, in nanoseconds.
    pub start: Ns,
    /// Up to when, in nanoseconds.
    pub end: Ns,
}

/// A vCPU's counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VcpuCounts {
    /// Time on CPUs, the switches to it included.
    pub(crate) service: Ns,
    /// The most that it was behind the ideal, and ahead of it, since it last woke up.
    pub(crate) behind: f64,
    pub(crate) ahead: f64,
    /// The longest time from wanting to run to running.
    pub(crate) wait: Ns,
    /// The longest time for which it wanted to run while a CPU that it may use slept.
    pub(crate) idle_wait: Ns,
    /// How often it came onto a CPU that did not run it just before.
    pub(crate) switches: u64,
    /// How often it began to want to run.
    pub(crate) wakeups: u64,
}

/// A CPU's counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuCounts {
    /// Time with a reservation or an exclusive vCPU, and with a share.
    pub(crate) reserved: Ns,
    pub(crate) shared: Ns,
    /// How often it was woken from sleep by its timer, by another CPU, by a device.
    pub(crate) timer_wakeups: u64,
    pub(crate) kick_wakeups: u64,
    pub(crate) device_wakeups: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Vcpu {
    share: bool,
    affinity: CpuSet,
    /// Ideal and real service when it last woke up.
    base: (f64, Ns),
    /// Since when it wants to run and does not.
    waits: Option<Ns>,
    /// The same with a CPU asleep that it may use.
    idle_waits: Option<Ns>,
}

/// Follows who occupies which CPU.
#[derive(Debug)]
pub(crate) struct Meter {
    now: Ns,
    vcpus: Vec<Vcpu>,
    pub(crate) counts: Vec<VcpuCounts>,
    pub(crate) cpus: Vec<CpuCounts>,
    pub(crate) ideal: Ideal,
    /// The vCPUs that want to run: bit n = vCPU n.
    wants: u64,
    /// Who occupies each CPU, and since when.
    occupants: Vec<Option<(VcpuId, Ns)>>,
    /// The CPUs that vCPUs with shares can have at all.
    shared: CpuSet,
    /// All spans that ended before this are kept.
    keep: Ns,
    pub(crate) spans: Vec<Span>,
}

impl Meter {
    /// For CPUs `online`, of which `exclusive` belong to one vCPU each. The vCPUs have an affinity each, and a claim if
    /// theirs is a share. Spans that begin before `keep` are recorded.
    pub(crate) fn new(
        online: CpuSet,
        exclusive: CpuSet,
        vcpus: Vec<(CpuSet, Option<Claim>)>,
        keep: Ns,
    ) -> Self {
        let cpus = online.iter().count();
        Self {
            now: 0,
            counts: vec![VcpuCounts::default(); vcpus.len()],
            cpus: vec![CpuCounts::default(); cpus],
            ideal: Ideal::new(vcpus.iter().map(|(_, claim)| *claim).collect()),
            vcpus: vcpus
                .iter()
                .map(|&(affinity, claim)| Vcpu { share: claim.is_some(), affinity, ..Vcpu::default() })
                .collect(),
            wants: 0,
            occupants: vec![None; cpus],
            shared: CpuSet(online.0 & !exclusive.0),
            keep,
            spans: Vec::new(),
        }
    }

    /// Goes on to `now`. Everything else happens at the time of the last call.
    pub(crate) fn advance(&mut self, now: Ns) {
        let elapsed = now - self.now;
        self.now = now;
        for (cpu, occupant) in self.cpus.iter_mut().zip(&self.occupants) {
            let Some((v, _)) = occupant else { continue };
            self.counts[usize::from(v.0)].service += elapsed;
            let share = self.vcpus[usize::from(v.0)].share;
            *(if share { &mut cpu.shared } else { &mut cpu.reserved }) += elapsed;
        }
        if elapsed > 0 {
            self.ideal.advance(now, self.wants, self.free());
            self.judge();
        }
    }

    /// `v` wants to run from now on, or sleeps.
    pub(crate) fn wants(&mut self, v: VcpuId, wants: bool) {
        let n = usize::from(v.0);
        if wants == (self.wants >> n & 1 != 0) {
            return;
        }
        self.wants ^= 1 << n;
        if wants {
            self.counts[n].wakeups += 1;
            self.vcpus[n].base = (self.ideal.service[n], self.counts[n].service);
        }
        self.settle();
    }

    /// Whether `v` has a share, and no reservation.
    pub(crate) fn has_share(&self, v: VcpuId) -> bool {
        self.vcpus[usize::from(v.0)].share
    }

    /// Who occupies `cpu`.
    pub(crate) fn occupant(&self, cpu: CpuId) -> Option<VcpuId> {
        self.occupants[usize::from(cpu.0)].map(|(v, _)| v)
    }

    /// `cpu` runs `v` from now on, or sleeps.
    pub(crate) fn occupy(&mut self, cpu: CpuId, v: Option<VcpuId>) {
        if self.occupant(cpu) == v {
            return;
        }
        self.end_span(cpu);
        self.occupants[usize::from(cpu.0)] = v.map(|v| (v, self.now));
        if let Some(v) = v {
            self.counts[usize::from(v.0)].switches += 1;
        }
        self.settle();
    }

    /// Nothing follows.
    pub(crate) fn end(&mut self) {
        for cpu in 0..self.occupants.len() {
            self.end_span(CpuId(cpu as u8));
        }
        for n in 0..self.vcpus.len() {
            self.wait_is_over(n);
        }
    }

    fn end_span(&mut self, cpu: CpuId) {
        let Some((v, start)) = self.occupants[usize::from(cpu.0)] else { return };
        if start < self.keep && start < self.now {
            self.spans.push(Span { cpu: cpu.0, vcpu: v.0, start, end: self.now });
        }
    }

    /// The CPUs that shares have just now.
    fn free(&self) -> CpuSet {
        let mut free = self.shared;
        for cpu in self.shared.iter() {
            if self.occupant(cpu).is_some_and(|v| !self.vcpus[usize::from(v.0)].share) {
                free.remove(cpu);
            }
        }
        free
    }

    /// Sees who is behind or ahead, before anything changes.
    fn judge(&mut self) {
        for (n, (vcpu, counts)) in self.vcpus.iter().zip(&mut self.counts).enumerate() {
            if vcpu.share && self.wants >> n & 1 != 0 {
                let (ideal, service) = vcpu.base;
                let behind = self.ideal.service[n] - ideal - (counts.service - service) as f64;
                counts.behind = counts.behind.max(behind);
                counts.ahead = counts.ahead.max(-behind);
            }
        }
    }

    /// Sees who waits, after something has changed.
    fn settle(&mut self) {
        self.ideal.advance(self.now, self.wants, self.free());
        let asleep = self.shared.iter().filter(|&cpu| self.occupant(cpu).is_none());
        let asleep = asleep.fold(0, |set, cpu| set | CpuSet::only(cpu).0);
        let running = self.occupants.iter().flatten().fold(0_u64, |set, (v, _)| set | 1 << v.0);
        for n in 0..self.vcpus.len() {
            if (self.wants & !running) >> n & 1 == 0 {
                self.wait_is_over(n);
                continue;
            }
            self.vcpus[n].waits.get_or_insert(self.now);
            if self.vcpus[n].share && !self.vcpus[n].affinity.and(CpuSet(asleep)).is_empty() {
                self.vcpus[n].idle_waits.get_or_insert(self.now);
            } else {
                self.idle_wait_is_over(n);
            }
        }
    }

    fn wait_is_over(&mut self, n: usize) {
        if let Some(since) = self.vcpus[n].waits.take() {
            self.counts[n].wait = self.counts[n].wait.max(self.now - since);
        }
        self.idle_wait_is_over(n);
    }

    fn idle_wait_is_over(&mut self, n: usize) {
        if let Some(since) = self.vcpus[n].idle_waits.take() {
            self.counts[n].idle_wait = self.counts[n].idle_wait.max(self.now - since);
        }
    }
}

//! The ideal: at every instant the free CPUs are divided in proportion to weights, as if they were a fluid.

use crate::{CpuSet, Ns, Share};

/// What a vCPU with a share would have had.
#[derive(Clone, Debug, Default)]
pub struct Fluid {
    /// By vCPU: ns of CPU time.
    pub service: Vec<f64>,
    rates: Vec<f64>,
    key: (u64, u64),
    now: Ns,
}

impl Fluid {
    /// Goes on to `now`. Then the vCPUs `runnable` want to run, and the CPUs `free` are there for shares. `vms` has the
    /// VM and share of each vCPU that has one.
    pub fn advance(&mut self, now: Ns, runnable: u64, free: CpuSet, vms: &[Option<(usize, Share)>]) {
        self.service.resize(vms.len(), 0.0);
        self.rates.resize(vms.len(), 0.0);
        for (service, rate) in self.service.iter_mut().zip(&self.rates) {
            *service += rate * (now - self.now) as f64;
        }
        self.now = now;
        if self.key != (runnable, free.0) {
            self.key = (runnable, free.0);
            self.rates = rates(vms, runnable, free);
        }
    }
}

/// Max-min fair rates: all grow in proportion to their weights until they meet a bound.
fn rates(vms: &[Option<(usize, Share)>], runnable: u64, free: CpuSet) -> Vec<f64> {
    let who: Vec<(usize, usize, Share)> = (0..vms.len())
        .filter(|n| runnable >> n & 1 != 0)
        .filter_map(|n| vms[n].map(|(vm, share)| (n, vm, share)))
        .filter(|(_, _, share)| !share.affinity.and(free).is_empty())
        .collect();
    let set = |test: &dyn Fn(usize, usize, Share) -> bool| {
        let members = who.iter().filter(|&&(n, vm, share)| test(n, vm, share));
        members.map(|&(n, ..)| n).collect::<Vec<_>>()
    };
    let mut bounds: Vec<(Vec<usize>, f64)> = (1..=free.0)
        .map(CpuSet)
        .filter(|cpus| cpus.and(free) == *cpus)
        .map(|cpus| {
            (set(&|_, _, share| share.affinity.and(free).without(cpus).is_empty()), cpus.len() as f64)
        })
        .collect();
    for &(n, vm, share) in &who {
        bounds.push((vec![n], 1.0));
        if share.cap != 0 {
            bounds.push((set(&|_, other, _| other == vm), f64::from(share.cap) / 100.0));
        }
    }
    let mut weights = vec![0.0; vms.len()];
    for &(n, vm, share) in &who {
        weights[n] = f64::from(share.weight) / set(&|_, other, _| other == vm).len() as f64;
    }
    let mut rates = vec![0.0; vms.len()];
    let mut growing: Vec<usize> = who.iter().map(|&(n, ..)| n).collect();
    while !growing.is_empty() {
        let level = |(members, limit): &(Vec<usize>, f64)| {
            let settled: f64 = members.iter().filter(|n| !growing.contains(n)).map(|&n| rates[n]).sum();
            let weight: f64 = members.iter().filter(|n| growing.contains(n)).map(|&n| weights[n]).sum();
            (limit - settled).max(0.0) / weight
        };
        let tight = bounds.iter().filter(|(members, _)| members.iter().any(|n| growing.contains(n)));
        let (level, members) = tight
            .map(|bound| (level(bound), &bound.0))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .expect("everybody has a bound");
        for &n in members.iter().filter(|n| growing.contains(n)) {
            rates[n] = level * weights[n];
        }
        growing.retain(|n| !members.contains(n));
    }
    rates
}

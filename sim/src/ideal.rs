//! The ideal that shares are measured against: at every instant, the CPUs that run no reservation are divided among the
//! vCPUs that want to run, in proportion to their weights, as if they were a fluid.
//!
//! A vCPU runs on one CPU at a time, a VM has a cap, and affinity binds: who cannot use its part leaves it to the others
//! (water-filling). The weight of a VM is divided evenly among those of its vCPUs that want to run.

use sched::{CpuSet, Ns};
use std::collections::HashMap;
use std::rc::Rc;

/// A vCPU with a share.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The index of its VM.
    pub vm: usize,
    /// The weight of the whole VM.
    pub weight: u32,
    /// The VM's cap in CPUs, if it has one.
    pub cap: Option<f64>,
    /// Where it may run.
    pub affinity: CpuSet,
}

/// Follows the ideal through time.
#[derive(Debug)]
pub struct Ideal {
    /// None for vCPUs without a share.
    claims: Vec<Option<Claim>>,
    /// The rates for a set of vCPUs that want to run and a set of CPUs.
    known: HashMap<(u64, u64), Rc<[f64]>>,
    now: Ns,
    rates: Rc<[f64]>,
    /// What each vCPU would have had by now, in nanoseconds.
    pub service: Vec<f64>,
}

impl Ideal {
    /// From time 0 on, at which nobody wants to run. A vCPU without a share has no claim.
    pub fn new(claims: Vec<Option<Claim>>) -> Self {
        let count = claims.len();
        let none = vec![0.0; count];
        Self { claims, known: HashMap::new(), now: 0, rates: none.clone().into(), service: none }
    }

    /// Goes on to `now`; from then on the vCPUs `runnable` (bit n = vCPU n) want to run, and shares have the CPUs `free`.
    pub fn advance(&mut self, now: Ns, runnable: u64, free: CpuSet) {
        let elapsed = (now - self.now) as f64;
        for (service, rate) in self.service.iter_mut().zip(self.rates.iter()) {
            *service += rate * elapsed;
        }
        self.now = now;
        let rates = self.known.entry((runnable, free.0));
        self.rates = rates.or_insert_with(|| rates_of(&self.claims, runnable, free).into()).clone();
    }
}

/// What some vCPUs may have together.
struct Bound {
    /// Bit n = vCPU n.
    members: u64,
    limit: f64,
}

/// Max-min fair rates, in CPUs: all rates grow in proportion to their weights until a bound is met; its members stay there.
fn rates_of(claims: &[Option<Claim>], runnable: u64, free: CpuSet) -> Vec<f64> {
    let wants =
        |n: usize| claims[n].filter(|claim| runnable >> n & 1 != 0 && !claim.affinity.and(free).is_empty());
    let all: Vec<(usize, Claim)> = (0..claims.len()).filter_map(|n| Some((n, wants(n)?))).collect();
    let set = |test: &dyn Fn(&Claim) -> bool| {
        all.iter().filter(|(_, claim)| test(claim)).fold(0, |set, (n, _)| set | 1_u64 << n)
    };
    let siblings = |vm| all.iter().filter(|(_, claim)| claim.vm == vm).count() as f64;
    let weights: Vec<f64> =
        (0..claims.len()).map(|n| wants(n).map_or(0.0, |c| f64::from(c.weight) / siblings(c.vm))).collect();

    // By Hall's theorem rates can be had if no set of CPUs is asked for more than it has by those bound to it.
    let sets = (1..=free.0).map(CpuSet).filter(|cpus| cpus.and(free) == *cpus);
    let mut bounds: Vec<Bound> = sets
        .map(|cpus| Bound {
            members: set(&|claim| claim.affinity.and(free).and(cpus) == claim.affinity.and(free)),
            limit: cpus.iter().count() as f64,
        })
        .collect();
    for &(n, Claim { vm, cap, .. }) in &all {
        bounds.push(Bound { members: 1 << n, limit: 1.0 });
        bounds.extend(cap.map(|limit| Bound { members: set(&|claim| claim.vm == vm), limit }));
    }

    let mut rates = vec![0.0; claims.len()];
    let mut growing = set(&|_| true);
    let members = |set: u64| (0..claims.len()).filter(move |n| set >> n & 1 != 0);
    while growing != 0 {
        // How far the level, rate per weight, can rise before this bound is met.
        let level = |bound: &Bound| {
            let settled: f64 = members(bound.members & !growing).map(|n| rates[n]).sum();
            let weight: f64 = members(bound.members & growing).map(|n| weights[n]).sum();
            (bound.limit - settled).max(0.0) / weight
        };
        let tight = bounds.iter().filter(|bound| bound.members & growing != 0);
        let Some((level, bound)) =
            tight.map(|bound| (level(bound), bound)).min_by(|(a, _), (b, _)| a.total_cmp(b))
        else {
            break;
        };
        for n in members(bound.members & growing) {
            rates[n] = level * weights[n];
        }
        growing &= !bound.members;
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(vm: usize, weight: u32) -> Option<Claim> {
        Some(Claim { vm, weight, cap: None, affinity: CpuSet::ALL })
    }

    #[track_caller]
    fn divided(claims: &[Option<Claim>], runnable: u64, cpus: u64, expected: &[f64]) {
        let rates = rates_of(claims, runnable, CpuSet(cpus));
        let close = rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close && rates.len() == expected.len(), "{rates:?} and not {expected:?}");
    }

    #[test]
    fn in_proportion_to_weights() {
        divided(
            &[claim(0, 256), claim(1, 512), claim(2, 1024), None],
            0b1111,
            1,
            &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0, 0.0],
        );
        divided(
            &[claim(0, 1); 5].iter().zip(0..).map(|(c, vm)| c.map(|c| Claim { vm, ..c })).collect::<Vec<_>>(),
            0b11111,
            0b1111,
            &[0.8; 5],
        );
        // Who sleeps leaves its part to the others.
        divided(&[claim(0, 1), claim(1, 1), claim(2, 1)], 0b101, 1, &[0.5, 0.0, 0.5]);
    }

    #[test]
    fn who_cannot_use_its_part_leaves_it() {
        // A vCPU has one CPU at most, whatever its weight.
        divided(&[claim(0, 1000), claim(1, 1), claim(2, 1)], 0b111, 0b11, &[1.0, 0.5, 0.5]);
        // The weight is the VM's.
        divided(&[claim(0, 1), claim(0, 1), claim(1, 1)], 0b111, 1, &[0.25, 0.25, 0.5]);
        let capped = claim(0, 1).map(|c| Claim { cap: Some(0.25), ..c });
        divided(&[capped, claim(1, 1)], 0b11, 1, &[0.25, 0.75]);
    }

    #[test]
    fn affinity_binds() {
        let only = |vm, cpus| claim(vm, 1).map(|c| Claim { affinity: CpuSet(cpus), ..c });
        // Three on CPU 0, one that can have CPU 1 for itself.
        divided(
            &[only(0, 1), only(1, 1), only(2, 1), only(3, 3)],
            0b1111,
            0b11,
            &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 1.0],
        );
        // CPU 0 runs a reservation just now.
        divided(&[only(0, 1), only(1, 3), only(2, 2)], 0b111, 0b10, &[0.0, 0.5, 0.5]);
    }

    #[test]
    fn service_is_the_rate_over_time() {
        let mut ideal = Ideal::new(vec![claim(0, 1), claim(1, 3)]);
        ideal.advance(0, 0b11, CpuSet(1));
        ideal.advance(100, 0b01, CpuSet(1));
        ideal.advance(150, 0b11, CpuSet(0));
        ideal.advance(200, 0, CpuSet(0));
        assert_eq!(ideal.service, [75.0, 75.0]);
    }
}

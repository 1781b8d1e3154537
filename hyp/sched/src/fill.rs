//! Water-filling: how the CPUs divide among VMs in proportion to their weights when not every VM can use its part.
//!
//! All rates grow in proportion to the weights until some bound is met: a VM has no more vCPUs or is at its cap, or the
//! CPUs that some VMs are bound to are used up. Those stay there, and the others go on.

use crate::ids::{CpuSet, MAX_VMS, bits, mask};
use crate::schedule::MAX_AFFINITIES;

/// One CPU's time, as a rate.
pub(crate) const ONE_CPU: u32 = 1 << 24;

/// What a VM could use.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    /// 1 to [`crate::MAX_WEIGHT`].
    pub(crate) weight: u32,
    /// At most: a rate.
    pub(crate) limit: u32,
    /// The CPUs on which it can run now.
    pub(crate) cpus: CpuSet,
}

/// CPUs, and the VMs that are bound to them.
#[derive(Clone, Copy)]
struct Bound {
    cpus: CpuSet,
    vms: u64,
    /// What is left of the CPUs, and the weights of those among whom it is divided.
    left: u32,
    weight: u32,
}

/// The rates of the VMs `who` (bit n = VM n). Their `cpus` have [`MAX_AFFINITIES`] different values at most; those that others use up are
/// taken out of them.
pub(crate) fn fill(who: u64, claims: &mut [Claim; MAX_VMS]) -> [u32; MAX_VMS] {
    let mut bounds = [Bound { cpus: CpuSet::EMPTY, vms: 0, left: 0, weight: 0 }; 1 << MAX_AFFINITIES];
    let bounds = bounds_of(who, claims, &mut bounds);
    let mut rates = [0; MAX_VMS];
    let mut growing = who;
    while growing != 0 {
        // The first bound to be met: the lowest level, rate per weight.
        let tight = bounds.iter().filter(|bound| bound.vms & growing != 0);
        let Some(&tight) = tight.min_by(|a, b| {
            (u64::from(a.left) * u64::from(b.weight)).cmp(&(u64::from(b.left) * u64::from(a.weight)))
        }) else {
            return rates;
        };
        // Whoever is at its own limit by then stays there. If nobody is, it is those bound to these CPUs.
        let full = mask(bits(growing).filter(|&vm| {
            let Claim { weight, limit, .. } = claims[vm];
            u64::from(limit) * u64::from(tight.weight) < u64::from(tight.left) * u64::from(weight)
        }));
        let settled = if full != 0 { full } else { tight.vms & growing };
        if full == 0 {
            for vm in bits(who & !tight.vms) {
                claims[vm].cpus = claims[vm].cpus.without(tight.cpus);
            }
        }
        for vm in bits(settled) {
            let Claim { weight, limit, .. } = claims[vm];
            let rate = match full {
                0 => (u64::from(tight.left) * u64::from(weight) / u64::from(tight.weight)) as u32,
                _ => limit,
            };
            rates[vm] = rate;
            for bound in bounds.iter_mut().filter(|bound| bound.vms >> vm & 1 != 0) {
                bound.left = bound.left.saturating_sub(rate);
                bound.weight -= weight;
            }
        }
        growing &= !settled;
    }
    rates
}

/// By Hall's theorem rates can be had if no union of the VMs' CPU sets is asked for more than it has.
fn bounds_of<'a>(
    who: u64,
    claims: &[Claim; MAX_VMS],
    bounds: &'a mut [Bound; 1 << MAX_AFFINITIES],
) -> &'a mut [Bound] {
    // The different CPU sets, and for each who has it; and their unions, of which the first is empty.
    let mut sets = [Bound { cpus: CpuSet::EMPTY, vms: 0, left: 0, weight: 0 }; MAX_AFFINITIES];
    let (mut kinds, mut count) = (0, 1);
    for vm in bits(who) {
        let Claim { cpus, weight, .. } = claims[vm];
        let kind = sets[..kinds].iter().position(|set| set.cpus == cpus).unwrap_or(kinds);
        let Some(set) = sets.get_mut(kind) else { continue };
        (set.cpus, set.vms, set.weight) = (cpus, set.vms | 1 << vm, set.weight + weight);
        if kind < kinds {
            continue;
        }
        kinds += 1;
        let known = count;
        for n in 0..known {
            let mut union = bounds[n].cpus;
            union.insert(cpus);
            if count < bounds.len() && bounds[..count].iter().all(|bound| bound.cpus != union) {
                bounds[count].cpus = union;
                count += 1;
            }
        }
    }
    for bound in &mut bounds[1..count] {
        bound.left = bound.cpus.len() as u32 * ONE_CPU;
        for set in sets[..kinds].iter().filter(|set| set.cpus.without(bound.cpus).is_empty()) {
            bound.vms |= set.vms;
            bound.weight += set.weight;
        }
    }
    &mut bounds[1..count]
}

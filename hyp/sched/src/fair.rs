//! Proportional shares: which VM's turn it is.
//!
//! VMs are served as by earliest eligible virtual deadline first (I. Stoica and H. Abdel-Wahab, "Earliest Eligible Virtual
//! Deadline First", 1995), on all CPUs together. Each VM has a virtual time, which advances by the CPU time that its vCPUs
//! get, divided by its weight. The *clock* is the weighted mean of the virtual times of all VMs that want to run. A VM
//! behind the clock has had less than its share and is *eligible*; of those the one goes first whose request, a slice of
//! CPU time, would end at the earliest virtual time. So a VM is never more than about a slice ahead of or behind its share.
//!
//! A slice is counted in full when it begins, so that all CPUs see it, and corrected when it ends: there is no tick that a
//! guest could dodge. A VM that starts to want to run asks for a short slice first. That brings it to the CPU soon and gives
//! it nothing that is not counted; and what it was ahead of its share when it went to sleep it is still, until the clock
//! has come there.
//!
//! # Who cannot use its part
//! While every vCPU has a CPU nothing needs to be counted ([`Regime::Slack`]). While every VM can use its part, its weight
//! is what it says ([`Regime::Plain`]). Else ([`Regime::Filled`]) the weights are the rates that water-filling finds.
//! [`Fair::rebalance`] decides which, with an effort that depends on it, when somebody starts or stops wanting to run or
//! the CPUs that are free for shares change.
//!
//! Within a VM vCPUs take turns in rounds: in each round, whoever wants to run comes to have had a slice more than the one
//! that had had the least when it began.

mod affinity;
mod clock;
mod doze;
mod regime;

use crate::fill::ONE_CPU;
use crate::ids::{CpuSet, MAX_CPUS, MAX_VCPUS, MAX_VMS, Ns, Table, bit, bits, mask};
use crate::schedule::{MAX_AFFINITIES, MAX_WEIGHT, ScheduleError, Share};

/// The first slice of a VM that starts to want to run is so many times shorter.
const SHORTER: u32 = 4;
/// A capped VM runs until it is so much ahead of its cap.
const CAP_TOLERANCE: Ns = 50_000;
/// Nobody is interrupted for less than this, ns.
const WORTHWHILE: i64 = 20_000;
/// Being ahead of one's share, or behind, is forgotten after so long a sleep.
const FORGET: Ns = 1_000_000_000;
/// What is counted at once, at most.
const MAX_TIME: Ns = 1 << 26;
/// The smallest effective weight.
const MIN_RATE: u32 = 256;
/// VMs behind their shares by more than that many slices were kept from running; the rest is not made up for.
const MAX_LAG: i64 = 4;
/// A vCPU that is so near the end of its VM's round has had its turn, ns.
const NEARLY: u64 = 1 << 17;

/// Whether there is anything to divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Regime {
    /// All run.
    Slack,
    /// Virtual times advance by the VMs' weights.
    Plain,
    /// Virtual times advance by the rates that [`crate::fill`] has found.
    Filled,
}

/// A VM. Virtual times are in ns · 2³² / [`Vm::rate`], wrapping. Aligned so that the search for the next VM goes by shifts.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
#[repr(C, align(128))]
struct Vm {
    /// While it is counted (see [`Fair::counted`]): its virtual time. Else: how far that is ahead of the clock.
    time: u64,
    /// The length of the next slice as virtual time.
    span: i64,
    share: Share,
    /// Where it may run: what it shares of its affinity.
    cpus: CpuSet,
    /// Its vCPUs, and how many of them want to run.
    members: u64,
    awake: u32,
    /// The effective weight.
    rate: u32,
    /// 2⁴⁴ / rate.
    inverse: u64,
    /// The length of the next slice, ns.
    request: u32,
    /// When it stopped wanting to run, and the clock then.
    left: Ns,
    left_clock: u64,
    /// What a vCPU has had at the end of the round; and the vCPUs that are not there yet, whether they want to run or not.
    round: u64,
    behind: u64,
    /// When it would have had what it has had, had it run at its cap.
    cap_time: Ns,
    /// 100 · 2¹⁶ / cap.
    cap_inverse: u64,
}

/// What runs on a CPU.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
struct Turn {
    vcpu: u8,
    /// Up to when it has been counted, but for `granted` more.
    since: Ns,
    granted: u32,
    /// What was left of the slice when it was last counted.
    rest: u32,
    /// The virtual time at which the slice is to be over.
    deadline: u64,
}

/// By vCPU: CPU time.
type Had = Table<u64, MAX_VCPUS>;

/// The VMs with a share, and their vCPUs.
#[cfg_attr(test, derive(Clone, Hash))]
#[repr(C)]
pub(crate) struct Fair {
    /// The CPUs that have a turn.
    taken: u64,
    /// All vCPUs with a share, and those of them that are known to want to run.
    vcpus: u64,
    awake: u64,
    awake_count: u32,
    /// Those that sleep, which nobody's share depends on as yet: see [`Fair::sleep`]. They count as awake.
    dozing: u64,
    /// VMs of which all who want to run may have had their turns.
    rounds_over: u64,
    /// The CPUs that are free for shares.
    free: CpuSet,
    /// The VMs that want to run; those that have started or stopped to since [`Fair::rebalance`]; those whose virtual time counts for the
    /// clock; those that may not run everywhere; those that stopped wanting to run when everything was settled.
    active: u64,
    moved: u64,
    counted: u64,
    picky: u64,
    settled: u64,
    /// The vCPUs of VMs that are at their cap.
    capped: u64,
    clock: u64,
    /// Σ rate · (virtual time - clock) of the active VMs: what the clock has to be corrected for.
    imbalance: i64,
    /// Σ rate of the counted VMs; Σ weight of the active ones.
    rates: u32,
    weights: u32,
    regime: Regime,
    /// Some VM has a cap.
    has_caps: bool,
    /// What [`Fair::rebalance`] looks at has changed.
    stale: bool,
    slice: u32,
    /// By vCPU: its VM, and CPU time that it has had while not all ran, or more (see [`Fair::wake`]).
    vm_of: Table<u8, MAX_VCPUS>,
    had: Had,
    turns: Table<Turn, MAX_CPUS>,
    /// By CPU: the vCPUs that may run there.
    allowed: Table<u64, MAX_CPUS>,
    /// By CPU: the vCPUs that go first there while rates are [`Regime::Filled`]: nothing is left for others.
    preferred: Table<u64, MAX_CPUS>,
    /// What the VMs were due when that was last worked out: see [`Fair::dues`].
    last: Dues,
    vms: Table<Vm, MAX_VMS>,
}

/// What each VM is due if the VMs `who` want to run, and of their vCPUs those that are `awake`, on the CPUs `free`.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
struct Dues {
    rates: [u32; MAX_VMS],
    who: u64,
    awake: u64,
    free: CpuSet,
}

const NO_VM: Vm = Vm {
    share: Share { weight: 0, cap: 0, affinity: CpuSet::EMPTY },
    cpus: CpuSet::EMPTY,
    members: 0,
    awake: 0,
    time: 0,
    rate: 0,
    inverse: 0,
    request: 0,
    span: 0,
    left: 0,
    left_clock: 0,
    round: 0,
    behind: 0,
    cap_time: 0,
    cap_inverse: 0,
};
const NO_TURN: Turn = Turn { vcpu: 0, since: 0, granted: 0, rest: 0, deadline: 0 };

impl Vm {
    /// Sets the effective weight of a VM that is not counted. It stays as many ns ahead of the clock.
    fn convert(&mut self, rate: u32) {
        if self.rate != rate {
            self.time = ((self.time as i64).wrapping_mul(self.rate.into()) / i64::from(rate)) as u64;
            self.rate = rate;
            self.inverse = (1 << 44) / u64::from(rate);
            self.set_request(self.request);
        }
    }

    fn set_request(&mut self, request: u32) {
        self.request = request;
        self.span = self.virtual_time(request.into());
    }

    /// The vCPU `v` has had `had` ns.
    fn turn(&mut self, v: usize, had: u64) {
        let behind = u64::from(had + NEARLY < self.round);
        self.behind = self.behind & !bit(v) | behind << v;
    }

    /// The virtual time that `time` ns of CPU time are worth.
    fn virtual_time(&self, time: i64) -> i64 {
        (time * self.inverse as i64) >> 12
    }

    /// The most that it can use, as a rate.
    fn limit(&self) -> u32 {
        let vcpus = self.awake.max(1) * ONE_CPU;
        match self.share.cap {
            0 => vcpus,
            cap => vcpus.min((u64::from(cap) * u64::from(ONE_CPU) / 100).min(u32::MAX.into()) as u32),
        }
    }
}

/// The least of what the vCPUs `set` have had.
fn least(set: u64, had: &Had) -> u64 {
    bits(set).map(|v| had[v]).min().unwrap_or(0)
}

impl Fair {
    /// Nobody has a share. All bytes are 0.
    pub(crate) const fn new() -> Self {
        Self {
            vms: Table([NO_VM; MAX_VMS]),
            vm_of: Table([0; MAX_VCPUS]),
            had: Table([0; MAX_VCPUS]),
            turns: Table([NO_TURN; MAX_CPUS]),
            taken: 0,
            allowed: Table([0; MAX_CPUS]),
            preferred: Table([0; MAX_CPUS]),
            last: Dues { rates: [0; MAX_VMS], who: 0, awake: 0, free: CpuSet::EMPTY },
            vcpus: 0,
            awake: 0,
            awake_count: 0,
            dozing: 0,
            rounds_over: 0,
            free: CpuSet::EMPTY,
            active: 0,
            moved: 0,
            counted: 0,
            picky: 0,
            settled: 0,
            capped: 0,
            clock: 0,
            imbalance: 0,
            rates: 0,
            weights: 0,
            regime: Regime::Slack,
            has_caps: false,
            stale: false,
            slice: 0,
        }
    }

    /// Shares have the CPUs `free`, in slices of `slice` ns, which has to be less than 2²⁵.
    pub(crate) const fn start(&mut self, free: CpuSet, slice: Ns) {
        self.slice = slice as u32;
        self.set_free(free);
    }

    /// Gives a VM a share, or another one. Shares have the CPUs `usable`.
    pub(crate) fn set_share(
        &mut self,
        vm: usize,
        share: Share,
        usable: CpuSet,
        now: Ns,
    ) -> Result<(), ScheduleError> {
        let others = (0..MAX_VMS).filter(|&other| other != vm).map(|other| self.vms[other].share);
        let mut affinities = [CpuSet::EMPTY; MAX_AFFINITIES + 1];
        let mut count = 0;
        for share in others.filter(|share| share.weight != 0).chain([share]) {
            let affinity = share.affinity.and(usable);
            if !affinities[..count].contains(&affinity) {
                if count == MAX_AFFINITIES {
                    return Err(ScheduleError::TooManyAffinities);
                }
                affinities[count] = affinity;
                count += 1;
            }
        }
        if vm >= MAX_VMS {
            return Err(ScheduleError::OutOfRange);
        }
        if share.weight == 0 || share.weight > MAX_WEIGHT || share.cap > 100 * MAX_VCPUS as u32 {
            return Err(ScheduleError::Malformed);
        }
        if share.affinity.and(usable).is_empty() {
            return Err(ScheduleError::NoCpu);
        }
        self.end_dozing();
        let grants = self.settle(now);
        let active = bit(vm) & self.active;
        if active != 0 {
            self.weights = self.weights - self.vms[vm].share.weight + share.weight;
        }
        let this = &mut self.vms[vm];
        this.share = share;
        this.cap_inverse = if share.cap == 0 { 0 } else { (100 << 16) / u64::from(share.cap) };
        this.cap_time = now;
        let members = this.members;
        self.has_caps = self.vms.0.iter().any(|vm| vm.cap_inverse != 0);
        self.capped &= !members;
        if active != 0 && self.counted & bit(vm) != 0 {
            self.change_rate(vm, share.rate());
        }
        self.regrant(grants, now);
        self.set_usable(usable);
        Ok(())
    }

    /// The VM of the vCPU `v`'s share.
    pub(crate) fn vm_of(&self, v: usize) -> usize {
        usize::from(self.vm_of[v])
    }

    /// The share of a VM, if it has one.
    pub(crate) fn share(&self, vm: usize) -> Option<Share> {
        Some(self.vms[vm].share).filter(|share| vm < MAX_VMS && share.weight != 0)
    }

    /// Adds the vCPU `v`, which sleeps, to a VM with a share.
    pub(crate) fn add(&mut self, v: usize, vm: usize, usable: CpuSet) {
        self.vm_of[v] = vm as u8;
        self.had[v] = 0;
        self.vms[vm].members |= bit(v);
        self.vcpus |= bit(v);
        self.set_usable(usable);
    }

    /// Takes out the vCPU `v`.
    pub(crate) fn remove(&mut self, v: usize, now: Ns) {
        for cpu in 0..MAX_CPUS {
            if self.turn(cpu) == Some(v) {
                self.count(cpu, now);
                self.stop(cpu);
            }
            self.allowed[cpu] &= !bit(v);
        }
        self.sleep(v, now);
        self.end_dozing();
        let vm = self.vm_of(v);
        self.vms[vm].members &= !bit(v);
        self.vms[vm].behind &= !bit(v);
        self.vcpus &= !bit(v);
        self.capped &= !bit(v);
    }

    /// When the VM of `v` may run again, if it is at its cap.
    pub(crate) fn capped_until(&self, v: usize) -> Option<Ns> {
        (self.capped & bit(v) != 0).then(|| self.vms[self.vm_of(v)].cap_time)
    }

    /// Whether `v` is known to want to run.
    pub(crate) fn is_awake(&self, v: usize) -> bool {
        self.awake & bit(v) != 0
    }

    /// The vCPUs `set` of `vm` start to want to run.
    pub(crate) fn wake(&mut self, vm: usize, set: u64, now: Ns) {
        let dozing = self.dozing;
        self.dozing &= !set;
        let set = set & !dozing;
        if set == 0 {
            return self.check_cap(vm, now);
        }
        if self.regime != Regime::Slack {
            self.end_dozing();
        }
        let siblings = self.awake & self.vms[vm].members;
        if siblings & self.vms[vm].behind == 0 && siblings != 0 {
            self.begin_round(vm);
        }
        let this = &mut self.vms[vm];
        // Who slept has not had less than anybody had when the round began.
        let least = this.round.saturating_sub(self.slice.into());
        let sleeps = this.awake == 0;
        for v in bits(set & !siblings) {
            let had = self.had[v].max(least);
            self.had[v] = had;
            this.turn(v, had);
            this.awake += 1;
            self.awake_count += 1;
        }
        self.awake |= set;
        self.stale = true;
        if sleeps {
            // As when it left: without what is counted in advance.
            let grants = (self.settled & bit(vm) != 0).then(|| self.settle(now));
            let this = &mut self.vms[vm];
            let was = this.time as i64;
            let ahead =
                (this.time.wrapping_sub(self.clock.wrapping_sub(this.left_clock)) as i64).max(was.min(0));
            this.time = if now.saturating_sub(this.left) > FORGET { 0 } else { ahead as u64 };
            this.set_request(self.slice / SHORTER);
            let rate = this.share.rate();
            let changes = this.rate != rate && self.regime != Regime::Filled;
            self.active |= bit(vm);
            self.moved ^= bit(vm);
            self.weights += this.share.weight;
            self.imbalance = self.imbalance.wrapping_add(self.share_of_imbalance(vm));
            self.thaw(vm);
            if changes {
                self.change_rate(vm, rate);
            }
            if let Some(grants) = grants {
                self.settled &= !bit(vm);
                self.regrant(grants, now);
            }
        }
        self.check_cap(vm, now);
    }

    /// Whether what is said of one of two vCPUs that wait holds of the other: they are one VM's, and as far in its round.
    pub(crate) fn are_alike(&self, v: usize, other: usize) -> bool {
        let vm = self.vm_of(v);
        let behind = self.vms[vm].behind;
        vm == self.vm_of(other) && behind >> v & 1 == behind >> other & 1
    }

    /// Counts what has run on `cpu` up to `now`.
    #[inline]
    pub(crate) fn count(&mut self, cpu: usize, now: Ns) {
        let Some(v) = self.turn(cpu) else { return };
        let turn = &mut self.turns[cpu];
        let time = now.saturating_sub(turn.since).min(MAX_TIME) as u32;
        turn.since = turn.since.max(now);
        turn.rest = turn.granted.saturating_sub(time);
        let granted = core::mem::take(&mut turn.granted);
        self.bill(v, time, granted, now);
    }

    /// `v` has had `time`, of which `granted` is counted already.
    #[inline]
    fn bill(&mut self, v: usize, time: u32, granted: u32, now: Ns) {
        let vm = self.vm_of(v);
        // While all run nobody has his turn before another, but in a VM at its cap. Masks, and no branches: every decision comes here.
        let counts = -i64::from(self.regime != Regime::Slack);
        let takes_turns = counts | -i64::from(self.vms[vm].cap_inverse != 0);
        self.had[v] += u64::from(time) & takes_turns as u64;
        let this = &mut self.vms[vm];
        this.turn(v, self.had[v]);
        if self.awake & this.behind == 0 && this.awake > 1 {
            self.rounds_over |= bit(vm);
        }
        self.advance(vm, (i64::from(time) - i64::from(granted)) & counts);
        if self.vms[vm].cap_inverse != 0 {
            self.use_cap(vm, i64::from(time) - i64::from(granted), now);
            self.check_cap(vm, now);
        }
    }

    /// `time` that was counted for what runs on `cpu` was spent for `v`.
    pub(crate) fn shift(&mut self, cpu: usize, time: Ns) {
        self.turns[cpu].since += time;
    }

    /// `v` has had `time` without running.
    pub(crate) fn charge(&mut self, v: usize, time: Ns, now: Ns) {
        if self.is_awake(v) {
            self.bill(v, time.min(MAX_TIME) as u32, 0, now);
        }
    }

    /// Nothing with a share runs on `cpu`.
    pub(crate) fn stop(&mut self, cpu: usize) {
        self.taken &= !bit(cpu);
    }

    /// Whose turn it is on `cpu`.
    fn turn(&self, cpu: usize) -> Option<usize> {
        (self.taken & bit(cpu) != 0).then(|| self.turns[cpu].vcpu.into())
    }

    /// Chooses among the vCPUs `candidates` for `cpu`, which has just counted; among equals of a VM one of `local`. The
    /// vCPUs `last` come last, the one that ran there among them.
    #[inline]
    pub(crate) fn choose(
        &mut self,
        cpu: usize,
        mut candidates: u64,
        local: u64,
        last: u64,
        now: Ns,
    ) -> Option<usize> {
        if self.regime == Regime::Filled {
            // Some CPUs may have nobody to share with, and so have not been heard of for long.
            for cpu in bits(self.taken) {
                if now.saturating_sub(self.turns[cpu].since) > self.turns[cpu].granted.into() {
                    self.count(cpu, now);
                }
            }
        }
        self.begin_rounds();
        self.correct();
        if self.regime == Regime::Filled && last == 0 {
            candidates = self.make_way(cpu, candidates);
        }
        let mut kept = self.turn(cpu).filter(|&v| candidates & bit(v) != 0);
        let turn = &mut self.turns[cpu];
        if last != 0 || turn.rest < self.slice / (4 * SHORTER) {
            turn.rest = 0;
            if kept.take().is_some() && candidates & !last != 0 {
                candidates &= !last;
            }
        }
        let (mut best, mut best_key) = (MAX_VMS, i64::MAX);
        if let Some(kept) = kept {
            best = usize::from(self.vm_of[kept]);
            best_key = turn.deadline.wrapping_sub(self.clock) as i64;
        }
        let kept_vm = best;
        for vm in bits(self.counted & !bit(best)) {
            let this = &self.vms[vm];
            let ahead = self.ahead(vm);
            let mut key = ahead + this.span;
            if ahead > 0 {
                // Not eligible: comes only if nobody is, and the least ahead first.
                key = ahead + (1 << 62);
            }
            if key < best_key && this.members & candidates != 0 {
                (best, best_key) = (vm, key);
            }
        }
        if best == MAX_VMS {
            return None;
        }
        let vm = &self.vms[best];
        let mut set = vm.members & candidates;
        if let Some(kept) = kept.filter(|_| kept_vm == best)
            && (set & vm.behind == 0 || !self.is_far_ahead(kept))
        {
            return Some(kept);
        }
        self.turns[cpu].rest = 0;
        if set & vm.behind != 0 {
            set &= vm.behind;
        } else if set & (set - 1) != 0 {
            set = self.next_of(set);
        }
        if set & local != 0 {
            set &= local;
        }
        Some(set.trailing_zeros() as usize)
    }

    /// Those who have had the least of `set`, of whom nobody is behind in the round.
    #[inline(never)]
    fn next_of(&self, set: u64) -> u64 {
        let least = least(set, &self.had) + NEARLY;
        mask(bits(set).filter(|&v| self.had[v] < least))
    }

    /// New rounds begin where the last one is over, before anybody is chosen: also while all of a VM run, so that who comes to wait
    /// goes before those that have had more.
    #[inline]
    fn begin_rounds(&mut self) {
        for vm in bits(core::mem::take(&mut self.rounds_over)) {
            let this = &self.vms[vm];
            if self.awake & this.behind == 0 && this.awake > 1 {
                self.begin_round(vm);
            }
        }
    }

    /// All vCPUs of `vm` that want to run, of which there are some, have had their turns: a new round begins.
    #[inline(never)]
    fn begin_round(&mut self, vm: usize) {
        let this = &mut self.vms[vm];
        let awake = self.awake & this.members;
        this.round = least(awake, &self.had) + u64::from(self.slice);
        for v in bits(awake) {
            this.turn(v, self.had[v]);
        }
    }

    /// `v`, which was chosen, runs on `cpu` and pays for it as of `since`. Returns until when, if somebody else waits.
    #[inline]
    pub(crate) fn begin(&mut self, cpu: usize, v: usize, since: Ns, now: Ns) -> Ns {
        let vm = self.vm_of(v);
        let this = &self.vms[vm];
        let rest = self.turns[cpu].rest;
        let granted = if rest > 0 { rest } else { this.request };
        let ahead = self.ahead(vm);
        let least = -this.virtual_time(MAX_LAG * i64::from(self.slice));
        if self.regime != Regime::Slack && ahead < least {
            self.advance_virtual(vm, least - ahead);
        }
        self.taken |= bit(cpu);
        self.turns[cpu].vcpu = v as u8;
        self.turns[cpu].since = since;
        self.grant(cpu, vm, granted, now);
        if rest == 0 {
            self.turns[cpu].deadline = self.vms[vm].time;
            self.vms[vm].set_request(self.slice);
        }
        since + Ns::from(granted)
    }

    /// Counts a slice of `vm` on `cpu` in advance.
    #[inline(always)]
    fn grant(&mut self, cpu: usize, vm: usize, time: u32, now: Ns) {
        let turn = &mut self.turns[cpu];
        (turn.rest, turn.granted) = (0, 0);
        if self.regime != Regime::Slack {
            turn.granted = time;
            self.advance(vm, time.into());
        }
        if self.vms[vm].cap_inverse != 0 {
            self.turns[cpu].granted = time;
            self.use_cap(vm, time.into(), now);
            self.check_cap(vm, now);
        }
    }

    /// Whether some VM has a cap.
    pub(crate) fn has_caps(&self) -> bool {
        self.has_caps
    }

    /// Whether the VM of `v` has a cap.
    pub(crate) fn has_cap(&self, v: usize) -> bool {
        self.vms[self.vm_of(v)].cap_inverse != 0
    }

    /// Whether `v` has had so much more than its turn that those of its VM who are behind need not wait for the end of its slice.
    fn is_far_ahead(&self, v: usize) -> bool {
        self.had[v] > self.vms[self.vm_of(v)].round + u64::from(self.slice)
    }

    /// By how much the slice on `cpu` would be over after that of `v`, if `v` were to begin now: whether `v` should go
    /// first, and how urgently.
    pub(crate) fn precedes(&self, v: usize, cpu: usize) -> Option<i64> {
        let vm = self.vm_of(v);
        let this = &self.vms[vm];
        let sibling = self.turn(cpu).filter(|&other| self.vm_of(other) == vm);
        if let Some(other) = sibling {
            return (this.behind & bit(v) != 0 && self.is_far_ahead(other)).then_some(1);
        }
        if self.regime == Regime::Filled && self.preferred[cpu] & bit(v) == 0 {
            return None;
        }
        let ahead = self.ahead(vm);
        let deadline = ahead + this.span;
        let by = (self.turns[cpu].deadline.wrapping_sub(self.clock) as i64) - deadline;
        // Not for next to nothing: a switch costs both of them.
        (ahead <= 0 && by > this.virtual_time(WORTHWHILE)).then_some(by)
    }

    /// A capped VM has had `time`.
    fn use_cap(&mut self, vm: usize, time: i64, now: Ns) {
        let slice = Ns::from(self.slice);
        let this = &mut self.vms[vm];
        // What it did not use it can use later, up to a slice.
        this.cap_time = this.cap_time.max(now.saturating_sub(slice));
        this.cap_time = this.cap_time.saturating_add_signed((time * this.cap_inverse as i64) >> 16);
    }

    /// Finds out whether `vm` is at its cap.
    pub(crate) fn check_cap(&mut self, vm: usize, now: Ns) {
        let this = &self.vms[vm];
        if this.cap_inverse != 0 {
            let over = this.cap_time > now + CAP_TOLERANCE;
            self.capped = if over { self.capped | this.members } else { self.capped & !this.members };
        }
    }

    /// The vCPUs that want to run and are not at their cap.
    pub(crate) fn waiting(&self) -> u64 {
        self.awake & !self.capped
    }

    /// All vCPUs with a share.
    pub(crate) fn all(&self) -> u64 {
        self.vcpus
    }

    /// The vCPUs of `vm`.
    pub(crate) fn members(&self, vm: usize) -> u64 {
        self.vms[vm].members
    }
}

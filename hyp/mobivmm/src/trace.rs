//! What each CPU does, for who watches from outside: [`abi::trace`]. Off, a hook is a look at one flag, and an exit has none.

use core::sync::atomic::Ordering;

use abi::trace::{Kind, RECORDS, Record, Trace};
use arch::enter;
use arch::{MAX_CPUS, time};
use sched::{CpuSet, VcpuId};
use vgic::Effects;
use vm::Vm;

use crate::guest::Guest;
use crate::host::Here;
use crate::{console, log};

static TRACE: Trace<MAX_CPUS> = Trace::empty();
/// So many records that are not read yet make the runner look, where it stops the machine for that: then none is lost.
const FULL: u64 = RECORDS as u64 * 3 / 4;
/// ESR_EL2.EC of aborts from a lower exception level, of instructions and of data, without the bit in which they differ.
const ABORT: u64 = 0x20;
/// What an interrupt has in the place of ESR_EL2: [`Kind::Exit`].
const INTERRUPT: u64 = 1;

/// Says where the rings are. The boot arguments may have `trace=on`.
pub fn init(arguments: &str, online: CpuSet) {
    let on = arguments.split_ascii_whitespace().any(|word| word == "trace=on");
    TRACE.open(online.0, on);
    log!("trace: {} at {:p}", if on { "on" } else { "off" }, &raw const TRACE);
}

/// Whether it is on.
pub fn is_on() -> bool {
    TRACE.on.load(Ordering::Relaxed) != 0
}

/// Turns it on or off. The other CPUs see that when they are interrupted for it.
pub fn switch(here: &Here, on: bool) {
    TRACE.on.store(on.into(), Ordering::Relaxed);
    follow(here);
    here.machine.repick(here.cpu, CpuSet(TRACE.cpus.load(Ordering::Relaxed)));
    here.pick_again();
}

/// Sees that it was turned on or off.
pub fn follow(here: &Here) {
    let on = is_on();
    if !here.traced.replace(on) && on {
        here.traced_run.set(None);
        record(here, time::now(), Kind::Begin, VcpuId(0), 0);
    }
}

impl Here {
    /// Has one of the functions below write records, if they are wanted.
    #[inline(always)]
    pub fn trace<T>(&self, hook: impl FnOnce(&Self, T), what: T) {
        if self.traced.get() {
            hook(self, what);
        }
    }
}

/// The scheduler has given this CPU to `run`, which has waited for `waited` ns in all.
#[cold]
#[inline(never)]
pub fn picked(here: &Here, (run, waited): (Option<VcpuId>, u64)) {
    // Who goes and who comes do so at the same time.
    let now = time::now();
    let old = here.traced_run.replace(run);
    if let Some(old) = old.filter(|_| old != run) {
        let scheduler = here.machine.scheduler.lock();
        let (wants, budget) = (scheduler.is_runnable(old), scheduler.budget(old, now));
        drop(scheduler);
        match budget {
            _ if !wants => record(here, now, Kind::Sleep, old, 0),
            Some(budget) if budget.left == 0 => record(here, now, Kind::Exhausted, old, budget.replenished),
            _ => record(here, now, Kind::Preempt, old, 0),
        }
    }
    match run {
        Some(run) => record(here, now, Kind::Run, run, waited),
        None => record(here, now, Kind::Idle, VcpuId(0), 0),
    }
}

/// A guest was left for EL2 because of a trap, or an SError.
#[cold]
#[inline(never)]
pub fn exit(here: &Here, vcpu: VcpuId, x0: u64, esr: u64) {
    let detail = if esr >> 26 & !0b100 == ABORT { enter::fault_address().1 >> 4 } else { x0 };
    record(here, time::now(), Kind::Exit, vcpu, detail << 32 | esr & 0xffff_ffff);
}

/// The same because of an interrupt.
#[cold]
#[inline(never)]
pub fn interrupted(here: &Here, vcpu: VcpuId) {
    let intid = u64::from(here.machine.gic.highest_pending());
    record(here, time::now(), Kind::Exit, vcpu, intid << 32 | INTERRUPT);
}

/// A VM's vCPUs are told of interrupts.
#[cold]
#[inline(never)]
pub fn kicked(here: &Here, (guest, effects): (&Guest, Effects)) {
    effects.kick.iter().for_each(|vcpu| record(here, time::now(), Kind::Inject, guest.id(vcpu), 0));
}

/// A vCPU has said that its job is done.
#[cold]
#[inline(never)]
pub fn job_done(here: &Here, (vm, vcpu): (&Vm, usize)) {
    if let Some(guest) = here.machine.guest(vm.config.id.into()) {
        let misses = here.machine.scheduler.lock().stats(guest.id(vcpu)).misses;
        record(here, time::now(), Kind::Job, guest.id(vcpu), misses);
    }
}

#[inline(never)]
fn record(here: &Here, time: u64, kind: Kind, vcpu: VcpuId, argument: u64) {
    let record = Record { time, kind, vcpu: vcpu.0 as u8, argument };
    if TRACE.rings[here.index()].push(record) == FULL {
        console::sync();
    }
}

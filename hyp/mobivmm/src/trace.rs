//! What each CPU does, for who watches from outside: [`abi::trace`]. Off, a hook is the look at one flag of its CPU, and an exit has none.

use core::sync::atomic::Ordering;

use abi::trace::{Event, RECORDS, TIME_MASK, Trace};
use arch::enter::{self, Cause, Exit};
use arch::{MAX_CPUS, time};
use sched::{Budget, CpuSet, VcpuId};
use vm::VcpuState;

use crate::host::Here;
use crate::{console, log};

static TRACE: Trace<MAX_CPUS> = Trace::new();
/// So many records that are not read yet make the runner look, where it stops the machine for that: then none is lost.
const FULL: u64 = (RECORDS * 3 / 4) as u64;
/// ESR_EL2.EC of aborts from a lower exception level: bits 5:3 of it, less the lowest two.
const ABORTS: u64 = 0x20;

/// Says where the rings are. The boot arguments may have `trace=on`.
pub fn init(arguments: &str, online: CpuSet) {
    let on = arguments.split_ascii_whitespace().any(|word| word == "trace=on");
    TRACE.open(online.0, on);
    log!("trace: {} at {:p}", if on { "on" } else { "off" }, &raw const TRACE);
}

/// Turns it on or off. Each CPU sees that when it picks again.
pub fn switch(on: bool, here: &Here) {
    TRACE.on.store(on.into(), Ordering::Relaxed);
    if here.machine.repick(here.cpu, CpuSet(TRACE.cpus.load(Ordering::Relaxed))) {
        here.pick_again();
    }
}

impl Here {
    /// Writes what happened into this CPU's ring, if it is wanted.
    #[inline(always)]
    pub fn trace(&self, event: impl FnOnce() -> Event) {
        if self.traced.get() {
            let [first, argument] = event().encode();
            record(self, first, argument);
        }
    }

    /// The scheduler has taken the CPU away from `old`, and `run` has it now, which has waited for `waited` ns in all.
    #[inline(always)]
    pub fn trace_pick(&self, old: Option<VcpuId>, run: Option<VcpuId>, waited: u64) {
        self.traced.set(TRACE.on.load(Ordering::Relaxed) != 0);
        if self.traced.get() {
            picked(self, old.filter(|_| old != run), run, waited);
        }
    }

    /// A guest was left for EL2.
    #[cold]
    #[inline(never)]
    pub fn trace_exit(&self, id: VcpuId, state: &VcpuState, exit: Exit) {
        let syndrome = exit.syndrome();
        let (_, hpfar) = enter::fault_address();
        let detail = match syndrome >> 26 & !0b100 {
            _ if exit.cause() == Cause::Interrupt => self.machine.gic.highest_pending(),
            ABORTS => (hpfar >> 4) as u32,
            _ => state.gprs[0] as u32,
        };
        self.trace(|| Event::Exit { vcpu: vcpu(id), syndrome: syndrome as u32, detail });
    }
}

#[cold]
#[inline(never)]
fn picked(here: &Here, old: Option<VcpuId>, run: Option<VcpuId>, waited: u64) {
    if let Some(old) = old {
        let scheduler = here.machine.scheduler.lock();
        let (wants, budget) = (scheduler.wants_to_run(old), scheduler.budget(old, time::now()));
        drop(scheduler);
        let exhausted = budget.filter(|budget| wants && budget.left == 0);
        here.trace(|| match (vcpu(old), exhausted) {
            (vcpu, Some(Budget { replenished: until, .. })) => Event::Exhausted { vcpu, until },
            (vcpu, None) if wants => Event::Preempt { vcpu },
            (vcpu, None) => Event::Sleep { vcpu },
        });
    }
    here.trace(|| run.map_or(Event::Idle, |run| Event::Run { vcpu: vcpu(run), waited }));
}

#[cold]
#[inline(never)]
fn record(here: &Here, first: u64, argument: u64) {
    let words = [first | time::now() & TIME_MASK, argument];
    if TRACE.rings[here.index()].push(words) == FULL {
        console::sync();
    }
}

/// As records have it: there are 64.
pub fn vcpu(id: VcpuId) -> u8 {
    id.0 as u8
}

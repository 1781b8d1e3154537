//! A guest's exits, answered at once as far as they can be.

use arch::enter::{self, Exits};
use vm::{Context, VcpuState};

use crate::guest::Guest;
use crate::host::Here;
use crate::{plant, trace};

/// Who answers them; `TRACED` says that they are recorded.
struct AtOnce<'a, const TRACED: bool> {
    cx: Context<'a, Here>,
    guest: &'a Guest,
}

/// Runs the vCPU that is loaded here, until the run loop has something to do.
pub fn run(here: &Here, guest: &Guest, vcpu: usize, state: &mut VcpuState) {
    let cx = Context { vm: &guest.vm, vcpu, host: here };
    if here.traced.get() {
        enter::run(state, &AtOnce::<true> { cx, guest }, &here.look);
    } else {
        enter::run(state, &AtOnce::<false> { cx, guest }, &here.look);
    }
}

impl<const TRACED: bool> AtOnce<'_, TRACED> {
    #[inline(always)]
    fn trace(&self, state: &VcpuState, esr: u64) {
        if TRACED {
            trace::exit(self.cx.host, self.guest.id(self.cx.vcpu), state.gprs[0], esr);
        }
        plant::trap(self.guest, state.gprs[0], esr);
    }
}

impl<const TRACED: bool> Exits for AtOnce<'_, TRACED> {
    #[inline(always)]
    fn interrupt(&self) {
        if TRACED {
            trace::interrupted(self.cx.host, self.guest.id(self.cx.vcpu));
        }
        self.cx.host.interrupted();
    }

    #[inline(always)]
    fn hypercall(&self, state: &mut VcpuState, esr: u64) {
        self.trace(state, esr);
        vm::hypercall(&self.cx, state, esr);
    }

    #[inline(always)]
    fn trap(&self, state: &mut VcpuState, esr: u64) {
        self.trace(state, esr);
        vm::trap(&self.cx, state, esr);
    }
}

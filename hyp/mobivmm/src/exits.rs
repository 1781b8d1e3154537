//! A guest's exits, answered at once as far as they can be.

use arch::enter::{self, Exits, Watched};
use vm::{Context, VcpuState};

use crate::guest::Guest;
use crate::host::Here;
use crate::{plant, trace};

/// Who answers them.
struct AtOnce<'a> {
    cx: Context<'a, Here>,
    guest: &'a Guest,
}

/// Runs the vCPU that is loaded here, until the run loop has something to do.
pub fn run(here: &Here, guest: &Guest, vcpu: usize, state: &mut VcpuState) {
    let exits = AtOnce { cx: Context { vm: &guest.vm, vcpu, host: here }, guest };
    if here.traced.get() {
        let watch = |trap| trace::exit(here, guest.id(vcpu), trap);
        enter::run(state, &Watched { exits, watch }, &here.look);
    } else {
        enter::run(state, &exits, &here.look);
    }
}

impl Exits for AtOnce<'_> {
    #[inline(always)]
    fn interrupt(&self) {
        self.cx.host.interrupted(self.guest, self.cx.vcpu);
    }

    #[inline(always)]
    fn hypercall(&self, state: &mut VcpuState, esr: u64) {
        plant::trap(self.guest, state.gprs[0], esr);
        vm::hypercall(&self.cx, state, esr);
    }

    #[inline(always)]
    fn trap(&self, state: &mut VcpuState, esr: u64) {
        plant::trap(self.guest, state.gprs[0], esr);
        vm::trap(&self.cx, state, esr);
    }
}

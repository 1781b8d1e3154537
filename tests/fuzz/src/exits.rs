//! Arbitrary bytes as a sequence of exits: nothing that a guest does may panic, and whatever it does it stays at EL1 or EL0.

use std::cell::{Cell, RefCell};

use mobivmm_vgic::{Config as GicConfig, Control, Effects, ListRegisters, State, Version, Vgic};
use vm::exit::SysReg;
use vm::state::VcpuState;
use vm::{Config, Context, Entry, Exit, Host, Next, StageTwoAccess, Vm, bus, handle, inject, timer};

use crate::bytes::Bytes;

/// A machine whose every answer is read off the string, and what it is to do next.
struct Machine<'a>(RefCell<Bytes<'a>>, Cell<Option<Next>>);

impl Machine<'_> {
    fn take(&self, count: usize) -> u64 {
        self.0.borrow_mut().take(count)
    }

    fn maybe(&self, count: usize) -> Option<u64> {
        self.take(1).is_multiple_of(2).then(|| self.take(count))
    }
}

impl Host for Machine<'_> {
    fn counter(&self) -> u64 {
        self.take(8)
    }
    fn id_register(&self, _: SysReg) -> u64 {
        self.take(8)
    }
    fn workaround(&self, _: u32) -> i64 {
        self.take(1) as i64 % 3 - 1
    }
    fn sync(&self, _: &mut VcpuState) {}
    fn instruction(&self, _: &Vm, _: &VcpuState) -> Option<u32> {
        self.maybe(4).map(|instruction| instruction as u32)
    }
    fn translate(&self, _: &VcpuState, _: u64, _: StageTwoAccess) -> Option<u64> {
        self.maybe(5)
    }
    fn fault_address(&self) -> (u64, u64) {
        (self.take(5), self.take(5))
    }
    fn leave(&self, next: Next) {
        self.1.set(Some(next));
    }
    fn observe(&self, gic: &mut Vgic, vcpu: usize, word: usize) -> Effects {
        gic.observe(vcpu, word, &mut NoListRegisters)
    }
    fn interrupts(&self, _: &Vm, _: Effects) {}
    fn start(&self, _: &Vm, _: usize) {}
    fn arm_timer(&self, _: &Vm, _: usize, _: Option<u64>) {}
    fn console_put(&self, _: &Vm, bytes: &[u8]) -> usize {
        bytes.len().min(self.take(1) as usize)
    }
    fn console_room(&self, _: &Vm) -> usize {
        self.take(1) as usize
    }
    fn console_taken(&self, _: &Vm, _: usize) {}
}

/// Of a vCPU that is never loaded.
struct NoListRegisters;

impl ListRegisters for NoListRegisters {
    fn state(&self, _: usize) -> State {
        State::INACTIVE
    }
    fn write(&mut self, _: usize, _: u64) {}
    fn empty(&self) -> u16 {
        u16::MAX
    }
    fn eoi_count(&self) -> u8 {
        0
    }
    fn splits_eoi(&self) -> bool {
        false
    }
    fn set_control(&mut self, _: Control) {}
}

/// PSTATE.M of EL1h, EL1t, EL0t and a 32-bit EL0.
const MODES: [u64; 4] = [0b0101, 0b0100, 0, 0b1_0000];

/// Plays the exits that `data` describes.
pub fn play(data: &[u8]) {
    let machine = Machine(RefCell::new(Bytes(data)), Cell::new(None));
    let mut guest = Guest::new(&machine);
    while !machine.0.borrow().is_empty() {
        if !guest.step(&machine) {
            guest = Guest::new(&machine);
        }
    }
}

struct Guest {
    vm: Vm,
    states: Vec<VcpuState>,
}

impl Guest {
    fn new(machine: &Machine<'_>) -> Self {
        let version = if machine.take(1).is_multiple_of(2) { Version::V2 } else { Version::V3 };
        let vcpus = 1 + machine.take(1) as usize % 4;
        let vm = Vm::new(Config {
            id: 0,
            name: "fuzzed".into(),
            gic: GicConfig { version, vcpus, spis: 96, list_registers: 4 },
            ram: bus::RAM_BASE..bus::RAM_BASE + (16 << 20),
            channels: Vec::new(),
        })
        .expect("a good configuration");
        assert!(vm.boot(Entry { pc: bus::RAM_BASE, context: 0 }, &mut vm.new_gic().unwrap(), machine));
        let mut states: Vec<VcpuState> = vm.vcpus.iter().map(|vcpu| vcpu.state.lock().clone()).collect();
        assert!(vm.prepare(0, &mut states[0], machine));
        Self { vm, states }
    }

    /// One event of one vCPU. False: the VM has come to its end.
    fn step(&mut self, machine: &Machine<'_>) -> bool {
        let (action, vcpu) = (machine.take(1) % 16, machine.take(1) as usize % self.states.len());
        match action {
            0 => {
                let bytes = machine.take(4).to_le_bytes();
                self.vm.console_input(&bytes, machine);
                self.vm.console_ready(machine);
                return true;
            }
            1 => {
                timer::due(&self.vm, vcpu, machine);
                return true;
            }
            _ if !self.vm.prepare(vcpu, &mut self.states[vcpu], machine) => return true,
            _ => {}
        }
        let state = &mut self.states[vcpu];
        let pstate = machine.take(4);
        state.pstate = pstate & !0x1f | MODES[machine.take(1) as usize % MODES.len()];
        for _ in 0..machine.take(1) % 4 {
            state.gprs[machine.take(1) as usize % 31] = machine.take(8);
        }
        // FAR and HPFAR agree, as in hardware, or not.
        let (esr, far, hpfar) = (machine.take(4), machine.take(5), machine.maybe(5));
        let exit = Exit::decode(esr, far, hpfar.unwrap_or(far >> 8 & !0xf));
        handle(&Context { vm: &self.vm, vcpu, host: machine }, state, exit);
        let next = machine.1.take();
        if let Some(Next::StageTwo(fault)) = &next {
            inject::external_abort(state, fault.access, fault.va, fault.s1ptw, machine);
        }
        let aarch32 = state.pstate & 0x10 != 0;
        assert!(if aarch32 { state.pstate & 0xf == 0 } else { state.pstate & 0b1010 == 0 }, "left EL1");
        next.is_none_or(|next| {
            use Next::*;
            matches!(next, Wait | Yield | StageTwo(_) | CacheMaintenance | Stop)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_panics(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::play(&data);
        }
    }
}

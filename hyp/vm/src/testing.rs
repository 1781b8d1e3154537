//! A machine for tests: one that remembers what it was asked for.

use std::string::String;
use std::sync::Mutex;
use std::vec::Vec;

use abi::smccc::{Error, Left, Reservation};
use vgic::{Control, Effects, ListRegisters, State, Version, Vgic};

use crate::exit::{Access, DataAbort, Exit, Fault, InstrAbort, SysReg, SysRegAccess, Trap};
use crate::handle::{Context, Host, Next, StageTwoAccess, handle};
use crate::state::VcpuState;
use crate::vm::{Config, Entry, Vm};

pub(crate) const RAM: u64 = crate::bus::RAM_BASE;
pub(crate) const RAM_SIZE: u64 = 16 << 20;
pub(crate) const ENTRY: u64 = RAM + 0x8_0000;
pub(crate) const DTB: u64 = RAM;

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) counter: u64,
    pub(crate) id: u64,
    pub(crate) instruction: Option<u32>,
    pub(crate) translation: Option<u64>,
    pub(crate) fault_address: (u64, u64),
    pub(crate) next: Option<Next>,
    pub(crate) synced: usize,
    pub(crate) observed: usize,
    pub(crate) effects: Effects,
    pub(crate) started: Vec<usize>,
    pub(crate) timer: Option<u64>,
    pub(crate) output: Vec<u8>,
    pub(crate) room: usize,
    pub(crate) taken: usize,
    pub(crate) workaround: i64,
    pub(crate) reservation: Option<Reservation>,
    pub(crate) left: Option<Left>,
    pub(crate) refusal: Option<Error>,
    pub(crate) released: Option<u64>,
    pub(crate) rung: Vec<usize>,
}

/// The mock. The guest's system registers are in the state, so `sync` only counts.
#[derive(Debug)]
pub(crate) struct Mock(pub(crate) Mutex<Inner>);

impl Mock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner { room: usize::MAX, workaround: -1, ..Inner::default() }))
    }

    pub(crate) fn set<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }
}

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

impl Host for Mock {
    fn counter(&self) -> u64 {
        self.set(|m| m.counter)
    }
    fn id_register(&self, _: SysReg) -> u64 {
        self.set(|m| m.id)
    }
    fn workaround(&self, _: u32) -> i64 {
        self.set(|m| m.workaround)
    }
    fn sync(&self, _: &mut VcpuState) {
        self.set(|m| m.synced += 1);
    }
    fn instruction(&self, _: &Vm, _: &VcpuState) -> Option<u32> {
        self.set(|m| m.instruction)
    }
    fn translate(&self, _: &VcpuState, _: u64, _: StageTwoAccess) -> Option<u64> {
        self.set(|m| m.translation)
    }
    fn fault_address(&self) -> (u64, u64) {
        self.set(|m| m.fault_address)
    }
    fn leave(&self, next: Next) {
        assert_eq!(self.set(|m| m.next.replace(next)), None);
    }
    fn observe(&self, gic: &mut Vgic, vcpu: usize, word: usize) -> Effects {
        self.set(|m| m.observed += 1);
        gic.observe(vcpu, word, &mut NoListRegisters)
    }
    fn interrupts(&self, _: &Vm, effects: Effects) {
        self.set(|m| m.effects |= effects);
    }
    fn start(&self, _: &Vm, vcpu: usize) {
        self.set(|m| m.started.push(vcpu));
    }
    fn arm_timer(&self, _: &Vm, _: usize, deadline: Option<u64>) {
        self.set(|m| m.timer = deadline);
    }
    fn reservation(&self, _: &Vm, _: usize) -> Result<Reservation, Error> {
        self.set(|m| m.reservation.ok_or(Error::NotSupported))
    }
    fn reservation_left(&self, _: &Vm, _: usize) -> Result<Left, Error> {
        self.set(|m| m.left.ok_or(Error::NotSupported))
    }
    fn job_done(&self, _: &Vm, _: usize, release: u64) -> Result<(), Error> {
        self.set(|m| {
            m.reservation.ok_or(Error::NotSupported)?;
            m.released = Some(release);
            Ok(())
        })
    }
    fn notify(&self, vm: &Vm, channel: usize) -> Result<(), Error> {
        if channel >= vm.config.channels.len() {
            return Err(Error::InvalidParameter);
        }
        self.set(|m| {
            m.rung.push(channel);
            m.refusal.map_or(Ok(()), Err)
        })
    }
    fn console_put(&self, _: &Vm, bytes: &[u8]) -> usize {
        self.set(|m| {
            let count = bytes.len().min(m.room);
            m.output.extend(&bytes[..count]);
            if m.room != usize::MAX {
                m.room -= count;
            }
            count
        })
    }
    fn console_room(&self, _: &Vm) -> usize {
        self.set(|m| m.room)
    }
    fn console_taken(&self, _: &Vm, bytes: usize) {
        self.set(|m| m.taken += bytes);
    }
}

pub(crate) fn config(vcpus: usize, version: Version) -> Config {
    Config {
        id: 1,
        name: String::from("test"),
        gic: vgic::Config { version, vcpus, spis: 64, list_registers: 4 },
        ram: RAM..RAM + RAM_SIZE,
        channels: Vec::new(),
    }
}

/// A VM whose vCPU 0 is about to run its first instruction.
pub(crate) struct Guest {
    pub(crate) vm: Vm,
    pub(crate) host: Mock,
    pub(crate) state: VcpuState,
}

impl Guest {
    pub(crate) fn new(vcpus: usize, version: Version) -> Self {
        Self::with(config(vcpus, version))
    }

    pub(crate) fn with(config: Config) -> Self {
        let (vm, host) = (Vm::new(config).unwrap(), Mock::new());
        vm.boot(Entry { pc: ENTRY, context: DTB }, &mut vm.new_gic().unwrap(), &host);
        let mut state = vm.vcpus[0].state.lock().clone();
        assert!(vm.prepare(0, &mut state, &host));
        Self { vm, host, state }
    }

    pub(crate) fn v3() -> Self {
        Self::new(2, Version::V3)
    }

    /// Has an exit of `vcpu` answered. What is to be done before the guest goes on.
    pub(crate) fn answer(
        &mut self,
        vcpu: usize,
        answer: impl FnOnce(&Context<'_, Mock>, &mut VcpuState),
    ) -> Option<Next> {
        answer(&Context { vm: &self.vm, vcpu, host: &self.host }, &mut self.state);
        self.host.set(|m| m.next.take())
    }

    pub(crate) fn trap_on(&mut self, vcpu: usize, trap: Trap) -> Option<Next> {
        self.answer(vcpu, |cx, state| handle(cx, state, Exit { trap, len: 4 }))
    }

    pub(crate) fn trap(&mut self, trap: Trap) -> Option<Next> {
        self.trap_on(0, trap)
    }

    /// A hypercall with arguments from x0: what it returns in x0, and what follows.
    pub(crate) fn hvc_on(&mut self, vcpu: usize, args: &[u64]) -> (i64, Option<Next>) {
        self.state.gprs[..args.len()].copy_from_slice(args);
        let next = self.trap_on(vcpu, Trap::Hvc { imm: 0 });
        (self.state.gprs[0] as i64, next)
    }

    pub(crate) fn hvc(&mut self, args: &[u64]) -> i64 {
        let (result, next) = self.hvc_on(0, args);
        assert_eq!(next, None);
        result
    }

    /// MRS x1, `reg`. None: it was UNDEFINED.
    pub(crate) fn mrs(&mut self, reg: SysReg) -> Option<u64> {
        let pc = self.state.pc;
        let next = self.trap(Trap::SysReg(SysRegAccess::new(reg, 1, false)));
        assert_eq!(next, None);
        (self.state.pc == pc + 4).then_some(self.state.gprs[1])
    }

    /// MSR `reg`, x1. None: it was UNDEFINED.
    pub(crate) fn msr(&mut self, reg: SysReg, value: u64) -> Option<Option<Next>> {
        let pc = self.state.pc;
        self.state.gprs[1] = value;
        let next = self.trap(Trap::SysReg(SysRegAccess::new(reg, 1, true)));
        (self.state.pc == pc + 4).then_some(next)
    }

    /// LDR w1, \[`ipa`\].
    pub(crate) fn load(&mut self, ipa: u64) -> u64 {
        assert_eq!(self.trap(Trap::DataAbort(mmio(ipa, false))), None);
        self.state.gprs[1]
    }

    /// STR w1, \[`ipa`\].
    pub(crate) fn store(&mut self, ipa: u64, value: u64) {
        self.state.gprs[1] = value;
        assert_eq!(self.trap(Trap::DataAbort(mmio(ipa, true))), None);
    }

    /// Whether an interrupt of vCPU 0 is pending (GICv3).
    pub(crate) fn pending(&self, intid: u64) -> bool {
        let (gic, word, bit) = (self.vm.gic.lock(), intid / 32 * 4, intid % 32);
        let pending = match intid {
            0..32 => gic.gicr_read(0x1_0200, 4),
            _ => gic.gicd_read(0, 0x200 + word, 4),
        };
        pending >> bit & 1 != 0
    }
}

/// A word access to w1 that nothing maps.
pub(crate) fn mmio(ipa: u64, write: bool) -> DataAbort {
    DataAbort {
        va: Some(0xffff_0000_0000_0000 | ipa),
        ipa: Some(ipa),
        fault: Fault::Translation,
        write,
        cache_maintenance: false,
        s1ptw: false,
        access: Some(Access { size: 4, rt: 1, sign_extend: false, wide: false }),
    }
}

/// A fetch that nothing maps.
pub(crate) fn fetch(ipa: u64) -> InstrAbort {
    InstrAbort { va: Some(ipa), ipa: Some(ipa), fault: Fault::Translation, s1ptw: false }
}
